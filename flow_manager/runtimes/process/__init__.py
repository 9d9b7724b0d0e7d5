"""Flows as local processes: nothing is isolated."""
