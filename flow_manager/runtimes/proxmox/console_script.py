r"""What is typed into a container's console, and what comes back of it. Pure.

Only a line is typed into the shell that is found there, whichever it is; it starts `/bin/sh`, which reads the rest in lines that
it acknowledges: a terminal takes no longer ones than 4 KB, and loses what comes while nobody reads. They are the format of a
`printf`, in which everything but plain ASCII is written as `\ooo`, so that no key has a meaning on its way.

Everything that comes back stands between `<nonce:` and `>`, with a nonce that is never typed as part of such a word: what a
shell echoes, another's output and the screen's own sequences are told apart from it.

In there it takes a POSIX shell (dash, busybox ash, bash), `mkdir`, `mkfifo`, `cat`, `rm`, `sleep`, `grep`, and
`base64` or `od`; with `stty` and `setsid`, where they are, more is as it should be.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flow_manager.runtimes.inside import BEST_SHELL, MARK

# Well below the 4,095 bytes that the kernel's line discipline takes.
LINE_BYTES = 2000
# The unit of `ulimit -f` (POSIX; bash, where it isn't called sh, takes twice that).
BLOCK = 512
KILL_LINE = b"\x05\x15"
INTERRUPT = b"\x03"
# A size that no client may ask for (1 to 1000): the one thing that reaches a terminal whatever its program does with keys.
# What watches for it inside ends all that the terminal started.
END_COLS, END_ROWS = 1013, 1009
# A shell that is older than this was not made for us (by us it is within seconds): it's left as it was found.
FOUND_SECONDS = 30
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_LOADER = (
    "stty sane -echo;n={nonce};printf \"\\r\\n<%s:go>\" $n;s=;"
    "while IFS= read -r l;do case $l in .)break;;esac;s=$s$l;printf \"<%s:ok>\" $n;done;eval \"$(printf \"$s\")\""
)  # fmt: skip

# `leave` tells whether the shell that we came from ends with us; the line that started us does it.
_COMMON = """:
n={nonce}
m={mark_name}={mark}
exec 3<&0
start_of() {{
  {{ read -r l <"/proc/$1/stat"; }} 2>/dev/null || return 1
  set -- ${{l##*) }}
  shift 19
  t=$1
}}
bye=bye
if start_of $PPID; then
  a=$t
  start_of $$ && [ $((t - a)) -gt {found} ] && bye=stay
fi
session_of() {{
  {{ read -r l <"/proc/$1/stat"; }} 2>/dev/null || return 1
  set -- ${{l##*) }}
  q=$1
  s=$4
}}
find_them() {{
  them=
  for f in $(grep -al -e "$m" /proc/[0-9]*/environ 2>/dev/null); do
    f=${{f#/proc/}}
    f=${{f%/environ}}
    session_of $f && [ "$q" != Z ] && them="$them $f"
  done
  if [ -n "$wanted" ]; then
    for f in /proc/[0-9]*; do
      f=${{f#/proc/}}
      case "$spared $$ " in *" $f "*) continue ;; esac
      session_of $f && [ "$s" = "$wanted" ] && [ "$q" != Z ] && them="$them $f"
    done
  fi
  [ -n "$them" ]
}}
nap() {{
  sleep 0.1 2>/dev/null || sleep 1
}}
end_them() {{
  for r in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    find_them || return 0
    if [ $r -le "$1" ]; then
      kill -HUP $them 2>/dev/null
      kill -CONT $them 2>/dev/null
    else
      kill -KILL $them 2>/dev/null
    fi
    nap
  done
  ! find_them
}}
leave() {{
  stty sane <&3 2>/dev/null
  printf '\\r\\n<%s:end:%s:%s:%s>' $n $1 $2 $bye
  [ $bye = bye ]
  exit $?
}}
"""

_EXEC = """
umask 077
for t in /tmp /dev/shm /run /var/tmp; do
  d=$t/.flow-$n
  mkdir "$d" 2>/dev/null && break
  d=
done
[ -n "$d" ] || leave N 0
mkfifo "$d/o" "$d/e" || {{ rm -rf "$d"; leave N 0; }}
printf %s {runner} >"$d/s" || {{ rm -rf "$d"; leave N 0; }}
: >"$d/o.kept"
: >"$d/e.kept"
keep() {{
  ( ulimit -c 0; ulimit -f {blocks}; exec cat <&4 >"$d/$1.kept" )
  cat <&4 >/dev/null
  : 2>/dev/null >"$d/$1.over"
}}
( exec 4<"$d/o" 3<&-; keep o ) 2>/dev/null &
( exec 4<"$d/e" 3<&-; keep e ) 2>/dev/null &
started=
over=
trap 'over=1' INT
apart=
command -v setsid >/dev/null 2>&1 && apart=setsid
set -m 2>/dev/null
( $apart /bin/sh "$d/s" "$d"; exit $? ) >"$d/o" 2>"$d/e" </dev/null 3<&- &
p=$!
set +m 2>/dev/null
printf '<%s:run>' $n
wait $p
c=$?
k=E
if [ -n "$over" ]; then
  wanted=
  spared=
  {{ read -r wanted <"$d/p"; }} 2>/dev/null
  k=T
  end_them 0 || k=L
  kill -KILL $p 2>/dev/null
else
  for r in 1 2 3 4 5 6 7 8 9 10 11 12; do
    [ -e "$d/o.over" ] && [ -e "$d/e.over" ] && break
    nap
  done
fi
trap '' INT
[ -e "$d/nowhere" ] && k=F
if command -v base64 >/dev/null 2>&1; then
  enc() {{ base64; }}
  way=base64
else
  enc() {{ od -An -v -tx1; }}
  way=hex
fi
printf '\\r\\n<%s:out:%s>' $n $way
enc <"$d/o.kept"
printf '<%s:err>' $n
enc <"$d/e.kept"
printf '<%s:done>' $n
rm -rf "$d"
leave $k $c
"""

_RUNNER = """echo $$ >"$1/p"
{exports}{folder}exec {command}
"""

_TERMINAL = """
stty sane <&3 2>/dev/null
wanted=
session_of $$ && wanted=$s
spared=" "
if [ -n "$wanted" ]; then
  for f in /proc/[0-9]*; do
    f=${{f#/proc/}}
    session_of $f && [ "$s" = "$wanted" ] && spared="$spared$f "
  done
fi
watch_size() {{
  trap '' HUP INT QUIT TSTP
  {{ read -r me l </proc/self/stat; }} 2>/dev/null && spared="$spared$me "
  while sleep 1; do
    case "$(stty size <&3 2>/dev/null)" in
      "{end_rows} {end_cols}") end_them 5; return ;;
    esac
  done
}}
watch_size &
w=$!
trap : INT QUIT
{susp}printf '<%s:run>' $n
(
{exports}{folder}exec {command}
) 3<&-
c=$?
trap '' INT QUIT TTOU TTIN
k=E
kill -KILL $w 2>/dev/null
end_them 5 || k=L
leave $k $c
"""


def loading(nonce: str) -> bytes:
    """The one line that is typed into whichever shell is there. The blank in front keeps it out of most histories."""
    return f" /bin/sh -c '{_LOADER.format(nonce=nonce)}' && exit\n".encode()


def lines(script: str) -> Iterator[bytes]:
    """The script as the loader takes it. Each line but the last is acknowledged."""
    text = "".join(_escaped(byte) for byte in script.encode("utf-8", "surrogateescape"))
    for start in range(0, len(text), LINE_BYTES):
        yield text[start : start + LINE_BYTES].encode() + b"\n"
    yield b".\n"


def _escaped(byte: int) -> str:
    if byte == 0x25:
        return "%%"
    return chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\{byte:03o}"


def run(
    nonce: str, mark: str, argv: tuple[str, ...], environment: Mapping[str, str], folder: str | None, limit: int
) -> str:
    """The script of an exec. Of each output some more than `limit` bytes is kept, which tells that it was cut.

    By a limit on the file's size: `head` would hold back what it has read until the end of what may have none.
    """
    runner = _RUNNER.format(
        exports=_exports(environment, mark),
        folder=_enter(folder, 'touch "$1/nowhere"; '),
        command=_command(environment, argv),
    )
    return _common(nonce, mark) + _EXEC.format(runner=shlex.quote(runner), blocks=limit // BLOCK + 2)


def terminal(nonce: str, mark: str, argv: tuple[str, ...], environment: Mapping[str, str], folder: str | None) -> str:
    return _common(nonce, mark) + _TERMINAL.format(
        exports=_exports(environment, mark),
        folder=_enter(folder, f"echo {shlex.quote(f'{folder}: no such folder')}; "),
        command=_command(environment, argv),
        susp="" if argv == BEST_SHELL else "stty susp undef <&3 2>/dev/null\n",
        end_rows=END_ROWS,
        end_cols=END_COLS,
    )


def nothing(nonce: str) -> str:
    """For who came in and doesn't want anything any more."""
    return _common(nonce, nonce) + "leave E 0\n"


def _common(nonce: str, mark: str) -> str:
    # In the kernel's ticks, 100 a second on every machine that runs this.
    return _COMMON.format(nonce=nonce, mark_name=MARK, mark=mark, found=FOUND_SECONDS * 100)


def _exports(environment: Mapping[str, str], mark: str) -> str:
    named = {name: value for name, value in environment.items() if _NAME.match(name)}
    # The mark comes last: nothing that was asked for can take its place.
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in {**named, MARK: mark}.items())


def _enter(folder: str | None, told: str) -> str:
    """`cd` reads a leading dash as an option, and `-` as another folder."""
    if folder is None:
        return ""
    path = folder if folder.startswith("/") else f"./{folder}"
    return f"cd {shlex.quote(path)} 2>/dev/null || {{ {told}exit 126; }}\n"


def _command(environment: Mapping[str, str], argv: tuple[str, ...]) -> str:
    # Names that no shell takes (`a.b`) are set by `env`.
    odd = [f"{name}={value}" for name, value in environment.items() if not _NAME.match(name)]
    return shlex.join((*(("env", *odd) if odd else ()), *argv))


@dataclass(frozen=True, slots=True)
class Ended:
    """`how`: E it ended, T it was ended at its time, L that failed, F its folder is not there, N nowhere to put files.

    `leaves`: the shell in which all this was, too.
    """

    how: str
    code: int
    leaves: bool


def ended(said: str) -> Ended | None:
    """The script's last word, `end:HOW:CODE:bye`; None where it is none."""
    parts = said.split(":")
    if len(parts) != 4 or parts[0] != "end" or not parts[2].isdigit():
        return None
    return Ended(parts[1], int(parts[2]), parts[3] == "bye")


def decoded(way: str, data: bytes) -> bytes:
    """What `base64` or `od` wrote on a terminal. :raises ValueError: something else came in between."""
    plain = bytes(byte for byte in data if byte not in b" \t\r\n")
    return base64.b64decode(plain, validate=True) if way == "base64" else bytes.fromhex(plain.decode("ascii"))
