"""`clusterctl init`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from clusterctl.actions.init import Given
    from clusterctl.proposal.choice import Choice

TEMPLATES = ("one-server", "two-servers-infiniband", "two-sparks", "four-sparks", "lab")
"""templates/inventories/NAME.yaml."""


@click.command()
@json_option
@click.option("--hosts", metavar="HOST,...", help="The machines, each as [user@]host[:port]; the first is the head.")
@click.option("--user", help="Login name (default: from ssh_config, otherwise your own).")
@click.option("--jump", metavar="HOST", help="Jump host, as [user@]host[:port].")
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="Private key file.")
@click.option("--known-hosts", type=click.Path(path_type=Path, dir_okay=False), help="File with the nodes' host keys.")
@click.option("--model", metavar="DIR", help="The model's directory on the nodes (default: searched for).")
@click.option("--image", metavar="REF", help="The image with vLLM in it (default: searched for on the nodes).")
@click.option("--yes", is_flag=True, help="Ask nothing: take what is proposed.")
@click.option(
    "--template", type=click.Choice(TEMPLATES), help="Write an example of this shape instead; nothing is contacted."
)
@click.pass_obj
def init(
    options: Options,
    *,
    as_json: bool,
    hosts: str | None,
    user: str | None,
    jump: str | None,
    key: Path | None,
    known_hosts: Path | None,
    model: str | None,
    image: str | None,
    yes: bool,
    template: str | None,
) -> None:
    """Look at machines that no inventory describes yet, and write one for them, with reasons: the file of -i.

    Network, image, model, GPUs and sizes are those that it finds. Changes nothing on the nodes, and overwrites no file.
    Without --yes it asks, at a terminal.

    Exit codes: 0 written, 1 when no node answers or the answer was no, 2 when the file exists already.
    """
    from clusterctl.actions.init import Given, refuse_existing

    refuse_existing(options.path)
    given_options = {"--hosts": hosts, "--user": user, "--jump": jump, "--model": model, "--image": image}
    if template is not None:
        if any(value is not None for value in (*given_options.values(), key, known_hosts)):
            raise UsageError("--template goes with no other choice: it is an example, to be edited")
        _example(options, template, as_json=as_json)
        return
    may_ask = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty() and not yes and not as_json
    if hosts is None:
        if not may_ask:
            raise UsageError("no hosts given", hint="clusterctl init --hosts gpu1,gpu2 --yes")
        hosts = click.prompt("Machines, with commas between them ([user@]host[:port])", err=True)
    elif not may_ask and not yes and not as_json:
        raise UsageError("there is no terminal to ask at", hint="--yes takes what is proposed without questions")
    names = tuple(host.strip() for host in (hosts or "").split(",") if host.strip())
    if not names:
        raise UsageError("no hosts given", hint="clusterctl init --hosts gpu1,gpu2 --yes")
    given = Given(names, user, jump, key, known_hosts, model, image, cluster=_cluster_of(options.path))
    _look_and_write(options, given, as_json=as_json, may_ask=may_ask)


def _cluster_of(path: Path) -> str:
    """The file's name where it is one: prod.yaml describes `prod`."""
    stem = path.name.partition(".")[0].lower()
    return stem if re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", stem) and stem != "inventory" else "vllm"


def _look_and_write(options: Options, given: Given, *, as_json: bool, may_ask: bool) -> None:
    from clusterctl.actions.init import propose, write
    from clusterctl.findings.waivers import waivers
    from clusterctl.modes.rules import mode_rules
    from clusterctl.ui import init as shown
    from clusterctl.ui.progress import progress_on_stderr

    if may_ask:
        # Not inside a spinner, which would draw over the questions.
        from clusterctl.progress import SILENT

        click.echo("looking at the nodes …", err=True)
        draft = propose(given, accept_new_host_keys=options.accept_new_host_keys, progress=SILENT, ask=_ask)
        click.echo("\n".join(shown.proposal_lines(draft)), err=True)
        if not click.confirm(f"Write {options.path}?", default=True, err=True):
            click.echo("nothing was written", err=True)
            sys.exit(ExitCode.FAILED)
    else:
        with progress_on_stderr() as progress:
            draft = propose(given, accept_new_host_keys=options.accept_new_host_keys, progress=progress)
    written = write(draft, options.path, (waivers, mode_rules))
    if as_json:
        emit(shown.to_json(written))
    else:
        emit("\n".join([*([] if may_ask else shown.proposal_lines(draft)), *shown.written_lines(written)]))


def _ask(choice: Choice) -> str:
    if choice.missing:
        click.echo(f"{choice.field}: {choice.why}", err=True)
        return str(click.prompt(choice.field, default=choice.value, err=True))
    if not choice.rejected:
        return str(choice.value)
    click.echo(f"{choice.field}: {choice.value} ({choice.why})", err=True)
    for each in choice.rejected:
        click.echo(f"  or {each.value} ({each.why_not})", err=True)
    return str(click.prompt(choice.field, default=choice.value, err=True))


def _example(options: Options, template: str, *, as_json: bool) -> None:
    from clusterctl.actions.init import write_example

    write_example(template, options.path)
    if as_json:
        emit({"path": str(options.path), "template": template})
    else:
        emit(f"wrote {options.path}: edit hosts, addresses, image and model in it")
        emit(f"next: clusterctl -i {options.path} check")
