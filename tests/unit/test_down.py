"""What `down` finds left on a node: nothing is gone that was not seen to be gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from clusterctl.actions.down import DownResult
from clusterctl.apply.gone import remains
from clusterctl.ui import render
from tests.unit.support import node_facts

OURS = {"22": "sshd (pid 1)", "6379": "gcs_server (pid 9)", "8000": "python3 (pid 8)"}
SSHD = {"22": "sshd (pid 1)"}

CASES: list[tuple[str, Mapping[str, Any], Mapping[str, Any], list[str]]] = [
    ("all gone", {"listeners": OURS}, {"listeners": SSHD}, []),
    ("a container is left", {}, {"containers": ["demo-node"]}, ["container demo-node is still there (running)"]),
    ("the engine died", {}, {"containers": {"unknown": "exit code 1"}}, ["cannot verify that its containers are gone: exit code 1"]),  # noqa: E501
    ("two ports are left", {"listeners": OURS}, {"listeners": OURS}, ["port 6379", "port 8000"]),
    ("a stranger took the port since", {"listeners": SSHD}, {"listeners": OURS}, []),
    ("ports cannot be read now", {"listeners": OURS}, {"listeners": {"unknown": "exit 1"}}, ["cannot verify that its ports are closed: exit 1"]),  # noqa: E501
    ("ports could not be read before", {"listeners": {"unknown": "exit 1"}}, {"listeners": OURS}, ["port 6379", "port 8000"]),  # noqa: E501
    ("an orphan holds memory", {}, {"gpu_processes": {"548": "VLLM::EngineCore"}}, ["process 548 (VLLM::EngineCore)"]),
    ("a stranger holds memory", {}, {"gpu_processes": {"999": "train.py"}}, []),
    ("the driver died", {}, {"gpu_processes": {"unknown": "exit code 15"}}, ["cannot verify that GPU memory is free: exit code 15"]),  # noqa: E501
    ("no driver", {}, {"gpu_processes": None}, []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "before", "after", "expected"), CASES, ids=[case[0] for case in CASES])
def test_what_is_left_is_named_with_a_fix(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any], expected: list[str]
) -> None:
    left = remains(node_facts(1, before), node_facts(1, after), ports={6379, 8000, 6380}, pids={548})
    assert len(left) == len(expected)
    for (what, fix), words in zip(left, expected, strict=True):
        assert words in what
        assert fix


def test_a_node_where_nothing_ran_had_no_ports_of_ours() -> None:
    after = node_facts(1, {"listeners": {"unknown": "exit 1"}})
    assert remains(after, after, ports=set(), pids=set()) == []


def test_the_result_names_what_was_removed_or_that_there_was_nothing() -> None:
    assert "nothing was running" in render.down_result(DownResult("demo", {"gpu1": ()}, 0.1, {}, {}))
    text = render.down_result(DownResult("demo", {"gpu1": ("demo-node",), "gpu2": ()}, 1.5, {}, {}))
    assert "gpu1: removed demo-node" in text
    assert "gpu2" not in text
