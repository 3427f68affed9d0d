"""What an error tells a person."""

from __future__ import annotations

from clusterctl.errors import ClusterctlError
from clusterctl.hosts.engine.engine import EngineError


def test_an_error_names_its_node_once() -> None:
    assert EngineError("gpu1", "the engine cannot be asked").told() == "gpu1: the engine cannot be asked"
    assert EngineError("gpu1", "gpu1 has no engine").told() == "gpu1 has no engine"
    assert EngineError("gpu1", "gpu10 has no engine").told() == "gpu1: gpu10 has no engine"
    left = EngineError("gpu1", "the engine cannot be asked\nand what was started could not be removed on: gpu1")
    assert left.told().startswith("gpu1: the engine")
    assert ClusterctlError("no node is meant").told() == "no node is meant"
