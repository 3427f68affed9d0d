"""What findings are about: the order in which they are shown, and the sections of their reference page."""

from __future__ import annotations

from enum import Enum


class Section(Enum):
    """A group of rules. What comes first is a likely cause of what comes later."""

    SSH = "SSH", ""
    ENGINE = "Container engine and image", ""
    IMAGE_REPORT = (
        "What the image contains",
        "The image runs once on each node, with the flags of the serving container: in `check`, and in `up` unless\n"
        "`--check quick`.",
    )
    DIFFERENCES = "Nodes that differ", "`check` shows all differences in a table; these are the findings among them."
    ADDRESSES = "Addresses", ""
    EXPOSURE = "Who can reach and read what", ""
    MODEL = "Model", ""
    LAYOUT = "Accelerators and layout", ""
    NVIDIA = "NVIDIA driver and GPUs", ""
    RDMA = "RDMA as the inventory asks for it", ""
    RDMA_DEVICES = "RDMA devices", ""
    MACHINE = "The machine", ""
    PORTS = "Ports", ""
    PAIRS = "Between the nodes", "Checked by `check`, and by `up` unless `--check quick`."
    COLLECTIVE = "The all-reduce", "Only with `check --nccl`."

    def __init__(self, title: str, introduction: str) -> None:
        self.title = title
        self.introduction = introduction
