"""`clusterctl bench`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.cli.verify import compare_option, output_option
from clusterctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from clusterctl.actions.bench import BenchOptions
    from clusterctl.records.benchmark import Benchmark, Load, Traffic

SHAPES = {"prefill": (2048, 64), "decode": (128, 512)}
"""Name -> tokens of the prompt and of the answer."""


class Shape(click.ParamType[tuple[int, int]]):
    """Tokens of prompt and answer: a name, or two numbers."""

    name = "shape"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Both numbers."""
        if str(value) in SHAPES:
            return SHAPES[str(value)]
        match = re.fullmatch(r"([1-9]\d{0,6}):([1-9]\d{0,6})", str(value))
        if match is None:
            self.fail(f"{value!r} is no shape: {', '.join(SHAPES)}, or INPUT:OUTPUT in tokens (1024:128)", param, ctx)
        return int(match[1]), int(match[2])


class Numbers(click.ParamType[tuple[float, ...]]):
    """Positive numbers, separated by commas."""

    name = "numbers"

    def __init__(self, *, whole: bool) -> None:
        self._pattern = re.compile(r"[1-9]\d{0,5}" if whole else r"\d{1,6}(\.\d{1,6})?")

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers, from the smallest on."""
        words = str(value).split(",")
        if not all(self._pattern.fullmatch(word.strip()) and float(word) for word in words):
            self.fail(f"{value!r} are no positive numbers, separated by commas", param, ctx)
        return tuple(sorted({float(word) for word in words}))


@click.command()
@json_option
@output_option
@compare_option
@click.option(
    "--shape",
    "shapes",
    type=Shape(),
    multiple=True,
    metavar="prefill|decode|IN:OUT",
    help="Tokens of each prompt and answer; may be given again. prefill is 2048:64, decode 128:512 (default: both). "
    "Shortened to what the model takes.",
)
@click.option(
    "--concurrency",
    type=Numbers(whole=True),
    metavar="N,N…",
    help="Requests at once, each a level of the sweep (default: 1, 2, 4 … until twice as many add nothing).",
)
@click.option(
    "--request-rate",
    "rates",
    type=Numbers(whole=False),
    metavar="R,R…",
    help="Requests a second instead, sent whether earlier ones are answered or not.",
)
@click.option(
    "--repeat",
    type=click.IntRange(1, 20),
    default=5,
    show_default=True,
    help="Runs of each level at most. They end before, from the second on, when their throughputs lie within 5%.",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    help="Requests of each run (default: four for each at once, at least 8; at a rate those of 30 s).",
)
@click.pass_obj
def bench(
    options: Options,
    *,
    as_json: bool,
    output: Path,
    old: Path | None,
    shapes: tuple[tuple[int, int], ...],
    concurrency: tuple[float, ...] | None,
    rates: tuple[float, ...] | None,
    repeat: int,
    requests: int | None,
) -> None:
    """Measure the served model under rising load, and say at which load another engine or node would help.

    Runs vLLM's own `vllm bench serve` in the head's container, with random prompts, after a warm-up. Writes
    CLUSTER-bench-TIME.json, and .html with plots. Clients meanwhile wait longer. With --compare and no levels or
    shapes given, those of the old record are measured.

    What was measured before a failure, or Ctrl-C, is written too.

    Exit codes: 0 measured (and no slower than the old record beyond the spread), 1 not, 2 the old record cannot be
    read.
    """
    from clusterctl.records.benchmark import Benchmark
    from clusterctl.records.files import read_record

    if concurrency and rates:
        raise UsageError("give --concurrency or --request-rate, not both")
    before = read_record(old, "bench", Benchmark) if old is not None else None
    asked = _asked(before, shapes, _loads(concurrency, rates), repeat, requests)
    _measure(options, asked, output, (old, before), as_json=as_json)


def _measure(
    options: Options, asked: BenchOptions, output: Path, earlier: tuple[Path | None, Benchmark | None], *, as_json: bool
) -> None:
    from datetime import UTC, datetime

    from clusterctl.actions.bench import bench as measure
    from clusterctl.records.benched import compare
    from clusterctl.records.difference import comparison_json
    from clusterctl.records.files import json_text, ready, record_name, to_json, write_new
    from clusterctl.ui import benchmark as ui
    from clusterctl.ui.comparison import comparison_lines
    from clusterctl.ui.progress import progress_on_stderr

    inventory, made_at = options.inventory(), datetime.now(UTC)
    ready(output)
    with options.hosts(inventory) as hosts, progress_on_stderr() as progress:
        record = measure(hosts, inventory, asked, progress, made_at)
    old, before = earlier
    found = compare(before, record, where=str(old)) if before is not None else None
    files = [output / f"{record_name(inventory.cluster, 'bench', made_at)}.{ending}" for ending in ("json", "html")]
    said = to_json("bench", record)
    write_new(files[0], json_text(said))
    write_new(files[1], ui.as_html(record, before, found))
    if as_json:
        emit({"record": said, "files": [str(file) for file in files], "comparison": comparison_json(found)})
    else:
        shown = comparison_lines(found) if found is not None else []
        emit("\n".join([*ui.as_lines(record), *shown, "", f"record: {', '.join(str(file) for file in files)}"]))
    if record.ended_early or (found is not None and not found.within):
        sys.exit(ExitCode.FAILED)


def _loads(concurrency: tuple[float, ...] | None, rates: tuple[float, ...] | None) -> tuple[Load, ...]:
    from clusterctl.records.benchmark import Load

    at_once = tuple(Load(concurrency=int(number)) for number in concurrency or ())
    return at_once + tuple(Load(request_rate=number) for number in rates or ())


def _asked(
    before: Benchmark | None,
    shapes: Iterable[tuple[int, int]],
    loads: tuple[Load, ...],
    repeat: int,
    requests: int | None,
) -> BenchOptions:
    """What the command line says, else the old record, else both shapes and a search."""
    from clusterctl.actions.bench import BenchOptions
    from clusterctl.records.benchmark import Traffic

    traffics: tuple[Traffic, ...] = tuple(Traffic(*shape) for shape in shapes)
    if before is not None:
        traffics = traffics or before.traffics
        loads = loads or tuple(sorted({level.load for level in before.levels}, key=lambda load: load.amount))
    return BenchOptions(
        traffics=traffics or tuple(Traffic(*shape) for shape in SHAPES.values()),
        loads=loads,
        repeat=repeat,
        requests=requests,
    )
