"""What test_gpus_of_host.py does on a machine with GPUs (gpus.sh), as one line of JSON on standard output.

Arguments: a folder for everything that is written, the name of the lab.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def image(root: Path) -> None:
    """A root file system with a shell, a few commands and this system's Python: enough for a probe."""
    for folder in ("usr/bin", LIBRARIES, "lib64", "etc", "tmp", "proc", "sys", "dev", "root", "models"):
        (root / folder).mkdir(parents=True)
    programs = [
        Path(shutil.which(name, path="/usr/bin:/bin") or "").resolve() for name in ("sh", "ls", "cat", "env", "python3")
    ]
    for program in programs:
        shutil.copy(program, root / "usr/bin")
    python = programs[-1].name
    for link, target in (("usr/bin/sh", programs[0].name), ("usr/bin/python3", python), ("bin", "usr/bin")):
        if not (root / link).exists():
            (root / link).symlink_to(target)
    (root / "lib").symlink_to("usr/lib")
    shutil.copytree(
        f"/usr/lib/{python}", root / "usr/lib" / python, ignore=shutil.ignore_patterns("test", "__pycache__")
    )
    modules = list((root / "usr/lib" / python / "lib-dynload").glob("*.so"))
    said = subprocess.run(["ldd", *map(str, [*programs, *modules])], capture_output=True, text=True, check=False).stdout
    for library in set(re.findall(r"(/\S+\.so\S*)", said)):
        folder = "lib64" if "/ld-" in library else LIBRARIES
        if Path(library).exists() and not Path(library).is_relative_to(root):
            shutil.copy(library, root / folder)


class Drill:
    """A lab on the machine's GPUs, and what was seen."""

    def __init__(self, work: Path, name: str) -> None:
        self.work, self.name = work, name
        self.seen: dict[str, Any] = {}

    def clusterctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of ours."""
        argv = [sys.executable, "-m", "clusterctl", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300, cwd=self.work)

    def up(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`lab up` with the machine's GPUs."""
        given = ("--image", str(self.work / "image"), "--model", str(self.work / "model"))
        return self.clusterctl("lab", "up", "--name", name, "--gpus-of-host", *given, "--dir", f"{name}.d", *options)

    def on(self, node: int, command: str) -> str:
        """On a node, as the operator gets there."""
        folder = self.work / f"{self.name}.d"
        address = yaml.safe_load((folder / "inventory.yaml").read_text())["nodes"][node - 1]["host"]
        argv = ["ssh", "-q", "-i", str(folder / "id_ed25519"), "-o", f"UserKnownHostsFile={folder / 'known_hosts'}",
                f"root@{address}", command]  # fmt: skip
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60).stdout

    def run(self) -> None:
        """Everything, in order."""
        image(self.work / "image")
        (self.work / "model").mkdir()
        (self.work / "model/config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        made = self.up(self.name)
        self.seen["up"] = (made.returncode, made.stderr)
        if made.returncode:
            return
        inventory = self.work / f"{self.name}.d/inventory.yaml"
        picture = yaml.safe_load(inventory.read_text())["container"]["image"]
        for node in (1, 2):
            given = f"docker run --rm --network none --entrypoint sh --device nvidia.com/gpu=all {picture} -c"
            self.seen[f"node{node}"] = {
                "dev": self.on(node, "ls /dev").split(),
                "smi": self.on(node, "nvidia-smi --query-gpu=index,uuid,name,pci.bus_id").splitlines(),
                "model": self.on(node, "cat /models/model/config.json"),
                "container": self.on(node, f"{given} 'ls /dev'").split(),
                "driver": self.on(node, f"{given} 'cat ${{LD_LIBRARY_PATH%%:*}}/libcuda.so.1'").strip(),
            }
        checked = self.clusterctl("-i", str(inventory), "check", "--json")
        self.seen["check"] = (checked.returncode, json.loads(checked.stdout))
        self.seen["again"] = self.up(self.name).returncode
        other = self.up(f"{self.name}2", "--nodes", "1", "--gpus", "1")
        self.seen["other"] = (other.returncode, other.stderr)


def main() -> None:
    """Leave nothing behind, whatever happens."""
    drill = Drill(Path(sys.argv[1]), sys.argv[2])
    try:
        drill.run()
    finally:
        drill.seen["down"] = [
            drill.clusterctl("lab", "down", "--name", drill.name + end).returncode for end in ("", "2")
        ]
        print(json.dumps(drill.seen))


if __name__ == "__main__":
    main()
