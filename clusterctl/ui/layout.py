"""The result of `clusterctl layout` as text for a person, and as values for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from clusterctl.layout.architecture import Architecture
from clusterctl.layout.candidate import GIB, Candidate
from clusterctl.layout.report import Report


def to_json(report: Report) -> dict[str, Any]:
    """The report for machines; bytes, tokens, and null where something is unknown."""
    return {
        "model": report.model,
        "architecture": asdict(report.arch),
        "nodes": list(report.nodes),
        "accelerators_per_node": report.per_node,
        "gpu_memory_bytes": report.gpu_memory_bytes,
        "max_model_len": report.request_tokens,
        "chosen": _candidate(report, report.chosen),
        "others": [_candidate(report, other) for other in report.others],
        "recommended": None if report.recommended is None else _sizes(report.recommended),
        "notes": list(report.notes),
        "not_estimated": list(report.unknown),
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
    return "" if report.gpu_memory_bytes is None else f" of {report.gpu_memory_bytes / GIB:.1f} GiB"


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
