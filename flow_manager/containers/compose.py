"""Where a container stands in its docker compose project, by the labels that compose writes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from flow_manager.runtimes.docker.identity import COMPOSE_NUMBER, COMPOSE_PROJECT, COMPOSE_SERVICE


def project_of(labels: Mapping[str, str]) -> str | None:
    return labels.get(COMPOSE_PROJECT) or None


def service_of(labels: Mapping[str, str]) -> tuple[str, str] | None:
    """(project, service); None for what compose did not make."""
    project, service = labels.get(COMPOSE_PROJECT), labels.get(COMPOSE_SERVICE)
    return (project, service) if project and service else None


def number_of(labels: Mapping[str, str]) -> int:
    """A service that is scaled has several containers, from 1."""
    text = labels.get(COMPOSE_NUMBER, "1")
    return int(text) if text.isascii() and text.isdigit() else 1
