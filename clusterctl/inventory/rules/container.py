"""Rules for the container: environment, shared memory, limits, volumes, the model's path."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Set

from clusterctl.inventory.issue import Issue, KeyPath, quoted
from clusterctl.inventory.raw import dig, entries, items, text, whole
from clusterctl.secrets.names import is_refused

RESERVED_IN_CONTAINER = ("/etc/clusterctl", "/opt/clusterctl")


# Environment.


def environments(data: object) -> Iterator[tuple[KeyPath, str]]:
    """Every variable that the file sets."""
    places: list[KeyPath] = [("container", "env")]
    places += [("nodes", index, "env") for index in range(len(items(dig(data, "nodes"))))]
    for place in places:
        for name in entries(dig(data, *place)):
            yield (*place, name), name


def derived_env(data: object, derived: Set[str]) -> Iterator[Issue]:
    """Values that differ from node to node are clusterctl's: those of `derived`."""
    for place, name in environments(data):
        if name.upper() in derived:
            yield Issue(place, "clusterctl sets this variable itself on every node", "remove it")


def secret_env(data: object, derived: Set[str]) -> Iterator[Issue]:
    """Secrets do not belong in a container's environment, nor in an inventory that is in version control. Those of
    `derived` are told by `derived_env`."""
    for place, name in environments(data):
        if name.upper() not in derived and is_refused(name):
            hint = "remove it (a model at model.path needs no token), or mount a 0600 file with container.volumes"
            yield Issue(place, "this looks like a secret, and whoever may use the container engine can read it", hint)


# Container.


def shared_memory(data: object) -> Iterator[Issue]:
    """`shm_bytes` is of a private IPC namespace."""
    given = "shm_bytes" in entries(dig(data, "container"))
    if given and dig(data, "container", "ipc") == "host":
        message = "has no effect: with ipc host the container uses the node's own /dev/shm"
        yield Issue(("container", "shm_bytes"), message, "remove it, or set container.ipc: private")


def ulimits(data: object) -> Iterator[Issue]:
    """A soft limit above the hard one is refused by the kernel."""
    for name, limit in entries(dig(data, "container", "ulimits")).items():
        soft, hard = whole(dig(limit, "soft")), whole(dig(limit, "hard"))
        if soft is None or hard is None or hard == -1 or -1 < soft <= hard:
            continue
        yield Issue(("container", "ulimits", name), f"soft {soft} is above hard {hard}", "lower soft or raise hard")


def volumes(data: object) -> Iterator[Issue]:
    """Mounts must not hide each other, the model, or what clusterctl puts into the container."""
    model = text(dig(data, "model", "path"))
    first: dict[str, int] = {}
    for index, volume in enumerate(items(dig(data, "container", "volumes"))):
        target = mount_target(volume)
        if target is None:
            continue
        place = ("container", "volumes", index)
        reserved = [kept for kept in RESERVED_IN_CONTAINER if covers(target, kept) or covers(kept, target)]
        if target in first:
            message = f"{quoted(target)} is already the target of container.volumes[{first[target]}]"
            yield Issue(place, message, "mount each one at its own path")
        elif reserved:
            message = f"{quoted(target)} collides with {reserved[0]}, which clusterctl uses itself"
            yield Issue(place, message, "mount it elsewhere")
        elif model and covers(target, posixpath.normpath(model)):
            message = f"{quoted(target)} would hide model.path {quoted(model)}, which is mounted automatically"
            yield Issue(place, message, "remove it, or mount it elsewhere")
        first.setdefault(target, index)


def mount_target(volume: object) -> str | None:
    """The path in the container of /on/node:/in/container[:ro]."""
    parts = volume.split(":") if isinstance(volume, str) else []
    if len(parts) not in (2, 3) or not parts[1].startswith("/"):
        return None
    return posixpath.normpath("/" + parts[1].lstrip("/"))


def covers(above: str, path: str) -> bool:
    """Whether a mount at `above` hides `path`."""
    return path == above or path.startswith(above.rstrip("/") + "/")


def model_path(data: object) -> Iterator[Issue]:
    """The model's directory is mounted at its own path, so it must be a plain one, and not the root."""
    given = text(dig(data, "model", "path"))
    if given is None or not given.startswith("/"):
        return
    plain = posixpath.normpath("/" + given.lstrip("/"))
    if plain == "/":
        yield Issue(("model", "path"), "the root directory cannot be the model", "give the model's own directory")
    elif given.rstrip("/") != plain:
        yield Issue(("model", "path"), f"{quoted(given)} is not a plain path", f"write {plain}")
    elif any(covers(kept, plain) or covers(plain, kept) for kept in RESERVED_IN_CONTAINER):
        yield Issue(("model", "path"), f"{quoted(given)} collides with a path that clusterctl uses in the container")
