"""Shell completion, as bash itself does it: the script sourced, a line driven through its function."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clusterctl.lab.state import LabPaths
from tests.unit.support import BASE

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="no bash on this machine")

DRIVE = """
compopt() { echo "compopt $*"; }
source <(clusterctl completion bash)
COMP_WORDS=(clusterctl "$@"); COMP_CWORD=$#
_clusterctl_completion clusterctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with an inventory, and the command on the path."""
    (tmp_path / "inventory.yaml").write_text(yaml.safe_dump(BASE), encoding="utf-8")
    command = tmp_path / "bin" / "clusterctl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m clusterctl "$@"\n', encoding="ascii")
    command.chmod(0o755)
    return tmp_path


def completed(here: Path, *words: str, **environment: str) -> list[str]:
    """Candidates for the last of the words."""
    own = {key: value for key, value in os.environ.items() if key != "CLUSTERCTL_INVENTORY"}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [str(BASH), "--norc", "-c", DRIVE, "bash", *words],
        cwd=here,
        env={**own, "PATH": f"{here / 'bin'}:{own['PATH']}", "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands(here: Path) -> None:
    assert {"up", "down", "exec", "shell", "lab"} <= set(completed(here, ""))
    assert completed(here, "ex") == ["exec", "explain"]


def test_options(here: Path) -> None:
    assert completed(here, "exec", "gpu1", "--ti") == ["--timeout"]


@pytest.mark.parametrize("words", [["exec", "gp"], ["shell", ""], ["logs", "--node", ""]], ids=" ".join)
def test_nodes_of_the_inventory(here: Path, words: list[str]) -> None:
    assert completed(here, *words) == [node["name"] for node in BASE["nodes"]]


def test_a_node_is_offered_once_and_none_in_the_command_that_runs_there(here: Path) -> None:
    assert completed(here, "exec", "gpu1", "") == ["gpu2"]
    assert completed(here, "exec", "gpu1", "--", "gp") == []
    assert completed(here, "exec", "--all", "") == []


def test_the_inventory_in_play(here: Path) -> None:
    nodes = [{**node, "name": f"other{number}"} for number, node in enumerate(BASE["nodes"])]
    (here / "other.yaml").write_text(yaml.safe_dump({**BASE, "nodes": nodes}), encoding="utf-8")
    assert completed(here, "-i", "other.yaml", "exec", "") == ["other0", "other1"]
    assert completed(here, "exec", "", CLUSTERCTL_INVENTORY="other.yaml") == ["other0", "other1"]
    assert completed(here, "-i", "~/other.yaml", "exec", "", HOME=str(here)) == ["other0", "other1"]


@pytest.mark.parametrize("text", ["{{{", "nodes: 3", "[]", "nodes: [{}, 3, {name: [x]}]", "\x00"])
def test_a_broken_inventory_offers_nothing_and_says_nothing(here: Path, text: str) -> None:
    (here / "broken.yaml").write_text(text, encoding="utf-8")
    assert completed(here, "-i", "broken.yaml", "exec", "") == []


def test_no_inventory_offers_nothing_and_says_nothing(here: Path) -> None:
    assert completed(here, "-i", "nowhere.yaml", "exec", "") == []
    assert completed(here, "-i", ".", "exec", "") == []


def test_files_for_the_inventory(here: Path) -> None:
    assert completed(here, "-i", "") == ["compopt", "-o", "default"]


def test_finding_codes(here: Path) -> None:
    assert completed(here, "check", "gpu-driver-m") == ["gpu-driver-mismatch"]


def test_labs_and_their_nodes(here: Path) -> None:
    for name in ("lab", "other"):
        LabPaths(here, name).home.mkdir(parents=True)
    assert completed(here, "lab", "status", "--name", "", CLUSTERCTL_LAB_ROOT=str(here)) == ["lab", "other"]
    assert completed(here, "lab", "power-off", "", CLUSTERCTL_LAB_ROOT=str(here)) == []
    (LabPaths(here, "lab").home / "lab.json").write_text("{", encoding="utf-8")
    assert completed(here, "lab", "power-off", "", CLUSTERCTL_LAB_ROOT=str(here)) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_name_the_command_and_parse_where_the_shell_is_there(shell: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clusterctl", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"_CLUSTERCTL_COMPLETE={shell}_complete" in done.stdout
    assert "clusterctl" in done.stdout
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(done.stdout, encoding="utf-8")
        subprocess.run([shell, "-n", str(script)], check=True, timeout=20)


def installed(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`completion install` in a home of its own."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "BASH_COMPLETION"))}
    return subprocess.run(
        [sys.executable, "-m", "clusterctl", "completion", *words],
        env={**own, "HOME": str(home), **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


PLACES = {
    "bash": ".local/share/bash-completion/completions/clusterctl",
    "zsh": ".local/share/zsh/site-functions/_clusterctl",
    "fish": ".config/fish/completions/clusterctl.fish",
}


@pytest.mark.parametrize("shell", PLACES)
def test_it_is_installed_once_and_says_where_and_how_to_undo_it(shell: str, tmp_path: Path) -> None:
    path = tmp_path / PLACES[shell]
    first = installed(tmp_path, "install", shell)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[:2] == [f"wrote: {path}", f"undo: rm {path}"]
    assert path.read_text(encoding="utf-8").strip() == installed(tmp_path, shell).stdout.strip()
    written = path.stat().st_mtime_ns
    again = installed(tmp_path, "install", shell)
    assert again.stdout.startswith(f"already there: {path}\n")
    assert path.stat().st_mtime_ns == written
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path], "nothing else is written"


def test_without_a_name_it_is_the_login_shell(tmp_path: Path) -> None:
    assert f"wrote: {tmp_path / PLACES['fish']}" in installed(tmp_path, "install", SHELL="/usr/bin/fish").stdout
    refused = installed(tmp_path, "install", SHELL="/bin/tcsh")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "none of bash, zsh, fish" in refused.stderr


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("a file, no directory", encoding="utf-8")
    refused = installed(tmp_path, "install", "fish")
    assert refused.returncode == 1
    assert f"cannot write {tmp_path / PLACES['fish']}" in refused.stderr


def test_bash_completes_by_the_installed_file(here: Path) -> None:
    assert installed(here, "install", "bash").returncode == 0
    drive = DRIVE.replace("source <(clusterctl completion bash)", f"source {here / PLACES['bash']}")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [str(BASH), "--norc", "-c", drive, "bash", "ex"],
        cwd=here,
        env={**os.environ, "PATH": f"{here / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["exec", "explain"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish on this machine")
def test_fish_completes_by_the_installed_file(here: Path) -> None:
    assert installed(here, "install", "fish").returncode == 0
    done = in_shell(here, "fish", "-c", 'complete --do-complete "clusterctl ex"')
    assert [line.split("\t")[0] for line in done.splitlines()] == ["exec", "explain"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh on this machine")
def test_zsh_finds_the_installed_file(here: Path) -> None:
    assert installed(here, "install", "zsh").returncode == 0
    folder = shlex.quote(str((here / PLACES["zsh"]).parent))
    done = in_shell(
        here,
        "zsh",
        "-f",
        "-c",
        f"fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[clusterctl]",
    )
    assert done.strip() == "_clusterctl"


def in_shell(here: Path, *argv: str) -> str:
    """What a shell prints, with that home."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")}
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        argv,
        cwd=here,
        env={**own, "HOME": str(here), "PATH": f"{here / 'bin'}:{own['PATH']}", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
