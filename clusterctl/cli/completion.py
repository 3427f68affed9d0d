"""`clusterctl completion`."""

from __future__ import annotations

import click

from clusterctl.cli.common import COMPLETE_VARIABLE, PROGRAM, emit


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete commands, options, nodes and finding codes.

    bash: `source <(clusterctl completion bash)` in ~/.bashrc. zsh: the same with zsh in ~/.zshrc, after compinit.
    fish: `clusterctl completion fish > ~/.config/fish/completions/clusterctl.fish`.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has had these three since 8.0
    emit(found(context.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE).source())
