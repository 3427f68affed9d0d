"""What the lab needs of this machine: Linux, root, and a few Debian packages (`lab setup` installs those)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.lab.commands import CommandError, Say, run

NEEDED = {
    "dockerd": ("docker.io",),
    "docker": ("docker-cli", "docker.io"),  # a package of its own from Debian 13 on
    "sshd": ("openssh-server",),
    "ssh-keygen": ("openssh-client",),
    "debootstrap": ("debootstrap",),
    "ip": ("iproute2",),
    "ps": ("procps",),
    "hostname": ("hostname",),
    "nsenter": ("util-linux",),
    "unshare": ("util-linux",),
    "setpriv": ("util-linux",),
    "pivot_root": ("util-linux", "util-linux-extra"),
    "mount": ("mount",),
    "tar": ("tar",),
    "nft": ("nftables",),  # a firewall between the nodes, for drills and tests
}
"""Commands that the lab runs, and the Debian packages that have them (the first one that exists is taken)."""
FOR_TESTS = {
    "chromium-headless-shell": ("chromium-headless-shell",),
    "promtool": ("prometheus",),
    "zsh": ("zsh",),
    "fish": ("fish",),
    "tcsh": ("tcsh",),
    "busybox": ("busybox",),
    "ksh": ("ksh93u+m", "ksh"),
    "mksh": ("mksh",),
}
"""The same of what this project's tests run: a browser, a real Prometheus, and the login shells of strangers."""
ENGINE_ONLY = ("dockerd", "docker", "debootstrap", "tar")
"""Commands that a lab of ssh-only nodes does without."""
IMAGE_ONLY = ("debootstrap", "nft")
"""Commands that a lab with an image of the user's does without: those that make the lab's own, and its tests'."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""debootstrap checks the archive's signature against it (package debian-archive-keyring)."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLICY = Path("/usr/sbin/policy-rc.d")


def require_root() -> None:
    """Refuse anything but Linux and root: namespaces, mounts and engines need both."""
    if sys.platform != "linux":
        raise UsageError(
            f"the lab needs Linux (this is {sys.platform})", hint="use a Linux machine or a virtual machine"
        )
    if os.geteuid() != 0:
        raise UsageError("the lab needs root: it makes namespaces, mounts and engines", hint="run it with sudo")


def missing(*, engine: bool = True, image: bool = True, tests: bool = False) -> tuple[str, ...]:
    """Commands (and the keyring) that are not there. `image`: also those that make the lab's own image."""
    wanted = [name for name in NEEDED if (engine or name not in ENGINE_ONLY) and (image or name not in IMAGE_ONLY)]
    wanted += FOR_TESTS if tests else ()
    absent = [name for name in wanted if shutil.which(name, path=SYSTEM_PATH) is None]
    return (*absent, *([KEYRING.name] if engine and image and not KEYRING.exists() else []))


def check(*, engine: bool, image: bool = True) -> None:
    """Refuse to go on where something is missing."""
    require_root()
    if absent := missing(engine=engine, image=image):
        raise UsageError(
            f"this machine lacks what the lab needs: {', '.join(absent)}", hint="run: clusterctl lab setup"
        )


def setup(say: Say, *, tests: bool = False) -> tuple[str, ...]:
    """Install what is missing, and only that; start no service. Return the packages that were installed."""
    require_root()
    absent = missing(tests=tests)
    if not absent:
        return ()
    if shutil.which("apt-get") is None:
        raise UsageError(
            f"`lab setup` installs Debian packages, and this machine has no apt-get; missing: {', '.join(absent)}",
            hint="install Docker Engine, OpenSSH's server, debootstrap and iproute2 by hand",
        )
    say("apt-get update")
    stale = ""
    try:
        _apt("update")
    except CommandError as error:  # one broken source of many must not stop what the others can deliver
        stale = f"\n(before that, {error.message})"
    packages = _packages_of(absent)
    say(f"apt-get install {' '.join(packages)}")
    try:
        with _no_services():
            _apt("install", "--yes", "--no-install-recommends", *packages)
    except CommandError as error:
        raise ClusterctlError(
            f"installing {' '.join(packages)} failed: {error.message}{stale}",
            hint="check this machine's network and apt sources, then run the same command again",
        ) from error
    if absent := missing(tests=tests):
        raise ClusterctlError(f"still missing after installing {' '.join(packages)}: {', '.join(absent)}")
    return packages


def _packages_of(commands: tuple[str, ...]) -> tuple[str, ...]:
    chosen = []
    for command in commands:
        candidates = {**NEEDED, **FOR_TESTS}.get(command, ("debian-archive-keyring",))
        chosen.append(next((name for name in candidates if _exists(name)), candidates[-1]))
    return tuple(dict.fromkeys(chosen))


def _exists(package: str) -> bool:
    """Whether apt knows an installable package of that name."""
    try:
        return "Candidate: (none)" not in (policy := run(["apt-cache", "policy", package])) and bool(policy.strip())
    except CommandError:
        return False


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    run(["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", *arguments], timeout_s=1800, env=environment)


@contextmanager
def _no_services() -> Iterator[None]:
    """Debian starts what it installs, unless policy-rc.d says no. A policy that the machine has is left alone."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
