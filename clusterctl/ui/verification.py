"""The record of `verify`, and two records compared, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clusterctl.records.difference import Comparison
from clusterctl.records.outputs import Observed
from clusterctl.records.spread import spread
from clusterctl.records.verification import Device, EngineHealth, Machine, Verification
from clusterctl.ui.comparison import compared
from clusterctl.ui.tables import Grid, Section, as_markdown, as_text

SHOWN_TEXT = 60
"""Characters of an output."""


def as_lines(record: Verification) -> list[str]:
    """For a terminal."""
    return [*headline(record), *as_text(sections(record))]


def as_page(record: Verification, comparison: Comparison | None) -> str:
    """The Markdown record."""
    lines = [f"# {record.cluster}: {record.model}", "", *headline(record), *as_markdown(sections(record))]
    if comparison is not None:
        lines += as_markdown(compared(comparison))
    return "\n".join([*lines, ""])


def sections(record: Verification, *, shown_text: int | None = SHOWN_TEXT) -> Iterator[Section]:
    """Everything that was seen. `shown_text`: characters of an output's text; None: all of it."""
    yield Section("What serves", Grid(("what", "seen"), tuple(_what_serves(record))))
    yield Section("Nodes", _nodes(record))
    engines = tuple(
        (
            f"engine {each.rank}",
            ", ".join(each.nodes),
            each.reason or f"{len(each.answer)} tokens in {each.latency_s:.2f} s",
        )
        for each in record.engines
    )
    yield Section("Engines", Grid(("engine", "nodes", "a completion of each"), engines))
    yield Section(
        "Outputs",
        Grid(
            ("request", "prompt tokens", "tokens", "time", "log-probability", "text"),
            tuple(_output(output, shown_text) for output in record.outputs),
        ),
    )


def headline(record: Verification) -> list[str]:
    """Whether it is a proof, and what keeps it from being one."""
    what = f"{record.model} of {record.cluster} at {record.endpoint}/v1, {record.made_at}"
    if not record.problems:
        return [f"verified: {what}"]
    return [f"NOT verified: {what}", *(f"- {problem}" for problem in record.problems)]


def _what_serves(record: Verification) -> Iterator[tuple[str, str]]:
    yield "layout", str(record.shape)
    yield "image", record.image
    yield "versions", _versions(list(record.nodes.values()))
    room = record.kv_cache
    predicted = room.predicted_reason if room.predicted is None else f"{room.predicted:,} tokens"
    yield "KV cache, predicted", f"{predicted}" if room.predicted is not None else f"nothing: {predicted}"
    real = "not logged by this vLLM" if room.tokens is None else f"{room.tokens:,} tokens"
    if room.max_concurrency is not None and room.tokens_per_request is not None:
        real += f", {room.max_concurrency:.2f} requests of {room.tokens_per_request:,} tokens at once"
    yield "KV cache, real", f"{real} (of each engine)" if record.shape.data_parallel > 1 else real
    yield "transport", record.transport.said
    yield "clusterctl", record.clusterctl


def _versions(machines: Sequence[Machine]) -> str:
    """In one line where all nodes have the same."""
    said = {_software(machine) for machine in machines}
    return said.pop() if len(said) == 1 else "differ between the nodes: see below"


def _software(machine: Machine) -> str:
    found = machine.software
    if found is None:
        return f"unknown: {machine.software_reason}"
    names = {
        "vLLM": found.vllm,
        "Ray": found.ray,
        "torch": found.torch,
        "transformers": found.transformers,
        "NCCL": found.nccl,
        "CUDA": found.cuda,
        "CUDA of the driver": found.driver_cuda,
        "driver": machine.driver,
        "Python": found.python,
    }
    return ", ".join(f"{name} {version or 'none'}" for name, version in names.items())


def _nodes(record: Verification) -> Grid:
    differ = len({_software(machine) for machine in record.nodes.values()}) > 1
    columns = ("node", "role", "stages", "image", "kernel", "restarts", "accelerators' memory")
    rows = []
    for name, machine in record.nodes.items():
        stages = ", ".join(map(str, machine.stages)) or "-"
        row = (
            *(name, machine.role, stages, (machine.image or "?").removeprefix("sha256:")[:12], machine.kernel or "?"),
            *(str(machine.restarts), ", ".join(map(_device, machine.gpus)) or "-"),
        )
        rows.append((*row, _software(machine)) if differ else row)
    return Grid((*columns, "versions") if differ else columns, tuple(rows))


def _device(gpu: Device) -> str:
    if gpu.total_mib is None:
        return f"{gpu.index}: {gpu.name}, unified"
    return f"{gpu.index}: {gpu.name}, {'?' if gpu.used_mib is None else gpu.used_mib}/{gpu.total_mib} MiB"


def _engine(engine: EngineHealth) -> tuple[str, ...]:
    said = f"NONE: {engine.reason}" if engine.reason else f"{len(engine.answer)} tokens in {engine.latency_s:.2f} s"
    return str(engine.rank), ", ".join(engine.nodes), said


def _output(output: Observed, shown_text: int | None) -> tuple[str, ...]:
    if not output.answers:
        why = f"{'not possible with this model' if output.impossible else 'NONE'}: {output.reason}"
        return output.name, "-", "-", "-", "-", why
    seconds = spread(output.seconds)
    time = f"{seconds.middle:.2f} s" if seconds is not None else "-"
    if (first := spread(output.first_token_s)) is not None:
        time += f", first token {first.middle * 1000:.0f} ms ({first.least * 1000:.0f} to {first.most * 1000:.0f})"
    if output.wall_s is not None:
        time = f"{len(output.answers)} at once in {output.wall_s:.2f} s, {output.tokens / output.wall_s:.0f} tokens/s"
    mean = sum(token.logprob for token in output.answers[0]) / len(output.answers[0])
    text = output.text[:shown_text] + ("…" if len(output.text) > len(output.text[:shown_text]) else "")
    return output.name, str(output.prompt_tokens), str(output.tokens), time, f"{mean:.4f} a token", repr(text)
