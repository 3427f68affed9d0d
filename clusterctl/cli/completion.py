"""`clusterctl completion`: print the script for a shell, or put it where the shell finds it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from clusterctl.cli.common import COMPLETE_VARIABLE, PROGRAM, emit, write_file
from clusterctl.errors import ClusterctlError, UsageError

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("words", nargs=-1, metavar="[install] [bash|zsh|fish]", type=click.Choice(["install", *SHELLS]))
@click.pass_context
def completion(context: click.Context, words: tuple[str, ...]) -> None:
    """Let a shell complete commands, options, nodes and finding codes: print the script for it, or install it.

    `install` writes the script to where the shell looks by itself, and says where; without a shell's name it is that
    of $SHELL. Done again, it changes nothing. To undo it, remove the file. bash needs the package bash-completion; zsh
    finds the file once its directory is in fpath before compinit, which is said. Nothing else of yours is edited.
    """
    shells = [word for word in words if word != "install"]
    wants_install = "install" in words
    if len(shells) > 1 or words.count("install") > 1 or (shells and words[-1] == "install"):
        raise UsageError("one shell at a time", hint="clusterctl completion install bash")
    shell = shells[0] if shells else _own_shell() if wants_install else None
    if shell is None:
        raise UsageError("no shell given", hint="clusterctl completion install, or: clusterctl completion bash")
    if wants_install:
        emit("\n".join(install(place(shell), shell, script(context.find_root().command, shell))))
    else:
        emit(script(context.find_root().command, shell))


def script(command: click.Command, shell: str) -> str:
    """What the shell runs. It asks clusterctl for candidates each time."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has had these three since 8.0
    return found(command, {}, PROGRAM, COMPLETE_VARIABLE).source()


def install(path: Path, shell: str, source: str) -> list[str]:
    """Write the script to where the shell looks, unless it is there. Raises ClusterctlError where it cannot."""
    text = source + "\n"
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterctlError(f"cannot write {path}: {error.strerror}") from error
    if old != text:
        write_file(path, text)
    lines = [f"{'already there' if old == text else 'wrote'}: {path}", f"undo: rm {path}"]
    if shell == "zsh":
        lines.append(f"zsh: have `fpath=({path.parent} $fpath)` in ~/.zshrc before compinit")
    return [*lines, f"next: open a new {shell}"]


def place(shell: str) -> Path:
    """Where the shell loads a command's completion from, by the XDG directories.

    bash-completion: $BASH_COMPLETION_USER_DIR or $XDG_DATA_HOME/bash-completion, completions/COMMAND (its README).
    fish: $XDG_CONFIG_HOME/fish/completions/COMMAND.fish (fish's manual). zsh has no directory of a user's own.
    """
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    if shell == "bash":
        own = os.environ.get("BASH_COMPLETION_USER_DIR")
        return (Path(own) if own else data / "bash-completion") / "completions" / PROGRAM
    if shell == "zsh":
        return data / "zsh" / "site-functions" / f"_{PROGRAM}"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return config / "fish" / "completions" / f"{PROGRAM}.fish"


def _own_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError("$SHELL names none of bash, zsh, fish", hint="clusterctl completion install bash")
    return name
