"""AMD's GPUs as rocm-smi counts them. Pure.

Read conservatively, since no machine with them was to be had: only the keys `card0`, `card1` … of `rocm-smi --showid
--json` are counted (ROCm SMI's documentation of its command line).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from clusterctl.facts import parse
from clusterctl.facts.fact import Fact, Unknown


def amd_gpus(found: Mapping[str, parse.Section]) -> Fact[int]:
    """How many; None where rocm-smi is not installed."""
    output = parse.text(found, "rocm")
    if not isinstance(output, str):
        return output
    try:
        # Warnings may stand before the JSON, which is one line.
        cards = json.loads(next((line for line in output.splitlines() if line.startswith("{")), output))
    except (ValueError, RecursionError):
        return Unknown(f"rocm-smi printed no JSON: {output[:120]}")
    return (
        sum(bool(re.fullmatch(r"card\d{1,3}", key)) for key in cards)
        if isinstance(cards, dict)
        else Unknown("no cards")
    )


def render_nodes(found: Mapping[str, parse.Section]) -> Fact[tuple[str, ...]]:
    """The render device of each GPU, from `drm_render_minor` of the driver's own topology (Linux, amdkfd,
    kfd_topology.c), where a CPU has 0; None where the driver is not loaded."""
    output = parse.text(found, "amd_render")
    if not isinstance(output, str):
        return output
    minors = [int(minor) for minor in re.findall(r"^(\d{1,4})$", output, re.MULTILINE)]
    return tuple(f"/dev/dri/renderD{minor}" for minor in minors if minor)
