"""The header of a safetensors file: what it says of the file's tensors and of its size. Pure.

Format (safetensors, README "Format"): eight bytes, the header's length N as a little-endian number; N bytes of JSON:
each tensor's dtype, shape and [begin, end) in the data that follows, and `__metadata__`. So a whole file has
8 + N + the largest end bytes, whatever its tensors hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.facts.fact import Unknown

MAX_HEADER_BYTES = 100_000_000
"""safetensors refuses longer headers (HeaderTooLarge; MAX_HEADER_SIZE in its source)."""


@dataclass(frozen=True)
class Tensor:
    """One tensor: its dtype as the file writes it (BF16, F8_E4M3 …), its shape, its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class Header:
    """A file's header: its own length and where the data end, both in bytes, and the tensors by name."""

    length: int
    data_bytes: int
    tensors: Mapping[str, Tensor]

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return 8 + self.length + self.data_bytes


def header(content: bytes) -> Header | Unknown:
    """The header from its JSON."""
    try:
        said = json.loads(content)
        entries = {name: value for name, value in said.items() if name != "__metadata__"}
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
        tensors = {name: _tensor(entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        return Unknown(f"not a safetensors header ({type(error).__name__})")
    return Header(len(content), max(ends, default=0), tensors)


def _tensor(entry: Mapping[str, object]) -> Tensor:
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError("shape and data_offsets are lists")
    return Tensor(str(entry["dtype"]), tuple(int(size) for size in shape), int(offsets[1]) - int(offsets[0]))
