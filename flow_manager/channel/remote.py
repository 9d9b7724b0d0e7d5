"""The channel for flows on other machines: the same lines over TLS, on one port for all (wire contract, section 7)."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from flow_manager.channel import certificates
from flow_manager.channel.door import BACKLOG, Door
from flow_manager.channel.flow import FlowChannel
from flow_manager.channel.kept import kept
from flow_manager.channel.tokens import KEY_BYTES, ChannelTokens
from flow_manager.errors import SettingsRefused
from flow_manager.settings.checks import channel_address
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.clock import Clock
from flow_manager.util.hosts import parse_authority


class RemoteChannel:
    """Listens between `open` and `close`, and lets nobody in before `welcome`."""

    def __init__(self, settings: ChannelSettings, folder: Path, clock: Clock) -> None:
        """`folder`: where the key and the certificate are kept; closed to others."""
        self._settings = settings
        self._folder = folder
        self._clock = clock
        self._listening: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._tokens: ChannelTokens | None = None
        self._variables: dict[str, str] = {}
        self._door: Door | None = None

    @property
    def enabled(self) -> bool:
        return self._settings.tls_listen is not None

    @property
    def url(self) -> str:
        """What flows are told to connect to; empty where it is switched off."""
        return self._variables.get("FLOW_URL", "")

    def open(self) -> None:
        """Listen where settings say so; who connects waits until `welcome`.

        :raises SettingsRefused: with the setting and the remedy.
        """
        if self._settings.tls_listen is None:
            return
        self._listening = _listen(self._settings.tls_listen)
        host, port = self._address(self._listening.getsockname()[1])
        settings = self._settings
        authority: bytes | None = None
        if settings.tls_cert is None:
            self._context, authority = certificates.own(self._folder, host, self._clock.now())
        else:
            self._context = certificates.server_context(settings.tls_cert, settings.tls_key)
            if settings.tls_ca is not None:
                authority = certificates.authority_of(settings.tls_ca)
        certificates.prove(self._context, host, authority)
        try:
            self._tokens = ChannelTokens(kept(self._folder / "token.key", lambda: secrets.token_bytes(KEY_BYTES)))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SettingsRefused(f"channel.tls_listen: {self._folder}/token.key can't be used ({reason})") from None
        self._variables = {"FLOW_URL": f"tls://{f'[{host}]' if ':' in host else host}:{port}"}
        if authority is not None:
            self._variables["FLOW_CA"] = certificates.one_line(authority)

    def welcome(self, find: Callable[[str], FlowChannel | None]) -> None:
        """Let flows in; `find` gives the channel of one that is expected. Does nothing where it is switched off."""
        if self._listening is None or self._context is None or self._tokens is None or self._door is not None:
            return
        loop = asyncio.get_running_loop()
        self._door = Door(self._listening, self._context, self._tokens, find, self._clock.monotonic, loop)
        self._door.open()

    async def close(self) -> None:
        if self._door is not None:
            await self._door.close()
            self._door = None
        elif self._listening is not None:
            self._listening.close()
        self._listening = None

    def variables(self, flow_id: str) -> dict[str, str]:
        """What the flow needs in its environment, its token among it; empty where the port is switched off."""
        if self._tokens is None:
            return {}
        return {**self._variables, "FLOW_TOKEN": self._tokens.token(flow_id)}

    def _address(self, listens_on: int) -> tuple[str, int]:
        """:raises SettingsRefused: nobody can know it."""
        address = parse_authority(self._settings.tls_address or self._settings.tls_listen or "")
        if (lines := channel_address(self._settings)) or address is None:
            raise SettingsRefused("\n".join(lines))
        return address.name, address.port or listens_on


def _listen(where: str) -> socket.socket:
    """:raises SettingsRefused: it can't be listened on."""
    address = parse_authority(where)
    if address is None or address.port is None:
        raise SettingsRefused(f"channel.tls_listen: {where!r} is no host:port")
    try:
        family, *_, target = socket.getaddrinfo(
            address.name, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(target)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise SettingsRefused(f"channel.tls_listen: {where} can't be listened on ({error.strerror})") from None
    return listening
