"""A node's disk: what a fresh machine would have on it. Made once; kept through power cuts; removed by `lab down`."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

from clusterctl.lab.commands import CommandError, run
from clusterctl.lab.image.cache import Image
from clusterctl.lab.power import INIT
from clusterctl.lab.state import SYSTEM, LabNode, LabPaths, LabSpec, write_whole
from clusterctl.rendering import render, templates_dir

_TEMPLATES = templates_dir() / "lab"
MODELS = "models"
"""Where the model lies on a node's disk, relative to its root."""
_DIRECTORIES = (
    *("dev", "etc/ssh", "home", "mnt", "models", "opt", "proc", "root", "run", "srv", "sys", "tmp"),
    *("var/cache/vllm", "var/lib", "var/log", "var/spool"),
)
_HOST_KEY = "etc/ssh/ssh_host_ed25519_key"


def ensure(paths: LabPaths, spec: LabSpec, node: LabNode, image: Image | None, system: Path | None = None) -> None:
    """Make the node's disk, unless it has one. Renamed into place when complete: half a disk is never booted."""
    final = paths.node(node.name)
    if not exists(paths, node):
        remove_tree(final)
        fresh = final.with_name(f".{node.name}.new")
        remove_tree(fresh)
        _format(fresh / "root", paths, spec, node)
        if image is not None:
            if spec.model is not None and spec.model_path is not None:
                _link_model(spec.model, fresh / "root" / str(spec.model_path)[1:])
            else:
                _install_models(fresh / "root", image)
            if system is not None:
                _install_podman(fresh, image, system)
            else:
                _install_image(fresh / "root", image)
        fresh.rename(final)
    # Also for a disk that was there: a newer clusterctl brings its newer init.
    write_whole(final / INIT, (_TEMPLATES / "node-init.sh").read_text(), mode=0o755)


def exists(paths: LabPaths, node: LabNode) -> bool:
    """Whether the node has its disk."""
    return paths.disk(node.name).is_dir()


def host_key(paths: LabPaths, node: LabNode) -> str:
    """The node's public SSH host key, as known_hosts wants it: type and key."""
    kind, key = (paths.disk(node.name) / f"{_HOST_KEY}.pub").read_text().split()[:2]
    return f"{kind} {key}"


def remove_tree(path: Path) -> None:
    """Remove a directory tree, without leaving its file system (a mount below it would be someone's data)."""
    if path.exists():
        run(["rm", "-rf", "--one-file-system", str(path)], timeout_s=600, tied=True)


def _format(root: Path, paths: LabPaths, spec: LabSpec, node: LabNode) -> None:
    for directory in _DIRECTORIES:
        (root / directory).mkdir(parents=True)
    (root / "var/run").symlink_to("/run")
    (root / "var/lock").symlink_to("/run/lock")
    (root / "var/tmp").mkdir()
    (root / "var/tmp").chmod(0o1777)
    (root / "root").chmod(0o700)
    for file in sorted((_TEMPLATES / "etc").iterdir()):
        target = root / "etc" / ("ssh/sshd_config" if file.name == "sshd_config" else file.name)
        target.write_bytes(file.read_bytes())
        target.chmod(0o600 if file.name == "shadow" else 0o644)
    (root / "etc/hostname").write_text(f"{node.name}\n")
    (root / "etc/hosts").write_text(render("lab/hosts.j2", nodes=spec.members))
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / "root/.ssh").mkdir(mode=0o700)
    write_whole(root / "root/.ssh/authorized_keys", (paths.files / "id_ed25519.pub").read_bytes(), mode=0o600)
    make_key(root / _HOST_KEY, f"root@{node.name}")


def make_key(path: Path, comment: str) -> None:
    """Make an Ed25519 key pair without a passphrase."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def _install_models(root: Path, image: Image) -> None:
    """A real copy for each node, so that one node's copy can be damaged."""
    shutil.copytree(image.models, root / MODELS, dirs_exist_ok=True)


def _link_model(model: Path, target: Path) -> None:
    """Put a model's files there as hard links, links in it followed; or leave the place empty, to be mounted, where
    they are on another file system."""
    target.mkdir(parents=True)
    try:
        run(["cp", "-rlL", "--", f"{model}/.", str(target)], timeout_s=600, tied=True)
    except CommandError:
        remove_tree(target)
        target.mkdir(parents=True)


def _install_image(root: Path, image: Image) -> None:
    """Give the node's engine the image without a second copy of its files: hard links to layers, which an engine never
    changes (overlay2 copies a file up before the first write), and a copy of the engine's own records. The image ID is
    then the same on all nodes, as after a pull by digest.
    """
    data = root / "var/lib/docker"
    data.mkdir(mode=0o710)
    run(["cp", "-al", str(image.data / "overlay2"), str(data / "overlay2")], timeout_s=600, tied=True)
    run(["cp", "-a", str(image.data / "image"), str(data / "image")], timeout_s=600, tied=True)


def _install_podman(home: Path, image: Image, system: Path) -> None:
    """Give the node a root's programs and Podman the image, as hard links too: nothing writes into either."""
    run(["cp", "-al", str(system), str(home / SYSTEM)], timeout_s=600, tied=True)
    configured = home / "root/etc/containers"
    configured.mkdir()
    shutil.copy(system / "etc/containers/policy.json", configured)
    # A limit that the engine was not given, and may not raise, would keep every container from starting.
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    (configured / "containers.conf").write_text(render("lab/containers.conf.j2", nofile=f"{limits[1]}:{limits[1]}"))
    storage = home / "root/var/lib/containers/storage"
    storage.mkdir(parents=True)
    for path in image.podman_storage.iterdir():
        links = ["-al"] if path.name == "overlay" else ["-a"]
        run(["cp", *links, str(path), str(storage / path.name)], timeout_s=600, tied=True)
