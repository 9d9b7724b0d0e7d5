"""`python -m benchmarks [--quick] [--only NAME]… [--json | --markdown]`: every benchmark in a process of its own, one table at the end."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.rows import Row, machine, markdown, show

HERE = Path(__file__).resolve().parent
# In the order of the table; each is a module here with `run(quick)`.
NAMES = (
    "gateway",
    "proxy",
    "wake",
    "channel",
    "channel_tls",
    "flows",
    "engine",
    "inside",
    "terminals",
    "logs",
    "idle",
    "proxmox",
    "memory",
)


def run_here(name: str, quick: bool) -> list[Row]:
    result = importlib.import_module(f"benchmarks.{name}").run(quick=quick)
    return asyncio.run(result) if inspect.isawaitable(result) else result  # type: ignore[arg-type]


def run_apart(name: str, quick: bool, console: Console) -> list[Row] | None:
    """A fresh process: no benchmark inherits another one's heap, garbage or open sockets. None when it failed."""
    started = time.monotonic()
    console.print(f"· {name} …", highlight=False)
    command = [sys.executable, "-m", "benchmarks", "--here", name, *(["--quick"] if quick else [])]
    # Its report comes over a pipe of its own, so that whatever it prints stays readable.
    reader, writer = os.pipe()
    with os.fdopen(reader) as report:
        process = subprocess.Popen([*command, "--report", str(writer)], cwd=HERE.parent, pass_fds=[writer])
        os.close(writer)
        text = report.read()
        code = process.wait()
    if code or not text:
        console.print(f"[red]!! {name} failed with {code}[/red]")
        return None
    console.print(f"  {time.monotonic() - started:.0f} s", highlight=False)
    rows: list[Row] = json.loads(text)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").split(":")[0])
    available = [name for name in NAMES if (HERE / f"{name}.py").exists()]
    parser.add_argument("--quick", action="store_true", help="fewer repeats: to see that it works, not to quote")
    parser.add_argument("--only", action="append", choices=available, metavar="NAME", help=", ".join(available))
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of the table")
    parser.add_argument("--markdown", action="store_true", help="print the table as the README quotes it")
    parser.add_argument("--here", choices=available, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        rows = run_here(options.here, options.quick)
        with os.fdopen(options.report, "w") as report:
            json.dump(rows, report)
        return 0
    console = Console(stderr=options.json or options.markdown)
    results = [run_apart(name, options.quick, console) for name in options.only or available]
    rows = [row for result in results if result is not None for row in result]
    if options.json:
        print(json.dumps({"machine": machine(), "quick": options.quick, "rows": rows}, indent=2))
    elif options.markdown:
        print(markdown(rows))
    else:
        show(rows, console)
    return 1 if any(result is None for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
