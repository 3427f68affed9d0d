"""`clusterctl lab`: thin commands over lab.py. Results to stdout, progress to stderr."""

from __future__ import annotations

import json
import re
import shlex
import time
from contextlib import suppress
from dataclasses import asdict
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import click

from clusterctl.errors import ClusterctlError
from clusterctl.lab.commands import Say
from clusterctl.lab.state import MAX_NODES, LabPaths, known_labs, state_root


class LabName(click.ParamType[str]):
    """The name of a lab: it is also the cluster's name in the inventory."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what would not be a cluster's name."""
        if ctx is not None and ctx.resilient_parsing:
            return str(value)  # a shell completes the line: what is refused then is not seen
        from clusterctl.inventory.model import NAME_PATTERN

        if not re.fullmatch(NAME_PATTERN, str(value)):
            self.fail(f"{value!r} must be lower-case letters, digits and dashes, at most 40", param, ctx)
        return str(value)


class Subnet(click.ParamType[IPv4Network]):
    """An IPv4 network."""

    name = "cidr"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IPv4Network:
        """Parse it."""
        try:
            return IPv4Network(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def lab_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For shell completion: the labs of this machine; none when they cannot be read."""
    with suppress(OSError):
        return [name for name in known_labs(state_root()) if name.startswith(incomplete)]
    return []


def lab_nodes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For shell completion: the nodes of the lab named on the line; none when it cannot be read."""
    with suppress(OSError, ClusterctlError):
        spec = LabPaths(state_root(), context.params["name"]).read_spec()
        return [node.name for node in spec.members if node.name.startswith(incomplete)] if spec else []
    return []


NAME = click.option(
    "--name", type=LabName(), default="lab", show_default=True, shell_complete=lab_names, help="Name of the lab."
)
NODE = click.argument("node", shell_complete=lab_nodes)


@click.group("lab")
def lab() -> None:
    """A rehearsal cluster on this machine: real sshd, real Docker Engine or Podman, real Ray, real vLLM (CPU build)."""


@lab.command()
@click.option("--for-tests", is_flag=True, help="Also what this project's tests need: a browser, Prometheus, shells.")
def setup(for_tests: bool) -> None:
    """Install the Debian packages that the lab needs (only missing ones; starts no service)."""
    from clusterctl.lab import packages

    installed = packages.setup(_progress(), tests=for_tests)
    click.echo(f"installed: {' '.join(installed)}" if installed else "nothing to install")
    click.echo("next: clusterctl lab up")


@lab.command()
@NAME
@click.option("--nodes", type=click.IntRange(1, MAX_NODES), help="Number of nodes.  [default: 2]")
@click.option(
    "--gpus", type=click.IntRange(1, 64), help="Accelerators of each node.  [default: 1; with --gpus-of-host all]"
)
@click.option("--gpus-of-host", is_flag=True, default=None, help="Nodes share out this machine's NVIDIA GPUs.")
@click.option(
    "--image", "own_image", help="With --gpus-of-host: an image here, a `docker save` file, or a root directory."
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="With --gpus-of-host: the model's directory, at /models/NAME on the nodes.",
)
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="For the inventory.  [default: ./.lab/NAME]")
@click.option(
    "--ssh-only", is_flag=True, default=None, help="Only sshd: no engine, image or model. Cheap, for many nodes."
)
@click.option(
    "--engine",
    type=click.Choice(["docker", "podman"]),
    help="The nodes' container engine; podman brings a root of Debian 13 of its own.  [default: docker]",
)
@click.option("--subnet", type=Subnet(), help="The nodes' private network.  [default: a free 10.77.K.0/24]")
def up(*, name: str, **options: Any) -> None:
    """Make the lab, or repair it: nodes without power are booted, what is missing is made."""
    from clusterctl.lab import lab as labs

    made = labs.up(name, labs.LabOptions(**options), say=_progress())
    click.echo(f"lab {name}: {made.spec.nodes} nodes in {made.spec.subnet}")
    click.echo(f"next: clusterctl -i {shlex.quote(_short(made.inventory))} up")


@lab.command()
@NAME
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(name: str, as_json: bool) -> None:
    """Show every node: power, network, sshd, engine, address, process."""
    from clusterctl.lab import lab as labs

    opened = labs.open_lab(name)
    nodes = labs.status(opened)
    if as_json:
        values = [{**asdict(node), "address": str(node.address), "disk": str(opened.disk(node.name))} for node in nodes]
        spec = json.loads(opened.spec.to_json())
        spec.pop("nodes")
        click.echo(json.dumps({**spec, "inventory": str(opened.inventory), "nodes": values}, indent=2))
        return
    click.echo(f"lab {name}: {opened.spec.subnet}, {opened.inventory}")
    click.echo(f"{'NODE':10}{'ADDRESS':16}{'POWER':7}{'NETWORK':13}{'SSHD':6}{'ENGINE':8}PID")
    for node in nodes:
        engine = "-" if node.engine is None else _word(node.engine)
        line = f"{node.name:10}{node.address!s:16}{node.power:7}{node.network:13}{_word(node.ssh):6}{engine:8}"
        click.echo(f"{line}{node.pid or '-'}")


@lab.command()
@NAME
@click.option("--purge-cache", is_flag=True, help="Remove the image cache too (the next lab builds it again).")
def down(name: str, purge_cache: bool) -> None:
    """Remove the lab, whole or half, and prove that it is gone. The image cache stays."""
    from clusterctl.lab import lab as labs
    from clusterctl.lab.image import build

    existed = labs.down(name, say=_progress())
    click.echo(f"lab {name} is gone" if existed else f"there is no lab called {name}: nothing to do")
    root = state_root()
    if purge_cache:
        click.echo("the image cache is gone" if build.purge(root) else "there was no image cache")
    elif (root / "images").is_dir():
        click.echo(f"the image cache stays in {root / 'images'} (--purge-cache removes it)")


@lab.command("power-off")
@NAME
@NODE
def power_off(name: str, node: str) -> None:
    """Cut a node's power: everything in it ends at once. Its disk stays."""
    from clusterctl.lab import lab as labs

    labs.power_off(labs.open_lab(name), node)
    click.echo(f"{node} has no power")


@lab.command("power-on")
@NAME
@NODE
def power_on(name: str, node: str) -> None:
    """Boot a node again, from the same disk."""
    from clusterctl.lab import lab as labs

    labs.power_on(labs.open_lab(name), node)
    click.echo(f"{node} is up")


@lab.command()
@NAME
@NODE
def partition(name: str, node: str) -> None:
    """Pull a node's network cable."""
    from clusterctl.lab import lab as labs

    labs.partition(labs.open_lab(name), node)
    click.echo(f"{node} is cut off from the network")


@lab.command()
@NAME
@NODE
def heal(name: str, node: str) -> None:
    """Plug a node's network cable in again."""
    from clusterctl.lab import lab as labs

    labs.heal(labs.open_lab(name), node)
    click.echo(f"{node} is on the network")


def _progress() -> Say:
    started = time.monotonic()
    return lambda line: click.echo(f"[{time.monotonic() - started:6.1f} s] {line}", err=True)


def _word(answers: bool) -> str:
    return "up" if answers else "down"


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
