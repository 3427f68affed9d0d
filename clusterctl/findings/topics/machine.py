"""Sizes of a machine's disks and memory."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30


def size(size_bytes: int) -> str:
    """Bytes as text, in GiB or MiB."""
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:.0f} MiB"
