"""Tolerant reading of raw data: what is not there, or not of the wanted type, is absent (None)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal


def dig(data: object, *path: str | int) -> object:
    """The value at `path`, or None."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and has(data, part):
            data = data[int(part)]
        else:
            return None
    return data


def has(data: object, part: str | int) -> bool:
    """Whether the mapping has the key, or the list the index."""
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def items(value: object) -> list[object]:
    """The value if it is a list."""
    return value if isinstance(value, list) else []


def entries(value: object) -> dict[str, object]:
    """The value if it is a mapping."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """The value if it is text."""
    return value if isinstance(value, str) else None


def whole(value: object) -> int | None:
    """The value if it is a whole number; true is not one."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def address(value: object) -> IPv4Address | IPv6Address | None:
    """The value if it is the text of an address."""
    try:
        return ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def network(value: object) -> IPv4Network | IPv6Network | None:
    """The value if it is the text of a network, host bits ignored."""
    try:
        return ip_network(value, strict=False) if isinstance(value, str) else None
    except ValueError:
        return None


def size(data: object, *path: str) -> int | Literal["auto"] | None:
    """A size that may be `auto`, which it is by default; None when it is neither."""
    value = dig(data, *path)
    if value == "auto" or (value is None and path[-1] not in entries(dig(data, *path[:-1]))):
        return "auto"
    number = whole(value)
    return number if number is not None and number > 0 else None
