"""The header of a GGUF file: the model's sizes and its tensors. Pure.

Format (ggml's docs/gguf.md): `GGUF`, version, number of tensors, number of metadata entries; the metadata (key, type,
value); the tensors (name, dimensions with the innermost first, type, offset); then, aligned, their data. Everything is
little-endian, unless the version only makes sense the other way round. Version 1 had shorter lengths and is gone.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from clusterctl.facts.fact import Unknown
from clusterctl.facts.safetensors import Tensor

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 32 * 1024 * 1024
"""So much of a file is read at most. A header holds the whole tokenizer; the largest seen have 16 MB."""
MAX_ENTRIES = 1_000_000
"""More tensors, metadata or dimensions than that are no header."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value → how `struct` reads it."""
_STRING, _ARRAY = 8, 9
KEPT_VALUES = 1024
"""Longer lists (the vocabulary) are kept as their length only."""

TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
"""Number of a type (ggml_type) → its name, values in a block, bytes of a block."""

BLOCKS = {name: values for name, values, _ in TYPES.values()}
"""Type → values in a block; 1 where it is not quantised."""


@dataclass(frozen=True)
class Gguf:
    """A file's header: what it says of the model, its tensors, and where their data end, in bytes."""

    metadata: Mapping[str, Any]
    """Values by key; of a long list only its length, as {"length": N}."""
    tensors: Mapping[str, Tensor]
    file_bytes: int
    """Size that the file has at least."""

    @property
    def architecture(self) -> str:
        """`llama`, `qwen3moe` …; empty for a part of a model that does not repeat it."""
        return str(self.metadata.get("general.architecture", ""))


def gguf(content: bytes | BinaryIO) -> Gguf | Unknown:
    """The header at the beginning of a file."""
    try:
        return _Reader(io.BytesIO(content) if isinstance(content, bytes) else content).header()
    except EOFError:
        return Unknown(f"its header is cut off, or longer than {MAX_HEADER_BYTES >> 20} MiB")
    except (ValueError, struct.error, RecursionError) as error:
        return Unknown(f"not a GGUF header ({error})")


class _Reader:
    """Reads one header, front to back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._order = "<"
        self._read = 0

    def header(self) -> Gguf:
        if self._bytes(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._bytes(4)
        self._order = "<" if version[2:] == b"\0\0" else ">"
        number = int.from_bytes(version, "little" if self._order == "<" else "big")
        if number not in (2, 3):
            raise ValueError(f"version {number}")
        tensors, entries = self._count(), self._count()
        metadata = {}
        for _ in range(entries):
            key = self._string()
            metadata[key] = self._value(self._number("I"))
        found, end = {}, 0
        for _ in range(tensors):
            name, tensor, offset = self._tensor()
            found[name], end = tensor, max(end, offset + tensor.size_bytes)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise ValueError(f"alignment {alignment}")
        data = -(-self._read // alignment) * alignment
        return Gguf(metadata, found, data + end if found else self._read)

    def _bytes(self, count: int) -> bytes:
        self._read += count
        if self._read > MAX_HEADER_BYTES:
            raise EOFError
        said = self._file.read(count)
        if len(said) < count:
            raise EOFError
        return said

    def _number(self, kind: str) -> Any:
        return struct.unpack(self._order + kind, self._bytes(struct.calcsize(self._order + kind)))[0]

    def _count(self) -> int:
        count = int(self._number("Q"))
        if count > MAX_ENTRIES:
            raise ValueError(f"{count} entries")
        return count

    def _string(self) -> str:
        return self._bytes(int(self._number("Q"))).decode(errors="replace")

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth > 4:
            raise ValueError(f"a value of type {kind}")
        inner, count = int(self._number("I")), int(self._number("Q"))
        if inner in _SCALARS:
            said = self._bytes(count * struct.calcsize("<" + _SCALARS[inner]))
            values = list(struct.unpack(f"{self._order}{count}{_SCALARS[inner]}", said)) if count <= KEPT_VALUES else []
        else:
            values = []
            for _ in range(count):
                value = self._value(inner, depth + 1)
                values += [value] if count <= KEPT_VALUES else []
        return values if count <= KEPT_VALUES else {"length": count}

    def _tensor(self) -> tuple[str, Tensor, int]:
        name, dimensions = self._string(), int(self._number("I"))
        if dimensions > 8:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = tuple(int(self._number("Q")) for _ in range(dimensions))
        kind, offset = int(self._number("I")), int(self._number("Q"))
        if kind not in TYPES:
            raise ValueError(f"{name} is of type {kind}, which is not known here")
        label, values, size = TYPES[kind]
        count = 1
        for part in shape:
            count *= part
        return name, Tensor(label, tuple(reversed(shape)), -(-count // values) * size), offset
