"""The NVIDIA driver of a node and what belongs to it: module, peer memory, fabric manager, topology. Pure.

The GPUs themselves are in facts/model.py (Gpu), from the section `gpus`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clusterctl.facts import parse
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.system import pairs

SMI_VERSION_MISMATCH = 18
"""nvidia-smi's exit code for a library of another version than the loaded kernel module: NVML's
NVML_ERROR_LIB_RM_VERSION_MISMATCH (nvml.h); nvidia-smi ends with NVML's codes."""

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""nvidia-smi underlines the head of the matrix, terminal or not."""


@dataclass(frozen=True)
class KernelModule:
    """The loaded kernel module."""

    version: str
    open: bool
    """The open kernel modules, which hand GPU memory to an HCA as dma-buf."""


@dataclass(frozen=True)
class Topology:
    """How devices reach each other (`nvidia-smi topo -m`): GPU0, NIC0 … → the same → NV18, PIX, PXB, PHB, NODE, SYS."""

    links: Mapping[str, Mapping[str, str]]
    nics: Mapping[str, str]
    """NIC0 → mlx5_0."""

    def without_nvlink(self, gpus: Iterable[int]) -> tuple[tuple[str, str, str], ...]:
        """Pairs among the GPUs of these indices that reach each other over PCIe, each with how."""
        names = [f"GPU{index}" for index in sorted(gpus) if f"GPU{index}" in self.links]
        return tuple(
            (one, other, how)
            for position, one in enumerate(names)
            for other in names[position + 1 :]
            if not (how := self.links[one].get(other, "NV")).startswith("NV")
        )


@dataclass(frozen=True)
class NvidiaFacts:
    """What belongs to the driver."""

    module: Fact[KernelModule]
    version_mismatch: str | None
    """What nvidia-smi said, when it is of another version than the loaded module."""
    topology: Fact[Topology]
    peermem: Fact[bool]
    """nvidia_peermem (or its forerunner nv_peer_mem) is loaded."""
    char_links: Fact[bool]
    """/dev/char/195:255 exists: systemd finds the devices again when it reloads (F18)."""
    hook: Fact[bool]
    """nvidia-container-runtime-hook is in the PATH: what Docker looks for to know `--gpus`."""
    cdi: Fact[bool]
    """There is a CDI specification for NVIDIA."""
    nvswitches: Fact[bool]
    """This kernel sees NVSwitches (never inside a guest: there the host manages them)."""
    fabric_manager: Fact[bool]
    """nv-fabricmanager runs; None where there is no NVSwitch to manage."""
    iommu: Mapping[str, str] | Unknown
    """GPU's PCI address → type of its IOMMU group: identity, DMA, DMA-FQ; only GPUs behind an IOMMU."""
    acs_bridges: Fact[int]
    """PCI bridges with access control on; None: not looked at (needs root and lspci; a guest has none of its own)."""


def nvidia(found: Mapping[str, parse.Section]) -> Fact[NvidiaFacts]:
    """Everything about the driver; None where it is not loaded."""
    output = parse.text(found, "nvidia_state")
    if not isinstance(output, str):
        return output
    files = pairs(output)
    return NvidiaFacts(
        module=module(found),
        version_mismatch=version_mismatch(found),
        topology=topology(found),
        peermem=_answer(files, "peermem"),
        char_links=_answer(files, "char_links"),
        hook=_answer(files, "hook"),
        cdi=_answer(files, "cdi"),
        nvswitches=_answer(files, "nvswitch"),
        fabric_manager=_answer(files, "fabric_manager"),
        iommu={key.partition("/")[2]: value for key, value in files.items() if key.startswith("iommu/")},
        acs_bridges=acs_bridges(found),
    )


def _answer(files: Mapping[str, str], key: str) -> bool | None:
    return files[key] == "1" if key in files else None


def module(found: Mapping[str, parse.Section]) -> Fact[KernelModule]:
    """/proc/driver/nvidia/version: `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04 …`."""
    output = parse.text(found, "nvidia_module")
    if not isinstance(output, str):
        return output
    match = re.search(r"^NVRM version: (.*Kernel Module.*?)\s+(\d{2,4}(?:\.\d{1,4}){1,3})\b", output, re.MULTILINE)
    if match is None:
        return Unknown(f"/proc/driver/nvidia/version says no version: {output[:80]}")
    return KernelModule(match[2], "Open Kernel Module" in match[1])


def version_mismatch(found: Mapping[str, parse.Section]) -> str | None:
    """What nvidia-smi said when it ended with NVML's code for it."""
    section = found.get("gpus")
    if section is None or section.exit_code != SMI_VERSION_MISMATCH:
        return None
    return " ".join(section.text.split())


def topology(found: Mapping[str, parse.Section]) -> Fact[Topology]:
    """The matrix of `nvidia-smi topo -m`."""
    output = parse.text(found, "gpu_topology")
    if not isinstance(output, str):
        return output
    plain = _ESCAPES.sub("", output)
    head, *rows = [line for line in plain.splitlines() if line.strip()] or [""]
    columns = [cell for cell in head.strip().split("\t") if re.fullmatch(r"(GPU|NIC)\d{1,3}", cell.strip())]
    if not columns:
        return Unknown(f"nvidia-smi printed what is no topology: {plain[:80]}")
    cells = [[cell.strip() for cell in row.split("\t")] for row in rows]
    links = {row[0]: dict(zip(columns, row[1:], strict=False)) for row in cells if row[0] in columns}
    nics = dict(re.findall(r"^\s*(NIC\d{1,3}): (\S+)\s*$", plain, re.MULTILINE))
    return Topology(links, nics)


def acs_bridges(found: Mapping[str, parse.Section]) -> Fact[int]:
    """How many bridges have access control on."""
    output = parse.text(found, "acs")
    if not isinstance(output, str):
        return output
    return int(output) if re.fullmatch(r"\d{1,6}", output, re.ASCII) else Unknown(f"lspci said: {output[:80]}")
