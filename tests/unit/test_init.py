"""`clusterctl init` as a person runs it, on real sshd processes of this machine; and the templates."""

from __future__ import annotations

import getpass
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from clusterctl.cli.init import TEMPLATES
from clusterctl.cli.main import cli
from clusterctl.errors import ClusterctlError, InventoryError, UsageError
from clusterctl.findings.waivers import waivers
from clusterctl.hosts.engine.engine import EngineError
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.schema import json_schema
from clusterctl.inventory.source import parse
from clusterctl.modes.all import mode_of
from clusterctl.modes.rules import mode_rules
from clusterctl.rendering import templates_dir
from tests.inventory.test_inventory_example import SETTING
from tests.unit.sshd import SSHD, OneNode, Sshd, free_port

FOLDER = templates_dir() / "inventories"


def init(path: Path, *options: str, fails: type[ClusterctlError] | None = None) -> Any:
    """Run it; what it printed, or the error that it ended with."""
    done: Result = CliRunner().invoke(cli, ["-i", str(path), "init", *options])
    if fails is not None:
        assert isinstance(done.exception, fails), done.output
        return done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


# On machines.


@pytest.fixture
def node(tmp_path: Path) -> Iterator[OneNode]:
    """A node with sshd, a model in ~/models, and an engine that answers nothing useful."""
    if SSHD is None:
        pytest.skip("no sshd on this machine (Debian: apt-get install openssh-server)")
    found = OneNode(tmp_path)
    found.docker("exit 1")
    yield found
    found.sshd.kill()


def login(node: OneNode, *more: Sshd) -> list[str]:
    known = tmp_known(node, *more)
    return ["--user", getpass.getuser(), "--key", str(node.key), "--known-hosts", str(known)]


def tmp_known(node: OneNode, *more: Sshd) -> Path:
    known = node.folder / "known"
    known.write_text("".join(each.known for each in (node.sshd, *more)), encoding="ascii")
    return known


def a_model(home: Path, name: str, weights: int) -> Path:
    folder = home / "models" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * weights)
    return folder


@pytest.mark.timeout(60)
def test_one_node_with_a_model_and_no_engine(node: OneNode, tmp_path: Path) -> None:
    model = a_model(tmp_path / "node", "tiny", 1000)
    path = tmp_path / "prod.yaml"
    said = json.loads(init(path, "--hosts", f"127.0.0.1:{node.sshd.port}", *login(node), "--yes", "--json"))
    by_field = {choice["field"]: choice for choice in said["choices"]}
    assert str(model) in {by_field["model.path"]["value"], *(r["value"] for r in by_field["model.path"]["rejected"])}
    assert by_field["container.image"]["missing"]
    assert any("could not be asked" in warning for warning in said["warnings"])
    assert (said["path"], said["cluster"]) == (str(path), "prod")
    assert [problem["path"] for problem in said["to_fill_in"]] == ["container.image"]
    with pytest.raises(InventoryError, match=r"container\.image: is still to be filled in"):
        load_inventory(path, (waivers, mode_rules))
    data = yaml.safe_load(path.read_text())
    assert data["nodes"][0]["port"] == node.sshd.port
    assert "network" not in data


@pytest.mark.timeout(60)
def test_with_everything_given_the_file_loads_and_check_is_the_next_command(node: OneNode, tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    given = ["--image", "vllm:1", "--model", "/models/m"]
    said = init(path, "--hosts", f"127.0.0.1:{node.sshd.port}", *login(node), *given, "--yes")
    assert said.endswith(f"next: clusterctl -i {path} check\n")
    inventory = load_inventory(path, (waivers, mode_rules))
    assert (inventory.container.image, inventory.model.path, inventory.cluster) == ("vllm:1", "/models/m", "vllm")
    assert inventory.ssh.key == node.key


@pytest.mark.timeout(60)
def test_a_node_that_does_not_answer_is_written_and_told(node: OneNode, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    hosts = f"127.0.0.1:{free_port()},127.0.0.2:{free_port()},127.0.0.1:{node.sshd.port}"
    said = init(path, "--hosts", hosts, *login(node), "--image", "vllm:1", "--model", "/m", "--yes")
    assert said.count("is left out, since it did not answer") == 2
    assert "refused" in said
    assert "for 1 of 3 nodes" in said
    text = path.read_text()
    data = yaml.safe_load(text)
    assert [node["port"] for node in data["nodes"]] == [node.sshd.port], "only the one that answers is planned with"
    assert "network" not in data
    assert text.count("# Left out, and nothing below counts on it: ") == 2
    load_inventory(path, (waivers, mode_rules))
    # What stands there as a comment is a node, once its marks are taken away.
    taken_in = yaml.safe_load(re.sub(r"^  # (?=- |  )", "  ", text, flags=re.MULTILINE))
    assert len(taken_in["nodes"]) == 3
    assert taken_in["nodes"][1]["port"] == int(hosts.partition(",")[0].rpartition(":")[2])


@pytest.mark.timeout(60)
def test_no_node_answers(node: OneNode, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    error = init(path, "--hosts", f"127.0.0.1:{free_port()}", *login(node), "--yes", fails=ClusterctlError)
    assert error.exit_code == 1
    assert "127.0.0.1" in error.message
    assert not path.exists()


@pytest.mark.timeout(60)
def test_an_unknown_host_key_is_a_node_that_does_not_answer(node: OneNode, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    options = login(node)
    tmp_known(node).write_text("")
    host = f"127.0.0.1:{node.sshd.port}"
    error = init(path, "--hosts", host, *options, "--yes", fails=ClusterctlError)
    assert error.exit_code == 1
    assert "--accept-new-host-keys" in error.message


REDIRECTS = r"""read -r first
while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
case "$first" in
*/images/*) printf 'HTTP/1.1 301 Moved Permanently\r\nLocation: /v1.41/images/x/json\r\nConnection: close\r\n'
    printf 'Content-Length: 0\r\n\r\n' ;;
*) printf 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 21\r\n\r\n{"ApiVersion":"1.41"}' ;;
esac"""
"""An engine that redirects whoever asks for an image, as Docker does for the name `/x`."""


@pytest.mark.timeout(60)
def test_an_image_s_name_that_the_engine_redirects_is_no_bug(node: OneNode) -> None:
    node.docker(REDIRECTS)
    with node.hosts() as hosts, pytest.raises(EngineError, match="cannot be asked to inspect image /x"):
        hosts.head.engine.image("/x")


def at_a_terminal(path: Path, options: list[str], answers: str) -> subprocess.CompletedProcess[str]:
    """Run it with a terminal as its stdin, on which the answers were typed already."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answers.encode())
        return subprocess.run(
            [sys.executable, "-m", "clusterctl", "-i", str(path), "init", *options],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            timeout=40,
        )
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.timeout(60)
def test_at_a_terminal_it_asks(node: OneNode, tmp_path: Path) -> None:
    path = tmp_path / "asked.yaml"
    answers = f"127.0.0.1:{node.sshd.port}\nmine:1\n"
    done = at_a_terminal(path, [*login(node), "--model", "/models/m"], f"{answers}y\n")
    assert done.returncode == 0, done.stderr
    assert f"Write {path}?" in done.stderr
    assert load_inventory(path, (waivers, mode_rules)).container.image == "mine:1"
    refused = tmp_path / "refused.yaml"
    done = at_a_terminal(refused, [*login(node), "--model", "/models/m"], f"{answers}n\n")
    assert (done.returncode, refused.exists()) == (1, False)
    assert "nothing was written" in done.stderr


def test_nothing_is_overwritten_and_nobody_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "there.yaml"
    path.write_text("mine")
    for options in (["--hosts", "127.0.0.1", "--yes"], ["--template", "lab"]):
        error = init(path, *options, fails=UsageError)
        assert error.exit_code == 2
        assert "is not overwritten" in error.message
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no hosts given"),
        (["--hosts", "a"], "no terminal"),
        (["--hosts", " , ", "--yes"], "no hosts given"),
        (["--hosts", "a b", "--yes"], "is no host"),
        (["--hosts", "a,a", "--yes"], "--hosts a: .*already"),
        (["--hosts", "a:99999", "--yes"], "--hosts a:99999"),
        (["--hosts", "localhost", "--user", "me", "--yes"], "no effect"),
        (["--hosts", "a", "--model", "models/x", "--yes"], "^--model: "),
        (["--hosts", "a", "--image", "two words", "--yes"], "^--image: "),
        (["--template", "lab", "--user", "me"], "goes with no other"),
    ],
)
def test_wrong_command_lines(tmp_path: Path, options: list[str], message: str) -> None:
    error = init(tmp_path / "x.yaml", *options, fails=UsageError)
    assert re.search(message, error.message), error.message
    assert not (tmp_path / "x.yaml").exists()


# Templates.


def test_every_template_can_be_named() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_loads_and_validates_as_the_example_does(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    assert str(path) in init(path, "--template", name)
    text = path.read_text(encoding="utf-8")
    assert text == (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    inventory = load_inventory(path, (waivers, mode_rules))
    per_node = inventory.accelerator.per_node
    assert isinstance(per_node, int)
    world = mode_of(inventory).world(inventory, per_node)
    assert world.gpus_per_node == per_node, "every accelerator is used"
    Draft202012Validator(json_schema()).validate(parse(text).data)


@pytest.mark.parametrize("name", TEMPLATES)
def test_uncommenting_defaults_of_a_template_changes_nothing(name: str, tmp_path: Path) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    path, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    path.write_text(text, encoding="utf-8")
    other.write_text(SETTING.sub(r"\1", text), encoding="utf-8")
    assert load_inventory(other, (waivers, mode_rules)) == load_inventory(path, (waivers, mode_rules))


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_setting_of_a_template_is_explained(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    first_node = True
    for number, line in enumerate(lines):
        named = re.match(r"\s*- name:", line)
        if named and lines[number - 1].strip().startswith("#"):
            first_node = True
        elif named:
            first_node = False
        elif re.match(r"[a-z]", line):
            first_node = True
        is_setting = re.match(r"\s*#?[a-z][a-z0-9_-]*:|\s*- name:", line) and not re.match(r"[a-z]+:$", line)
        if is_setting and first_node and not re.match(r"[a-z]\S*:$|version: 1$|\s+options:$", line):
            assert re.match(r"\s*# ", lines[number - 1]), f"{name}:{number + 1}: {line}"
