"""The image's reports from short notations in YAML (fixtures/findings-image.yaml): a good one on CUDA, with changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clusterctl.facts.cluster import DeepFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.image_report import ImageReport, ModelSupport, NoConfiguration, RunFailed

DISTRIBUTIONS = {"numpy": "2.2.6", "ray": "2.60.0", "torch": "2.11.0", "transformers": "5.19.0", "vllm": "0.32.0"}

GOOD = ImageReport(
    python="3.12.3",
    glibc="2.39",
    ray="2.60.0",
    vllm="0.32.0",
    torch="2.11.0",
    transformers="5.19.0",
    nccl="2.28.9",
    cuda="13.0",
    driver_cuda="13.0",
    cuda_error=None,
    gpus=2,
    shm_bytes=512 << 30,
    memlock_bytes=-1,
    ipc_lock=True,
    infiniband=(),
    libibverbs=True,
    libmlx5="libmlx5.so.1.25.56.0",
    mlx5_dmabuf=True,
    environment={"NCCL_DEBUG": "WARN"},
    distributions=DISTRIBUTIONS,
    digest="0" * 64,
    broken_imports={},
    model_support=None,
    serve_flags=None,
    refused_options=None,
)


def deep_facts(said: Mapping[str, Any], *, gpus_wanted: int = 2) -> DeepFacts:
    """Node → changes to a good report, {failed: reason} or {unknown: reason}."""
    return DeepFacts(images={name: report(changes) for name, changes in said.items()}, gpus_wanted=gpus_wanted)


def report(changes: Mapping[str, Any] | None) -> ImageReport | RunFailed | Unknown:
    """One node's answer."""
    fields = dict(changes or {})
    if "failed" in fields:
        return RunFailed(fields["failed"])
    if "unknown" in fields:
        return Unknown(fields["unknown"])
    if "distributions" in fields:
        fields["distributions"] = {**DISTRIBUTIONS, **fields["distributions"]}
    if fields.get("serve_flags") is not None:
        fields["serve_flags"] = frozenset(fields["serve_flags"])
    if "infiniband" in fields:
        fields["infiniband"] = tuple(fields["infiniband"])
    if "model_support" in fields:
        fields["model_support"] = _support(fields["model_support"])
    return replace(GOOD, **fields)


def _support(said: Mapping[str, Any]) -> ModelSupport | Unknown:
    if "no_configuration" in said:
        return NoConfiguration(said["no_configuration"])
    if "unknown" in said:
        return Unknown(said["unknown"])
    return ModelSupport(tuple(said["architectures"]), said["supported"], said["pipeline_parallel"])
