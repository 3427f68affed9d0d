"""`clusterctl layout`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ClusterctlError, ExitCode, UsageError

if TYPE_CHECKING:
    from clusterctl.facts.fact import Unknown
    from clusterctl.layout.estimate import Workload
    from clusterctl.layout.report import Report


class Bytes(click.ParamType[int]):
    """A size with its unit: 80GiB, 141GB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Its bytes."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", str(value))
        if match is None:
            self.fail(f"{value!r} is no size: write it as 80GiB or 141GB", param, ctx)
        return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))


BYTES = Bytes()


@click.command()
@json_option
@click.option("--requests", type=click.IntRange(min=1), default=256, show_default=True, help="Requests at once.")
@click.option("--input-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of each request.")
@click.option("--output-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of each request.")
@click.option("--bandwidth", is_flag=True, help="First measure the TCP throughput between the nodes (seconds).")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Plan without an inventory: for this model's directory, or its GGUF file.",
)
@click.option("--nodes", type=click.IntRange(min=1), help="With --model: nodes (default: 1).")
@click.option("--gpus", type=click.IntRange(min=1), help="With --model: GPUs of each node (default: 1).")
@click.option("--memory", type=BYTES, metavar="SIZE", help="With --model: memory of each GPU, as 80GiB or 141GB.")
@click.option("--gpu", metavar="NAME", help="With --model: what the GPUs are called (H100, GB10 …).")
@click.option(
    "--link", type=click.FloatRange(min=0.001), metavar="GBIT", help="With --model: Gbit/s between the nodes."
)
@click.option(
    "--max-model-len", type=click.IntRange(min=1), help="With --model: longest request (default: the model's)."
)
@click.pass_obj
def layout(
    options: Options,
    *,
    as_json: bool,
    requests: int,
    input_tokens: int,
    output_tokens: int,
    bandwidth: bool,
    model: Path | None,
    nodes: int | None,
    gpus: int | None,
    memory: int | None,
    gpu: str | None,
    link: float | None,
    max_model_len: int | None,
) -> None:
    """Show how the model is spread over the nodes, whether it fits, and which other ways to serve it are faster.

    Speeds are estimates from the model's and the accelerators' figures, for the workload that the options describe.
    Changes nothing.

    With --model nothing is contacted and no inventory is read: clusterctl layout --model DIR --nodes 2 --gpus 8
    --memory 80GiB --gpu H100 --link 100
    """
    from clusterctl.facts.fact import Unknown
    from clusterctl.layout.estimate import Workload
    from clusterctl.ui import layout as layout_text

    work = Workload(requests, input_tokens, output_tokens)
    only_planned = {"--nodes": nodes, "--gpus": gpus, "--memory": memory, "--gpu": gpu, "--link": link}
    only_planned["--max-model-len"] = max_model_len
    if model is not None:
        if bandwidth:
            raise UsageError("--bandwidth asks nodes, and --model asks none", hint="give --link, in Gbit/s")
        machines = Machines(nodes or 1, gpus or 1, memory, gpu, link)
        found = _planned(model, machines, max_model_len, work)
    elif given := [name for name, value in only_planned.items() if value is not None]:
        raise UsageError(f"{given[0]} goes with --model only", hint="with an inventory the nodes themselves are asked")
    else:
        found = _of_nodes(options, work, bandwidth=bandwidth)
    if isinstance(found, Unknown) and model is not None:
        raise UsageError(
            f"no layout can be computed: {found.reason}", hint="give the model's own directory, or its file"
        )
    if isinstance(found, Unknown):
        raise ClusterctlError(f"no layout can be computed: {found.reason}", hint="clusterctl check shows what is wrong")
    emit(layout_text.to_json(found) if as_json else layout_text.text(found))
    if not found.chosen.possible:
        sys.exit(ExitCode.FAILED)


@dataclass(frozen=True)
class Machines:
    """What the options say of them."""

    nodes: int
    gpus: int
    memory_bytes: int | None
    gpu: str | None
    gbit_per_s: float | None


def _planned(directory: Path, machines: Machines, request_tokens: int | None, work: Workload) -> Report | Unknown:
    from clusterctl.facts.model_here import model_here
    from clusterctl.layout.links import LATENCY_S, Hardware, Link, named_inside
    from clusterctl.layout.memory import UNIFIED
    from clusterctl.layout.report import planned

    try:
        files = model_here(directory)
    except OSError as error:
        raise UsageError(f"cannot read {directory}: {error.strerror}") from error
    between = (
        Link("TCP", machines.gbit_per_s * 1e9 / 8, LATENCY_S["TCP"], measured=False) if machines.gbit_per_s else None
    )
    hardware = Hardware(
        nodes=tuple(f"node{number}" for number in range(1, machines.nodes + 1)),
        per_node=machines.gpus,
        gpu=machines.gpu,
        gpu_memory_bytes=machines.memory_bytes,
        inside=named_inside(machines.gpu, machines.gpus) if machines.gpu else None,
        between=between if machines.nodes > 1 else None,
        unified_memory=machines.gpu is not None and UNIFIED.search(machines.gpu) is not None,
    )
    return planned(directory.resolve().name, files, hardware, request_tokens, work)


def _of_nodes(options: Options, work: Workload, *, bandwidth: bool) -> Report | Unknown:
    from clusterctl.facts.cluster import DeepFacts
    from clusterctl.facts.gather import gather
    from clusterctl.layout.report import report
    from clusterctl.preflight.network import gather_pairs

    inventory = options.inventory()
    with options.hosts(inventory) as hosts:
        facts = gather(hosts, inventory)
        if bandwidth:
            pairs = gather_pairs(hosts, inventory, facts, bandwidth=True)
            facts = replace(facts, deep=DeepFacts(images={}, gpus_wanted=0, pairs=pairs))
    return report(inventory, facts, work)
