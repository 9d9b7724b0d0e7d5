"""A Docker engine for the tests, private to them: `ensure` gives one and prints its DOCKER_HOST, `stop` removes it.

    python3 scripts/engine.py ensure [--name NAME]   # reuses a reachable engine; else starts a private one (root, Linux)
    python3 scripts/engine.py images                 # makes the test images in the engine that `ensure` would give
    python3 scripts/engine.py status | stop [--name NAME]

A private engine touches nothing that others use: its own data and exec folders, its own containerd namespaces, its own
bridge and address range, no rule in the machine's firewall (`--iptables=false`: a second engine would flush the first
one's chains; published ports go through docker-proxy, and flows reach each other over their bridge, without any rule).
Several can run side by side, each under its own name. Needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import engine_api

ROOT = Path(os.environ.get("FLOW_MANAGER_ENGINE_DIR", "/var/tmp/flow-manager-engine"))
USUAL_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
PACKAGES = ("docker.io", "iptables")
SHARED_NAME = "shared"
# A killed dockerd's containerd is killed with it, which takes a busy machine a moment.
DYING_SECONDS = 3.0
START_SECONDS = 60.0  # a cold start takes one second; a busy machine with two cores may need many
STOP_SECONDS = 30.0  # the engine gives its containers their ten seconds each, in parallel


# Kept so that a Popen is not collected, with a warning, while its engine runs on.
_children: list[subprocess.Popen[bytes]] = []


class EngineUnavailable(RuntimeError):
    """There is no engine and none can be started here; the message says what to do."""


@dataclass(frozen=True)
class PrivateEngine:
    """Where one private engine lives. Everything of it lies below `folder`, so that `stop` can find all of it."""

    name: str

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def host(self) -> str:
        return f"unix://{self.folder / 'docker.sock'}"

    @property
    def number(self) -> int:
        """0…4095, from the name: picks this engine's address ranges."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:2], "big") % 4096

    @property
    def bridge(self) -> str:
        return f"fmt{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"  # at most 15 characters

    @property
    def pool(self) -> str:
        """A /20 of the shared address space (RFC 6598, 100.64.0.0/10 has 1,024 of them): seldom in use on a test machine."""
        block = self.number % 1024
        return f"100.{64 + block // 16}.{block % 16 * 16}.0/20"

    def pid(self) -> int | None:
        """The running dockerd's process id; None when it does not run. A reused id is not taken for it."""
        try:
            pid = int((self.folder / "docker.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.folder).encode() in command and _state(pid) != "Z" else None

    def start(self, *arguments: str) -> str:
        """Start it unless it runs, and wait until it answers. Returns its DOCKER_HOST.

        :raises EngineUnavailable: when it does not come up in time; the end of its log is in the message.
        """
        if self.pid() is not None and engine_api.answers(self.host):
            return self.host
        self.stop(keep_data=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        bridge_address = self.pool.replace(".0/20", ".1/24")
        _run("ip", "link", "add", "name", self.bridge, "type", "bridge")
        _run("ip", "address", "add", bridge_address, "dev", self.bridge)
        _run("ip", "link", "set", self.bridge, "up")
        self.launch(*arguments)
        return self.host

    def launch(self, *arguments: str) -> None:
        """Start dockerd alone (its bridge must be there) and wait until it answers; also after a kill, on the same data."""
        (self.folder / "docker.pid").unlink(missing_ok=True)
        # A killed dockerd takes its containerd along; where nobody has reaped that yet, the next dockerd takes the id in
        # the file for a living containerd and waits for it in vain.
        containerd = self.folder / "exec" / "containerd" / "containerd.pid"
        dying = time.monotonic() + DYING_SECONDS
        while containerd.exists():
            if _state(int(containerd.read_text().strip() or "0")) in "ZX":
                containerd.unlink()
            elif time.monotonic() > dying:
                break
            else:
                time.sleep(0.02)
        command = [
            *("dockerd", "--host", self.host, "--group", "root", "--bridge", self.bridge),
            *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "docker.pid"), "--default-address-pool", f"base={self.pool},size=26"),
            *("--containerd-namespace", self.bridge, "--containerd-plugins-namespace", f"plugins.{self.bridge}"),
            *("--iptables=false", "--ip6tables=false", "--ip-masq=false", *arguments),
        ]
        log = self.folder / "dockerd.log"
        with log.open("ab") as output:
            # A session of its own: an interrupt at the terminal must not take the engine away below the tests.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _children.append(process)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if engine_api.answers(self.host):
                return
            if process.poll() is not None:
                break
            time.sleep(0.05)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise EngineUnavailable(f"the private engine did not start (see {log}):\n{tail}")

    def stop(self, *, keep_data: bool = False) -> None:
        """End it and everything below it, by process id, and remove its folder, mounts and bridges."""
        pid = self.pid()
        if pid is not None:
            _end(pid, STOP_SECONDS)
        for child in [child for child in _children if child.poll() is not None]:
            # Asked for its end, so that it is collected without a warning.
            _children.remove(child)
        # A killed engine leaves its containerd and the shims with the flows in them: their command lines name our folder.
        for _ in range(20):
            rest = _processes_of(self.folder)
            if not rest:
                break
            for left in rest:
                _end(left, 3.0)
        for mount in sorted(_mounts_below(self.folder), key=len, reverse=True):
            subprocess.run(["umount", "--lazy", mount], capture_output=True)
        for link in _bridges(self):
            subprocess.run(["ip", "link", "delete", link], capture_output=True)
        if not keep_data:
            shutil.rmtree(self.folder, ignore_errors=True)


def find() -> str | None:
    """The DOCKER_HOST of an engine that answers: the environment's, the usual socket's, or the shared private one's."""
    configured = os.environ.get("DOCKER_HOST")
    if configured:
        return configured if engine_api.answers(configured) else None
    candidates = [f"unix://{path}" for path in USUAL_SOCKETS if Path(path).is_socket()]
    return next((host for host in [*candidates, PrivateEngine(SHARED_NAME).host] if engine_api.answers(host)), None)


def ensure(name: str | None = None) -> str:
    """A reachable engine's DOCKER_HOST; a private one is started (and docker.io installed) when there is none.

    With a `name` it is always that private one. :raises EngineUnavailable: with what to do about it.
    """
    with _lock():
        if name is None and (host := find()) is not None:
            return host
        if name is None and os.environ.get("DOCKER_HOST"):
            raise EngineUnavailable(f"no engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}")
        prepare()
        return PrivateEngine(name or SHARED_NAME).start()


def sweep() -> None:
    """Remove the engines of test runs that were killed: their names end in the id of a process that is gone."""
    for folder in ROOT.glob("*-pid*"):
        owner = folder.name.rpartition("-pid")[2]
        if owner.isdigit() and _state(int(owner)) in "ZX":
            PrivateEngine(folder.name).stop()


def prepare() -> None:
    """Make sure that an engine can be started here: root, and dockerd installed. :raises EngineUnavailable:"""
    if os.geteuid() != 0:
        raise EngineUnavailable(
            "no Docker engine answers, and only root can start one: start Docker, or set DOCKER_HOST"
        )
    if shutil.which("dockerd") and shutil.which("ip"):
        return
    if not shutil.which("apt-get"):
        raise EngineUnavailable("no Docker engine answers, and this is not Debian or Ubuntu: install and start Docker")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Debian starts a service right after installing it; a policy of 101 says no (invoke-rc.d(8)).
    with _no_services():
        for arguments in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *PACKAGES, "iproute2"]):
            done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True)
    if not shutil.which("dockerd"):
        raise EngineUnavailable(f"apt-get could not install {' '.join(PACKAGES)}: {done.stderr.strip()[-500:]}")


@contextmanager
def _no_services() -> Iterator[None]:
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


@contextmanager
def _lock() -> Iterator[None]:
    """Two test runs must not start the same engine at once."""
    try:
        ROOT.mkdir(parents=True, exist_ok=True)
        handle = (ROOT / "lock").open("w")
    except OSError:  # another user's folder: without the right to write there nothing can be started, only found
        yield
        return
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "File exists" not in done.stderr:
        raise EngineUnavailable(f"{' '.join(command)}: {done.stderr.strip()}")


def _state(pid: int) -> str:
    """R, S, T (stopped), Z (ended) …, or X when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _gone(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)  # it may be our own child, then nobody else takes its status
    except ChildProcessError:
        pass
    return _state(pid) in "ZX"


def _end(pid: int, seconds: float) -> None:
    """TERM, then KILL after `seconds`. A frozen process is let go on first, or it would never see the TERM."""
    for number in (signal.SIGCONT, signal.SIGTERM):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
    deadline = time.monotonic() + seconds
    while not _gone(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + seconds
        time.sleep(0.02)


def _processes_of(folder: Path) -> list[int]:
    """containerd, its shims and docker-proxy's parents: whoever names the engine's own exec folder."""
    marker = f"{folder}/exec".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if marker in (entry / "cmdline").read_bytes() and _state(int(entry.name)) not in "ZX":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [mount for line in lines if (mount := line.split()[1]).startswith(f"{folder}/")]


def _bridges(engine: PrivateEngine) -> list[str]:
    """Its own bridge, and those of networks that it made: their addresses lie in its range."""
    from ipaddress import ip_address, ip_network

    pool = ip_network(engine.pool)
    done = subprocess.run(["ip", "-j", "address", "show", "type", "bridge"], capture_output=True, text=True)
    links = json.loads(done.stdout or "[]")
    return [
        link["ifname"]
        for link in links
        if link.get("ifname") == engine.bridge
        or any("." in a.get("local", "") and ip_address(a["local"]) in pool for a in link.get("addr_info", ()))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("ensure", "images", "status", "stop"))
    parser.add_argument("--name", help="a private engine of this name, whatever else answers")
    options = parser.parse_args()
    try:
        if options.command == "stop":
            PrivateEngine(options.name or SHARED_NAME).stop()
            return 0
        if options.command == "status":
            host = PrivateEngine(options.name).host if options.name else find()
            if host is None or not engine_api.answers(host):
                raise EngineUnavailable("no Docker engine answers")
        else:
            host = ensure(options.name)
        if options.command == "images":
            import images

            images.ensure(host)
        print(host)
    except (EngineUnavailable, engine_api.EngineError) as exc:
        print(f"engine: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
