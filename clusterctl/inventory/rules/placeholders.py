"""Values that `clusterctl init` could not find, and that a person has to fill in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.inventory.issue import Issue
from clusterctl.inventory.raw import dig

PLACEHOLDER = "FILL_IN"
"""Stands where a value is missing."""

WHAT_TO_GIVE: Mapping[tuple[str, ...], str] = {
    (
        "network",
        "cidr",
    ): "the private network in which every node has an address, such as 10.0.0.0/24: see `ip -4 addr`",
    ("container", "image"): "an image with vLLM in it, the same one on every node: bring it there first",
    ("model", "path"): "the model's directory, at the same absolute path on every node",
}
"""Field → what belongs there."""


def placeholders(data: object) -> Iterator[Issue]:
    """Each with what belongs there."""
    for place, what in WHAT_TO_GIVE.items():
        if dig(data, *place) == PLACEHOLDER:
            yield Issue(place, "is still to be filled in: `clusterctl init` found nothing for it", what)
