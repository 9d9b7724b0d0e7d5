"""Commands in memory flows: what `exec` runs there.

| command | does |
| --- | --- |
| `true`, `false` | 0, 1 |
| `exit N` | ends with code N |
| `echo WORD…` | writes its words |
| `complain WORD…` | writes them to standard error |
| `repeat WORD N` | writes the word N times |
| `sleep SECONDS` | ends after so long, by the runtime's `sleep` |
| `cat` | has no input, so it ends at once |
| `env` | writes its environment as NAME=value |
| `pwd` | writes its working directory |

Anything else is a command that does not exist (127). `MemoryEngine.commands` takes further ones, and in place of these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from flow_manager.runtimes.inside import ExecOutcome

NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class Call:
    """What a command of a memory flow gets. `environment`: the flow's own and what came with the exec."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    working_dir: str
    sleep: Callable[[float], Awaitable[None]]


Program = Callable[[Call], Awaitable[ExecOutcome]]


def wrote(text: str = "", *, code: int = 0, errors: str = "") -> ExecOutcome:
    return ExecOutcome(code, text.encode(), errors.encode())


async def true(_: Call) -> ExecOutcome:
    return wrote()


async def false(_: Call) -> ExecOutcome:
    return wrote(code=1)


async def exit_with(call: Call) -> ExecOutcome:
    return wrote(code=int(call.argv[1]) if len(call.argv) > 1 else 0)


async def echo(call: Call) -> ExecOutcome:
    return wrote(" ".join(call.argv[1:]) + "\n")


async def complain(call: Call) -> ExecOutcome:
    return wrote(errors=" ".join(call.argv[1:]) + "\n")


async def repeat(call: Call) -> ExecOutcome:
    return wrote(call.argv[1] * int(call.argv[2]))


async def sleep(call: Call) -> ExecOutcome:
    await call.sleep(float(call.argv[1]))
    return wrote()


async def env(call: Call) -> ExecOutcome:
    return wrote("".join(f"{name}={value}\n" for name, value in call.environment.items()))


async def pwd(call: Call) -> ExecOutcome:
    return wrote(f"{call.working_dir}\n")


COMMANDS: Mapping[str, Program] = {
    "true": true,
    "false": false,
    "exit": exit_with,
    "echo": echo,
    "complain": complain,
    "repeat": repeat,
    "sleep": sleep,
    "cat": true,
    "env": env,
    "pwd": pwd,
}


def capped(outcome: ExecOutcome, limit: int) -> ExecOutcome:
    cut = max(len(outcome.stdout), len(outcome.stderr)) > limit
    return ExecOutcome(
        outcome.exit_code, outcome.stdout[:limit], outcome.stderr[:limit], truncated=outcome.truncated or cut
    )
