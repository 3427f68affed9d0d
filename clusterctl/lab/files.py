"""The operator's files in the lab's directory: key, known_hosts, inventory. Only what the lab wrote is ever removed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clusterctl.errors import UsageError
from clusterctl.lab import disk
from clusterctl.lab.commands import Say
from clusterctl.lab.state import LabPaths, LabSpec, part_of, write_whole
from clusterctl.rendering import render

KEY, PUBLIC_KEY, KNOWN_HOSTS, INVENTORY = "id_ed25519", "id_ed25519.pub", "known_hosts", "inventory.yaml"
NAMES = (KEY, PUBLIC_KEY, KNOWN_HOSTS, INVENTORY)


def refuse_foreign(directory: Path) -> None:
    """Refuse a directory for a new lab that already has a file of a name that the lab would write."""
    for name in NAMES:
        if (directory / name).exists():
            raise UsageError(
                f"{directory / name} exists and was not written by this lab",
                hint="choose another directory with --dir, or move the file away",
            )


def ensure_key(paths: LabPaths) -> None:
    """Make the operator's key, unless the lab has one."""
    if (paths.files / KEY).exists() and (paths.files / PUBLIC_KEY).exists():
        return
    paths.files.mkdir(parents=True, exist_ok=True)
    for name in (KEY, PUBLIC_KEY):
        (paths.files / name).unlink(missing_ok=True)
    disk.make_key(paths.files / KEY, f"clusterctl-lab-{paths.name}")


def write(paths: LabPaths, spec: LabSpec, say: Say) -> None:
    """Write the operator's files; a file that was edited since the lab wrote it stays as it is."""
    nodes = [
        {"address": node.address, "host_key": disk.host_key(paths, node), "name": node.name} for node in spec.members
    ]
    content = {
        KEY: (paths.files / KEY).read_text(),
        PUBLIC_KEY: (paths.files / PUBLIC_KEY).read_text(),
        KNOWN_HOSTS: render("lab/known_hosts.j2", nodes=nodes),
        INVENTORY: render(
            "lab/inventory-gpus.yaml.j2" if spec.gpus_of_host else "lab/inventory.yaml.j2",
            name=spec.name,
            subnet=spec.subnet,
            nodes=nodes,
            image=spec.image,
            gpus=spec.gpus,
            model=str(spec.model_path),
            engine=spec.engine,
        ),
    }
    for name, text in content.items():
        target, ours = spec.directory / name, paths.files / name
        if target.exists() and ours.exists() and target.read_text() != ours.read_text():
            say(f"kept {target}: it was edited")
            continue
        mode = 0o600 if name == KEY else 0o644
        write_whole(ours, text, mode=mode)  # first: a file is the lab's when it equals this copy
        write_whole(target, text, mode=mode)


def remove(paths: LabPaths, directory: Path, say: Say) -> None:
    """Remove what `write` wrote, and the directory when nothing else is in it."""
    for name in NAMES:
        target, ours = directory / name, paths.files / name
        part_of(target).unlink(missing_ok=True)  # of an `up` that was cut off
        if not target.exists() or not ours.exists():
            continue
        # known_hosts is the tools' file: they may add to it. The others are kept when a person changed them.
        if name == KNOWN_HOSTS or target.read_bytes() == ours.read_bytes():
            target.unlink()
        else:
            say(f"kept {target}: it was edited")
    with suppress(OSError):
        directory.rmdir()
