"""`check` asks the image what it is, compares nodes, and leaves nothing of its own behind."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml

from clusterctl.facts.containers import STARTING_S

from .conftest import Clusterctl, Rehearsal

pytestmark = pytest.mark.lab


def findings(clusterctl: Clusterctl, *words: str) -> dict[str, Any]:
    """Code → finding, of `check --json`."""
    return {finding["code"]: finding for finding in clusterctl("check", "--json", *words).json()["findings"]}


def image_of(rehearsal: Rehearsal) -> str:
    return str(yaml.safe_load(rehearsal.clusterctl.inventory.read_text())["container"]["image"])


def test_a_good_lab_has_no_findings_and_keeps_no_container(clean: Rehearsal) -> None:
    ran = clean.clusterctl("check", "--json")
    assert (ran.code, ran.json()["findings"], ran.json()["identity"]) == (0, [], [])
    assert [clean.containers(name) for name in clean.names()] == [[], []]


def test_another_ray_behind_the_same_tag_is_found_on_its_node(clean: Rehearsal) -> None:
    image, node = image_of(clean), clean.names()[1]
    metadata = "/opt/venv/lib/python3*/site-packages/ray-*.dist-info/METADATA"
    change = f"sed -i 's/^Version: .*/Version: 2.51.0/' {metadata}"
    clean.lab.exec(node, ["docker", "tag", image, "kept:good"])
    try:
        clean.lab.exec(node, ["docker", "run", "--name", "change", "--entrypoint", "sh", image, "-c", change])
        clean.lab.exec(node, ["docker", "commit", "change", image])
        clean.lab.exec(node, ["docker", "rm", "change"])
        ran = clean.clusterctl("check", "--json")
        found = {finding["code"]: finding for finding in ran.json()["findings"]}
        assert {"image-differs", "ray-differs", "ray-without-tokens"} <= set(found)
        assert all(found[code]["nodes"] == [node] for code in ("image-differs", "ray-differs", "ray-without-tokens"))
        assert "2.51.0" in found["ray-differs"]["seen"]
        rows = {row["title"]: row for row in ran.json()["identity"]}
        assert rows["Ray"]["cells"][node] == "2.51.0"
        assert rows["Ray"]["rating"] == "fails"
        assert ran.code == 1
        waived = clean.clusterctl.with_changes("waived", {"waive": sorted(found)})("check")
        assert waived.code == 0
        assert f"waived error [ray-differs] {node}" in waived.out
    finally:
        clean.lab.exec(node, ["docker", "tag", "kept:good", image])
        clean.lab.exec(node, ["docker", "rmi", "kept:good"])


def test_limits_and_flags_that_the_node_cannot_give_are_found(clean: Rehearsal) -> None:
    small = clean.clusterctl.with_changes("small", {"container.ipc": "private", "container.shm_bytes": 67108864})
    assert findings(small)["shm-too-small"]["severity"] == "error"
    missing = clean.clusterctl.with_changes("device", {"container.devices": ["/dev/no-such-device"]})
    assert "no-such-device" in findings(missing)["container-start-fails"]["seen"]
    gpus = clean.clusterctl.with_changes("gpus", {"accelerator.kind": "nvidia"})
    assert "gpu" in findings(gpus)["gpu-container-fails"]["seen"]


def test_a_volume_that_is_not_there_is_not_made_by_looking(clean: Rehearsal) -> None:
    volumes = clean.clusterctl.with_changes("volume", {"container.volumes": ["/srv/not-there:/cache"]})
    assert findings(volumes) == {}
    for node in clean.names():
        assert "not-there" not in clean.lab.exec(node, ["ls", "/srv"]).split()


def test_vllm_is_asked_about_the_configuration_that_it_reads(clean: Rehearsal) -> None:
    """config.json names a class that nobody has, Mistral's params.json one that vLLM 0.32 itself makes of it."""
    homes = [clean.lab.disk(node) / "models/tiny" for node in clean.names()]
    before = (homes[0] / "config.json").read_bytes()
    params = {"dim": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 256, "vocab_size": 512}
    try:
        for home in homes:
            said = {**json.loads(before), "architectures": ["NobodysForCausalLM"]}
            (home / "config.json").write_text(json.dumps(said), encoding="utf-8")
            (home / "params.json").write_text(json.dumps({**params, "norm_eps": 1e-5}), encoding="utf-8")
        for kind, known in (("hf", False), ("mistral", True)):
            asked = clean.clusterctl.with_changes(kind, {"serve.options.config-format": kind})
            found = findings(asked, "--deep")
            assert "model-support-unknown" not in found
            assert ("model-not-in-registry" not in found) == known
        assert "NobodysForCausalLM" in findings(clean.clusterctl, "--deep")["model-not-in-registry"]["seen"]
    finally:
        for home in homes:
            (home / "config.json").write_bytes(before)
            (home / "params.json").unlink(missing_ok=True)


def test_a_probe_that_was_left_is_no_part_of_the_cluster_and_is_removed(clean: Rehearsal) -> None:
    node = clean.names()[0]
    cluster = yaml.safe_load(clean.clusterctl.inventory.read_text())["cluster"]
    labels = ["--label", f"clusterctl.cluster={cluster}", "--label", "clusterctl.role=probe"]
    clean.lab.exec(node, ["docker", "create", "--name", f"{cluster}-probe-old", *labels, image_of(clean)])
    assert clean.clusterctl("status").code == 4
    planned = clean.clusterctl("plan", "--json").json()["nodes"]
    assert [row["action"] for row in planned] == ["create", "create"]
    assert clean.containers(node) == [f"{cluster}-probe-old"]
    time.sleep(STARTING_S + 1)
    assert clean.clusterctl("check").code == 0
    assert clean.containers(node) == []


def test_a_check_that_is_killed_leaves_nothing_that_stays(clean: Rehearsal) -> None:
    process = clean.clusterctl.started("check")
    time.sleep(1.5)
    process.kill()
    process.communicate()
    time.sleep(STARTING_S + 1)  # younger ones may be about to be started by a run that is not ours
    assert findings(clean.clusterctl) == {}
    deadline = time.monotonic() + 30
    while any(clean.containers(name) for name in clean.names()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [clean.containers(name) for name in clean.names()] == [[], []]
