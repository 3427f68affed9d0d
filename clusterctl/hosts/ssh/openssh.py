"""What the OpenSSH client of this machine makes of ssh_config: `ssh -G` says, and connects to nobody.

It resolves everything that depends on the machine and on the moment (Include, Match, tokens of HostName, canonical host
names), so nothing of this is done a second time here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache

from clusterctl.errors import UsageError
from clusterctl.hosts.ssh.asked import Asked

Answer = Mapping[str, tuple[str, ...]]
"""ssh_config's options for one machine, in lower case, each with its values in order."""

NOISE = ("Pseudo-terminal will not be allocated", "terminating,")
"""What ssh says besides what is wrong."""

LOOP = "jumphost loop"
"""How ssh refuses a host that is its own jump host. It does not see longer circles."""

DEFAULTS_S = 20


class JumpLoopError(UsageError):
    """A host is its own jump host."""


def client() -> str | None:
    """The OpenSSH client of this machine; None where there is none that knows -G (OpenSSH 6.8 and later)."""
    ssh = shutil.which("ssh")
    return ssh if ssh is not None and defaults(ssh) else None


@cache
def defaults(ssh: str) -> Answer:
    """What this client does where no ssh_config says otherwise; nothing for a client that does not know -G."""
    try:
        done = _run([ssh, "-G", "-F", "/dev/null", "localhost"], DEFAULTS_S)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return _parsed(done[1]) if done[0] == 0 else {}


def ask(ssh: str, asked: Asked, deadline_s: float) -> Answer:
    """What ssh would use for this machine. Raises UsageError for what OpenSSH refuses, with its file and line."""
    try:
        code, stdout, stderr = _run([ssh, "-G", *asked.words()], deadline_s)
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"`ssh -G {asked.host}` did not end within {deadline_s:g} s",
            hint="a command of `Match exec` hangs, or a look-up for CanonicalizeHostname; "
            f"try: {' '.join(['ssh', '-G', *asked.words()])}",
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot run `ssh -G {asked.host}`: {error}") from error
    if code != 0 and LOOP in stderr:
        raise JumpLoopError(_refusal(asked, stderr))
    if code != 0:
        raise UsageError(_refusal(asked, stderr), hint="correct it there: ssh itself cannot use it either")
    return _parsed(stdout)


def _refusal(asked: Asked, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines()]
    said = [line for line in lines if line and not any(noise in line for noise in NOISE)]
    return f"OpenSSH refuses the SSH configuration of {asked.host}: " + ("\n  ".join(said) or "without a reason")


def _run(argv: Sequence[str], deadline_s: float) -> tuple[int, str, str]:
    """Exit code, stdout and stderr. At the deadline what the command has started ends too (`Match exec`)."""
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=deadline_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")


def _parsed(text: str) -> Answer:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name:
            found[name.lower()] = (*found.get(name.lower(), ()), value)
    return found
