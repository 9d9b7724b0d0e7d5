"""Debian's nginx as upstream and as the proxy to be measured against, each one worker with a folder of its own below /tmp."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 10

_COMMON = """
daemon off; master_process on; worker_processes 1; pid {folder}/pid; error_log stderr crit;
user {user};
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 75s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  open_file_cache max=100;
  {rest}
}}
"""
_STATIC = "server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }}"
# What our own proxy does, too: upstream connections kept, the same headers set.
_PROXY = """
  upstream flow {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://flow; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Port $server_port;
    }}
  }}
"""


def has_nginx() -> bool:
    return _binary() is not None


def _binary() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass(frozen=True, slots=True)
class Nginx:
    port: int
    worker: psutil.Process

    def cpu(self) -> float:
        times = self.worker.cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def static(files: dict[str, int]) -> AsyncIterator[Nginx]:
    """Serve files of these sizes."""
    root = Path(tempfile.mkdtemp(prefix="fm-bench-files-", dir="/tmp"))
    root.chmod(0o755)
    try:
        for name, size in files.items():
            (root / name).write_bytes(b"x" * size)
        async with _running(_STATIC.format(port="{port}", root=root)) as nginx:
            yield nginx
    finally:
        shutil.rmtree(root, ignore_errors=True)


@asynccontextmanager
async def proxying(upstream: int) -> AsyncIterator[Nginx]:
    """`proxy_pass` to a port of this machine."""
    async with _running(_PROXY.format(port="{port}", upstream=upstream)) as nginx:
        yield nginx


@asynccontextmanager
async def _running(rest: str) -> AsyncIterator[Nginx]:
    binary = _binary()
    assert binary is not None
    folder = Path(tempfile.mkdtemp(prefix="fm-bench-nginx-", dir="/tmp"))
    folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "nginx.conf"
    user = "nobody nogroup" if os.getuid() == 0 else ""
    text = _COMMON.format(folder=folder, user=user or "nobody", rest=rest.replace("{port}", str(port)))
    config.write_text(text if user else text.replace("user nobody;\n", ""))
    child = await asyncio.create_subprocess_exec(binary, "-c", str(config), "-p", str(folder))
    try:
        yield Nginx(port, await _worker(child, port))
    finally:
        child.terminate()
        await child.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _worker(child: asyncio.subprocess.Process, port: int) -> psutil.Process:
    async with asyncio.timeout(START_SECONDS):
        while True:
            if child.returncode is not None:
                raise RuntimeError(f"nginx ended with {child.returncode}")
            workers = psutil.Process(child.pid).children()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            if workers:
                return workers[0]
