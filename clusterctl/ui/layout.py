"""The result of `clusterctl layout` as text for a person, and as values for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from clusterctl.layout.architecture import Architecture
from clusterctl.layout.candidate import GIB, Candidate
from clusterctl.layout.estimate import UNCERTAINTY, Speed
from clusterctl.layout.ranking import Ranking, Way
from clusterctl.layout.report import Report


def to_json(report: Report) -> dict[str, Any]:
    """The report for machines; bytes, tokens, and null where something is unknown."""
    return {
        "model": report.model,
        "architecture": asdict(report.arch),
        "nodes": list(report.nodes),
        "accelerators_per_node": report.per_node,
        "gpu_memory_bytes": report.gpu_memory_bytes,
        "unified_memory": report.unified_memory,
        "max_model_len": report.request_tokens,
        "chosen": _candidate(report, report.chosen),
        "others": [_candidate(report, other) for other in report.others],
        "ranking": _ranking(report.ranking),
        "recommended": None if report.recommended is None else _sizes(report.recommended),
        "notes": list(report.notes),
        "not_estimated": list(report.unknown),
    }


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return {
        "workload": asdict(ranking.workload),
        "uncertainty": UNCERTAINTY,
        "link_inside_a_node": None if ranking.inside is None else asdict(ranking.inside),
        "link_between_nodes": None if ranking.between is None else asdict(ranking.between),
        "one_accelerator": None if ranking.alone is None else asdict(ranking.alone),
        "ways": [_way(way) for way in ranking.ways],
        "best_for_many": next((way.settings for way in ranking.ways if way.candidate.possible), None),
        "best_for_one": None if ranking.for_one is None else ranking.for_one.settings,
        "not_estimated": list(ranking.unknown),
    }


def _way(way: Way) -> dict[str, Any]:
    return {
        "serve": way.settings,
        "nodes_per_engine": way.nodes_per_engine,
        "possible": way.candidate.possible,
        "problems": [problem.text for problem in way.candidate.problems],
        "missing_bytes": way.candidate.missing_bytes,
        "kv_cache_tokens": way.kv_tokens,
        "exchanged_bytes_per_token": way.exchanged_bytes,
        "links": [link.text for link in way.links],
        "speed": None if way.speed is None else asdict(way.speed),
    }


def _sizes(candidate: Candidate) -> dict[str, int]:
    return {"tensor_parallel": candidate.tensor_parallel, "pipeline_parallel": candidate.pipeline_parallel}


def _candidate(report: Report, candidate: Candidate) -> dict[str, Any]:
    stages = [
        {"stage": number, "nodes": list(report.stage_nodes(candidate, number)), **asdict(stage)}
        for number, stage in enumerate(candidate.stages)
    ]
    return {
        **_sizes(candidate),
        "possible": candidate.possible,
        "problems": [problem.text for problem in candidate.problems],
        "fits": candidate.fits,
        "missing_bytes": candidate.missing_bytes,
        "kv_cache_tokens": candidate.kv_tokens,
        "max_concurrency": candidate.max_concurrency,
        "stages": stages,
    }


def text(report: Report) -> str:
    """The report for a person."""
    lines = [
        f"{report.model}: {_architecture(report.arch)}",
        f"{len(report.nodes)} nodes with {report.per_node} accelerators each{_memory(report)}",
        "",
        f"TP {report.chosen.tensor_parallel} x PP {report.chosen.pipeline_parallel}: {_verdict(report, report.chosen)}",
        *_stages(report, report.chosen),
    ]
    if report.others:
        rows = [f"  TP {o.tensor_parallel} x PP {o.pipeline_parallel}: {_verdict(report, o)}" for o in report.others]
        lines += ["", "other layouts:", *rows]
    if report.recommended is not None and report.recommended is not report.chosen:
        best = report.recommended
        lines += ["", f"use instead: serve.tensor_parallel: {best.tensor_parallel}, "
                  f"serve.pipeline_parallel: {best.pipeline_parallel}"]  # fmt: skip
    lines += ["", *_ranked(report.ranking)]
    if report.unknown:
        lines += ["", "not everything could be estimated:", *(f"  {reason}" for reason in report.unknown)]
    if report.notes:
        lines += ["", *(f"note: {note}" for note in report.notes)]
    return "\n".join(lines)


def _architecture(arch: Architecture) -> str:
    parts: list[str] = [arch.name]
    parts += [f"{arch.layers} layers"] if arch.layers else []
    heads = f"{arch.heads} attention heads"
    if arch.latent is not None:
        parts.append(f"{heads}, latent attention ({arch.latent} values a token and layer)")
    elif arch.heads:
        parts.append(f"{heads} and {arch.kv_heads} KV heads of {arch.head_dim}")
    parts += [f"{arch.experts} experts"] if arch.experts else []
    if arch.quantization:
        q = arch.quantization
        blocks = f" in blocks of {q.block_n} x {q.block_k}" if q.block_n else ""
        parts.append(f"{q.method}{blocks}{f' in groups of {q.group_size}' if q.group_size else ''}")
    return ", ".join(parts)


def _memory(report: Report) -> str:
    if report.gpu_memory_bytes is None:
        return ""
    whose = ", which is the machine's memory" if report.unified_memory else ""
    return f" of {report.gpu_memory_bytes / GIB:.1f} GiB{whose}"


def _verdict(report: Report, candidate: Candidate) -> str:
    if candidate.problems:
        return f"impossible: {'; '.join(problem.text for problem in candidate.problems)}"
    if candidate.fits is False:
        lacks = (candidate.missing_bytes or 0) / GIB
        room = "" if candidate.kv_tokens is None else f" (room for {candidate.kv_tokens:,} tokens)"
        return f"does not fit: each GPU of the fullest stage is {lacks:.2f} GiB short{room}"
    if candidate.kv_tokens is None:
        return "possible; the KV cache could not be estimated"
    estimate = f"about {candidate.kv_tokens:,} tokens of KV cache"
    if candidate.max_concurrency is not None:
        estimate += f", {candidate.max_concurrency:.2f} requests of {report.request_tokens or 0:,} tokens at once"
    return estimate


def _stages(report: Report, candidate: Candidate) -> Iterator[str]:
    for number, stage in enumerate(candidate.stages):
        nodes = ", ".join(report.stage_nodes(candidate, number))
        parts = [f"{stage.layers} layers"]
        if stage.weights_bytes is not None:
            parts.append(f"{stage.weights_bytes / GIB:.2f} GiB of weights a GPU")
        if stage.kv_budget_bytes is not None:
            parts.append(f"{max(0, stage.kv_budget_bytes) / GIB:.2f} GiB for KV cache")
        if stage.kv_bytes_per_token is not None:
            parts.append(f"{stage.kv_bytes_per_token:,} B a token")
        yield f"  stage {number} ({nodes}): {', '.join(parts)}"


SHOWN_WAYS = 8
"""More are not shown: what comes after them is slower still."""

ESTIMATED = frozenset({"tokens/s", "alone", "1st token"})
"""Columns that hold estimates of speed."""


def _ranked(ranking: Ranking) -> Iterator[str]:
    """The ways to serve as a table, the best first, and which lines of `serve` ask for the best."""
    work = ranking.workload
    possible = [way for way in ranking.ways if way.candidate.possible]
    if not possible:
        return
    estimated = any(way.speed is not None for way in possible)
    many = f"{work.requests} requests at once, {work.input_tokens:,} tokens in and {work.output_tokens:,} out"
    yield (
        f"ways to serve, the best first for {many} (estimates, up to {UNCERTAINTY:.0%} off):"
        if estimated
        else "ways to serve, those that exchange least first:"
    )
    links = [("inside a node", ranking.inside), ("between the nodes", ranking.between)]
    if known := [f"{where} {link.text}" for where, link in links if link is not None]:
        yield f"  {'; '.join(known)}"
    rows = [_row(way) for way in possible[:SHOWN_WAYS]]
    if ranking.alone is not None and estimated:
        rows.append(("one accelerator alone", *_rates(ranking.alone), "", ""))
    header = ("", "tokens/s", "alone", "1st token", "KV tokens", "a token exchanges")
    shown = [column for column in range(len(header)) if estimated or header[column] not in ESTIMATED]
    table = [tuple(row[column] for column in shown) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(shown))]
    for row in table:
        first, *middle, last = row
        cells = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        yield f"  {first:<{widths[0]}}  {'  '.join(cells)}  {last}".rstrip()
    if len(possible) > SHOWN_WAYS:
        yield f"  and {len(possible) - SHOWN_WAYS} more, which --json shows"
    if estimated:
        yield "  tokens/s: of all requests together; alone, 1st token: of a request that has everything to itself"
    yield f"best for many requests: serve: {_lines(possible[0])}"
    if ranking.for_one is not None and ranking.for_one is not possible[0]:
        yield f"best for a single request: serve: {_lines(ranking.for_one)}"
    yield from (f"  {reason}" for reason in ranking.unknown)


def _row(way: Way) -> tuple[str, ...]:
    candidate = way.candidate
    name = f"TP {candidate.tensor_parallel} x PP {candidate.pipeline_parallel}"
    name = f"DP {way.engines} x {name}" if way.engines > 1 else name
    name += " + EP" if way.expert_parallel else ""
    name += ", TP across nodes" if way.tensor_spans_nodes else ""
    tokens = "" if way.kv_tokens is None else f"{way.kv_tokens:,}"
    rates = _rates(way.speed) if way.speed is not None else ("", "", "")
    return name, *rates, tokens, _exchange(way)


def _rates(speed: Speed) -> tuple[str, str, str]:
    return f"{speed.tokens_per_s:,.0f}", f"{speed.one_tokens_per_s:,.0f}", f"{speed.one_first_token_s * 1000:,.0f} ms"


def _exchange(way: Way) -> str:
    if way.exchanged_bytes is None:
        return ""
    if not way.exchanged_bytes:
        return "nothing"
    over = " and ".join(dict.fromkeys(link.name for link in way.links)) or "an unknown link"
    kib = way.exchanged_bytes / 1024
    return f"{kib:,.0f} KiB over {over}" if kib >= 10 else f"{kib:.1f} KiB over {over}"


def _lines(way: Way) -> str:
    values = ", ".join(f"{name}: {str(value).lower()}" for name, value in way.settings.items())
    return f"{{{values}}}"
