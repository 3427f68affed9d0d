"""What an error tells a person."""

from __future__ import annotations

from clusterctl.errors import ClusterctlError, NodeFailure, NodesError
from clusterctl.hosts.engine.engine import EngineError


def test_an_error_names_its_node_once() -> None:
    assert EngineError("gpu1", "the engine cannot be asked").full_message() == "gpu1: the engine cannot be asked"
    assert EngineError("gpu1", "gpu1 has no engine").full_message() == "gpu1 has no engine"
    assert EngineError("gpu1", "gpu10 has no engine").full_message() == "gpu1: gpu10 has no engine"
    left = EngineError("gpu1", "the engine cannot be asked\nand what was started could not be removed on: gpu1")
    assert left.full_message().startswith("gpu1: the engine")
    assert ClusterctlError("no node is meant").full_message() == "no node is meant"


def test_nodes_are_counted_and_not_complaints() -> None:
    failures = [NodeFailure("gpu1", "a port is open"), NodeFailure("gpu1", "a process lives"), NodeFailure("gpu2", "x")]
    assert str(NodesError("down", failures)).startswith("down failed on 2 nodes:\n")
    assert str(NodesError("down", failures[:2])).startswith("down failed on 1 node:\n")
