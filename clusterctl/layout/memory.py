"""Whose memory a GPU's is, and what that means for vLLM's share of it. Pure.

Three kinds. Its own: what nvidia-smi says. Unified (GB10 in DGX Spark, Jetson): the GPU has none but the machine's, and
nvidia-smi prints `[N/A]` or `Not Supported` for it, since there is no frame buffer (NVIDIA: DGX Spark User Guide, known
issues). Coherent (GH200, GB200, GB300): HBM of its own, which nvidia-smi reports; the kernel may show it as one more
NUMA node of the machine, so that the page cache lies in it too (driver release notes: coherent driver-based memory
management turns that off).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.layout.candidate import GIB
from clusterctl.layout.links import Hardware

UNIFIED = re.compile(r"\bGB10\b|\bOrin\b|\bThor\b")
"""Names of GPUs without memory of their own, for machines that nobody has asked: on a node nvidia-smi tells."""
COHERENT = re.compile(r"\bG[HB][23]00\b")
"""Names of GPUs whose HBM may be a NUMA node of the machine."""
UTILIZATION = 0.92
"""vLLM's default of gpu-memory-utilization (0.32, config/cache.py)."""
ADVISED = 0.85
"""gpu-memory-utilization with unified memory. A choice: users of two DGX Sparks report 0.80 to 0.87, and a machine that
hangs above it (vllm#46307)."""


def memory_notes(machines: Hardware, share: float | None) -> Iterator[str]:
    """What is to be known of the memory. `share`: gpu-memory-utilization; None where there is no inventory."""
    total = machines.gpu_memory_bytes
    if machines.unified_memory:
        taken = f"{UTILIZATION:g} where it is not set" if share is None else f"{share:g} here"
        size = "" if total is None else f", {total * (share or UTILIZATION) / GIB:.1f} of {total / GIB:.1f} GiB"
        advice = "" if share is not None and share <= ADVISED else f": {ADVISED:g} or less is advised"
        yield (
            "unified memory: the GPU has none but the machine's, which the system, the container's processes and the "
            f"page cache use too. vLLM takes gpu-memory-utilization of it ({taken}{size}){advice}"
        )
    elif machines.gpu is not None and COHERENT.search(machines.gpu):
        yield (
            f"{machines.gpu}: counted is the GPU's own HBM; the CPU's LPDDR memory holds weights with cpu-offload-gb "
            "only. Where the kernel shows HBM as one more NUMA node, the page cache can fill part of it before a start"
        )
