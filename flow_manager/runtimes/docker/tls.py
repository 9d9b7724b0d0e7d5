"""TLS to an engine, as the docker command line does it: DOCKER_TLS_VERIFY, and DOCKER_CERT_PATH for the three files.

(https://docs.docker.com/engine/security/protect-access/, "Secure by default")
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from flow_manager.errors import SettingsRefused

CA, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"


def secured(url: str, environ: Mapping[str, str]) -> tuple[str, ssl.SSLContext | None]:
    """The address to speak to, and with what; None: as `https` does by itself, or without TLS.

    :raises SettingsRefused: a file is missing or can't be used.
    """
    if environ.get("DOCKER_TLS_VERIFY") != "1":
        return url, None
    folder = Path(environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=str(folder / CA))
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or type(error).__name__
        raise SettingsRefused(
            f"DOCKER_TLS_VERIFY=1: {CA}, {CERTIFICATE} and {KEY} in {folder} (DOCKER_CERT_PATH) can't be used: {reason}"
        ) from None
    return f"https://{url.partition('://')[2]}", context
