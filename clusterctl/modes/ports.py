"""Ports that a mode's processes listen on: one list, which check, preflight, firewall, `down` and the inventory's
rules read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clusterctl.inventory.issue import KeyPath
from clusterctl.inventory.model import Inventory, PortRange, Serve
from clusterctl.inventory.raw import dig, entries, whole

RANGE_SAMPLES = 8
"""Ports of a range that are tried, its ends among them: a firewall opens ranges, not every second port."""

Span = tuple[int, int]
"""First and last port."""


@dataclass(frozen=True)
class PortField:
    """A field of the inventory that holds a port, or a range of ports, that something listens on."""

    path: tuple[str, ...]
    default: Span | None
    """None: nothing listens there unless the file gives a port."""
    head_only: bool = False
    for_clients: bool = False
    """Whether clients connect there, and not the other nodes."""
    everywhere: bool = False
    """Whether it is listened on on all addresses, whatever the inventory says."""

    def span(self, inventory: Inventory) -> Span:
        """The field's ports."""
        value = self._value(inventory)
        if isinstance(value, PortRange):
            return value.first, value.last
        if not isinstance(value, int):
            raise TypeError(f"{'.'.join(self.path)} is no port")
        return value, value

    def is_on(self, inventory: Inventory) -> bool:
        """Whether anything is to listen there."""
        return self.default is not None or self._value(inventory) is not None

    def _value(self, inventory: Inventory) -> object:
        value: object = inventory
        for name in self.path:
            value = getattr(value, name)
        return value

    @property
    def is_range(self) -> bool:
        """Whether it holds a range."""
        return self.default is not None and self.default[0] != self.default[1]


API = PortField(("serve", "port"), (Serve().port,) * 2, head_only=True, for_clients=True)
"""The API's, which every mode has."""


METRICS = PortField(("metrics_port",), None, for_clients=True)
"""Where the agents answer Prometheus, in every mode, on every node; off unless it is given."""


OF_EVERY_MODE = (API, METRICS)


def ports_on(listens: Sequence[PortField], inventory: Inventory, node: str) -> Mapping[int, str]:
    """Fixed ports that will be listened on at a node, each with its field."""
    return {
        field.span(inventory)[0]: ".".join(field.path) for field in _on(listens, inventory, node) if not field.is_range
    }


def reached_ports(listens: Sequence[PortField], inventory: Inventory, node: str) -> tuple[int, ...]:
    """Ports of a node that the other nodes connect to, of ranges some. The API's port is not one: it is for clients."""
    return tuple(
        port
        for field in _on(listens, inventory, node)
        if not field.for_clients
        for port in (sampled(field.span(inventory)) if field.is_range else field.span(inventory)[:1])
    )


def ranges_of(listens: Sequence[PortField], inventory: Inventory) -> tuple[Span, ...]:
    """The ranges among them."""
    return tuple(field.span(inventory) for field in listens if field.is_range and field.is_on(inventory))


def _on(listens: Sequence[PortField], inventory: Inventory, node: str) -> Iterator[PortField]:
    here = (field for field in listens if node == inventory.head_name or not field.head_only)
    return (field for field in here if field.is_on(inventory))


def sampled(span: Span) -> tuple[int, ...]:
    """Some ports of a range, evenly spread, with both ends."""
    first, last = span
    width = last - first
    count = min(RANGE_SAMPLES, width + 1)
    return tuple(sorted({first + width * index // max(1, count - 1) for index in range(count)}))


# In an inventory that was not validated yet.


@dataclass(frozen=True)
class Listener:
    """Ports that something on a node listens on, and whether the file says so."""

    path: KeyPath
    first: int
    last: int
    given: bool

    @property
    def ports(self) -> str:
        """As messages show them."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def listeners(listens: Sequence[PortField], data: object) -> Iterator[Listener]:
    """Everything that listens, with defaults filled in. What is not a port, or no range, is left out."""
    for field in listens:
        listener = listener_of(field, data)
        if listener is not None and listener.first <= listener.last:
            yield listener


def listener_of(field: PortField, data: object) -> Listener | None:
    """The ports of one field, from the file or by default; None when the file does not give them rightly."""
    if field.path[-1] not in entries(dig(data, *field.path[:-1])):
        return Listener(field.path, *field.default, given=False) if field.default is not None else None
    value = dig(data, *field.path)
    first, last = (whole(dig(value, end)) for end in ("first", "last")) if field.is_range else (whole(value),) * 2
    return None if first is None or last is None else Listener(field.path, first, last, given=True)
