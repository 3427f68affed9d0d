"""What accelerators can do, by the names that nvidia-smi gives them: public figures, of data sheets. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """Peak figures of one accelerator."""

    memory_bytes_per_s: float
    flops_per_s: float
    """Dense, 16-bit (bfloat16) with 32-bit accumulation."""
    nvlink_bytes_per_s: float = 0.0
    """Of one NVLink, in one direction."""


def _figures(memory_gbyte: float, tflops: float, nvlink_gbyte: float = 0.0) -> Accelerator:
    return Accelerator(memory_gbyte * 1e9, tflops * 1e12, nvlink_gbyte * 1e9)


_KNOWN: tuple[tuple[re.Pattern[str], Accelerator], ...] = tuple(
    (re.compile(pattern), figures)
    for pattern, figures in (
        # NVIDIA data sheets; figures "with sparsity" are halved. The special ones of a kind come first.
        (r"GB300|B300", _figures(8000, 2250, 50)),
        (r"GB200|B200", _figures(8000, 2250, 50)),
        (r"GB10\b", _figures(273, 62)),
        (r"GH200", _figures(4000, 989, 25)),
        (r"H200 NVL", _figures(4800, 835, 25)),
        (r"H200", _figures(4800, 989, 25)),
        (r"H20\b", _figures(4000, 148, 25)),
        (r"H100 NVL", _figures(3900, 835, 25)),
        (r"H100 PCIe", _figures(2000, 756, 25)),
        (r"H100", _figures(3350, 989, 25)),
        (r"H800", _figures(3350, 989, 25)),
        (r"A100.*80GB", _figures(2000, 312, 25)),
        (r"A100|A800", _figures(1555, 312, 25)),
        (r"A40\b|RTX A6000", _figures(696, 150)),
        (r"A30\b", _figures(933, 165, 25)),
        (r"A10G?\b", _figures(600, 125)),
        (r"L40S", _figures(864, 362)),
        (r"L40\b", _figures(864, 181)),
        (r"L4\b", _figures(300, 121)),
        (r"RTX PRO 6000", _figures(1792, 252)),
        (r"RTX 6000 Ada", _figures(960, 182)),
        (r"RTX 5090", _figures(1792, 210)),
        (r"RTX 4090", _figures(1008, 165)),
        (r"RTX 3090", _figures(936, 71)),
        (r"V100", _figures(900, 112, 25)),
        (r"T4\b", _figures(320, 65)),
        # AMD data sheets.
        (r"MI355X", _figures(8000, 2500)),
        (r"MI325X", _figures(6000, 1307)),
        (r"MI300X", _figures(5300, 1307)),
        (r"MI250X?", _figures(1638, 181)),  # of one of its two dies, which is what is counted
    )
)


def accelerator(name: str) -> Accelerator | None:
    """The figures of an accelerator of this name; None where it is not known here."""
    return next((figures for pattern, figures in _KNOWN if pattern.search(name)), None)
