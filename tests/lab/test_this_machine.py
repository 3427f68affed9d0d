"""`host: localhost`, for real: clusterctl runs on the node itself, with its engine and without SSH."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import clusterctl
from clusterctl.rendering import templates_dir

from .conftest import Rehearsal

pytestmark = pytest.mark.lab

PLACE = "opt/clusterctl-here"
UNSET = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""What this machine says of files that the node need not have."""


class OnTheNode:
    """clusterctl on node1, with the Python of the system: its sources and packages are copied there."""

    def __init__(self, lab: Rehearsal) -> None:
        self._lab = lab
        self._root = lab.lab.disk("node1") / PLACE
        packages = Path(yaml.__file__).parents[1]
        shutil.copytree(packages, self._root / "packages", symlinks=True)
        shutil.copytree(Path(clusterctl.__file__).parent, self._root / "packages/clusterctl", dirs_exist_ok=True)
        shutil.copytree(templates_dir(), self._root / "packages/templates", dirs_exist_ok=True)
        data = yaml.safe_load(lab.clusterctl.inventory.read_text())
        for section in ("ssh", "network"):
            del data[section]
        data |= {"nodes": [{"name": "here", "host": "localhost"}]}
        data["accelerator"]["per_node"] = 1
        (self._root / "inventory.yaml").write_text(yaml.safe_dump(data))

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        unset = [word for name in UNSET for word in ("-u", name)]
        argv = ["env", *unset, f"PYTHONPATH=/{PLACE}/packages", "HOME=/root", "/usr/bin/python3", "-m", "clusterctl"]
        argv = [*self._lab.lab.enter("node1"), *argv, "-i", f"/{PLACE}/inventory.yaml", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)

    def remove(self) -> None:
        """Everything that was copied."""
        shutil.rmtree(self._root)


@pytest.fixture
def here(clean: Rehearsal) -> Iterator[OnTheNode]:
    on_the_node = OnTheNode(clean)
    yield on_the_node
    on_the_node.remove()


def test_a_node_checks_itself_runs_commands_and_leaves_nothing(here: OnTheNode, clean: Rehearsal) -> None:
    checked = here("check", "--json")
    assert (checked.returncode, json.loads(checked.stdout)["findings"]) == (0, []), checked.stderr
    planned = here("plan", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["executor"] == "mp"
    assert here("status").returncode == 4
    echoed = here("exec", "--host", "here", "--", "sh", "-c", "echo it; exit 5")
    assert (echoed.returncode, echoed.stdout) == (5, "it\n")
    late = here("exec", "--host", "here", "--timeout", "1", "--", "sleep", "4711")
    assert "was ended" in late.stderr
    assert not [each for each in clean.processes("node1") if "4711" in each]
    ended = here("down")
    assert ended.returncode == 0, ended.stderr
    assert clean.containers("node1") == []
