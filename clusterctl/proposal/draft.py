"""A proposed inventory as a whole: its values, and its text with short comments that say why. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from clusterctl.proposal.choice import Choice
from clusterctl.rendering import render

CPU_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1"}
"""vLLM's CPU build takes half of the memory without it, on each of several nodes that may share a machine."""

_PLAIN = re.compile(r"[A-Za-z0-9/~._-][A-Za-z0-9/~._@:-]*")


@dataclass(frozen=True)
class NodeDraft:
    """A node as it is written."""

    name: str
    host: str
    more: Mapping[str, Any]
    """Where it differs: user, port, address."""


@dataclass(frozen=True)
class LostNode:
    """A node that did not answer: it stands in the file as a comment, and nothing is planned for it."""

    node: NodeDraft
    trouble: str
    """Why it was not read."""
    fix: str | None
    """And what to do about it."""


@dataclass(frozen=True)
class Draft:
    """What is proposed."""

    cluster: str
    nodes: tuple[NodeDraft, ...]
    """Those that answered."""
    lost: tuple[LostNode, ...]
    ssh: Mapping[str, str]
    network: Choice | None
    """None: one node needs none."""
    head: Choice
    engine: str
    """docker or podman."""
    sudo: Choice
    ulimits: Choice | None
    kind: Choice
    per_node: Choice
    image: Choice
    model: Choice
    serve: Choice

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All, in the order of the file."""
        every = (
            *(self.network, self.head, self.image, self.sudo, self.ulimits),
            *(self.kind, self.per_node, self.model, self.serve),
        )
        return tuple(choice for choice in every if choice is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will not work like this."""
        return tuple(dict.fromkeys(warning for choice in self.choices for warning in choice.warnings))

    def text(self) -> str:
        """The file."""
        cpu = self.kind.value == "cpu"
        moved = self.head if self.head.value != self.nodes[0].name else None
        return render(
            "inventory.yaml.j2",
            cluster=scalar(self.cluster),
            network=_written(self.network),
            ssh={key: scalar(value) for key, value in self.ssh.items()},
            nodes=[_node(node) for node in self.nodes],
            lost=[{**_node(each.node), "trouble": _line(_left_out(each))} for each in self.lost],
            head=_written(moved),
            image=_written(self.image),
            engine=self.engine,
            sudo=self.sudo.value,
            ulimits=_written(self.ulimits),
            env=scalar(CPU_ENV) if cpu else None,
            kind=_written(self.kind),
            per_node=_written(self.per_node),
            model=_written(self.model),
            serve={key: scalar(value) for key, value in self.serve.value.items()},
            serve_why=_line(self.serve.why),
        )


def with_serve(draft: Draft, serve: Choice) -> Draft:
    """The same with these sizes."""
    return replace(draft, serve=serve)


def _node(node: NodeDraft) -> dict[str, Any]:
    return {
        "name": scalar(node.name),
        "host": scalar(node.host),
        "more": {key: scalar(value) for key, value in node.more.items()},
    }


def _left_out(lost: LostNode) -> str:
    return f"left out, and nothing below counts on it: {lost.node.name} did not answer: {lost.trouble}"


@dataclass(frozen=True)
class _Written:
    value: str
    why: str


def _written(choice: Choice | None) -> _Written | None:
    return None if choice is None else _Written(scalar(choice.value), _line(choice.why))


def scalar(value: Any) -> str:
    """A value as YAML, without quotes where they change nothing."""
    if (
        isinstance(value, str)
        and _PLAIN.fullmatch(value)
        and not value.endswith(":")
        and yaml.safe_load(value) == value
    ):
        return value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {scalar(each)}" for key, each in value.items()) + "}"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _line(text: str) -> str:
    """A comment's text: one line, that begins with a capital letter."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())[:MOST_COMMENT]
    return line[:1].upper() + line[1:]


MOST_COMMENT = 300
"""Characters of a comment."""
