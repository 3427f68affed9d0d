"""How nodes are reached, as text for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A block for each node: a row would be too long for a terminal."""
    return "\n\n".join("\n".join(_block(row)) for row in rows)


def _block(row: Mapping[str, Any]) -> list[str]:
    if row["hostname"] is None:
        return [row["name"], "  this machine, without SSH"]
    host = f"[{row['hostname']}]" if ":" in row["hostname"] else row["hostname"]
    alias = f" (Host {row['host']})" if row["host"] != row["hostname"] else ""
    lines = [
        ("login", f"{row['user']}@{host}:{row['port']}{alias}"),
        ("jump", row["jump"]),
        ("proxy", row["proxy_command"]),
        ("known as", row["host_key_alias"]),
        ("keys", ", ".join(row["identity_files"])),
        ("host keys", ", ".join(row["known_hosts"])),
    ]
    return [row["name"], *(f"  {name:<9}  {value}" for name, value in lines if value)]
