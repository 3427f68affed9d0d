"""Commands of this machine: argv lists, a deadline on each, and an error that shows what was run and what it said."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from clusterctl.errors import ClusterctlError

Say = Callable[[str], None]
"""Where progress goes: one line, without its newline."""

_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


class CommandError(ClusterctlError):
    """A command of this machine failed; `output` is what it printed."""

    def __init__(self, argv: Sequence[str], reason: str, output: str) -> None:
        self.output = output
        tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-12:])
        super().__init__(f"`{shlex.join(argv)[:300]}` {reason}" + (f":\n{tail}" if tail else ""))


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 60,
    stdin: str | IO[bytes] = "",
    env: Mapping[str, str] | None = None,
    tied: bool = False,
) -> str:
    """Run a command and return what it printed on stdout. Anything but exit code 0 is an error.

    A `tied` command is killed when this process dies, however it dies: what writes into the lab's state must not go on
    while a second run repairs that state.
    """
    whole = [*(_DIES_WITH_US if tied else ()), *argv]
    try:
        done = subprocess.run(
            whole,
            **({"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=env,
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired as expired:
        raise CommandError(argv, f"did not end within {timeout_s:g} s", _text(expired.stderr)) from expired
    except OSError as error:
        raise CommandError(argv, f"could not be started ({error})", "") from error
    if done.returncode != 0:
        raise CommandError(argv, f"ended with exit code {done.returncode}", done.stderr or done.stdout)
    return done.stdout


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
