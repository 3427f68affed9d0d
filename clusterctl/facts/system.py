"""The machine under a node: clock, disks, limits, interfaces, routes, its own name, its engine's process. Pure.

That a node has no default route (F6) is a fact and no finding: vLLM looks for its own address through that route only
where none is given, and clusterctl gives it on every node (VLLM_HOST_IP). Private networks often have none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from clusterctl.facts import parse
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.kernel_net import Route, kernel_routes

CAP_SYS_RESOURCE = 24
"""Number of the capability that may raise a limit above its hard limit (Linux, include/uapi/linux/capability.h)."""

UNLIMITED = -1
"""How a limit that is none is written, as in the inventory's ulimits."""


@dataclass(frozen=True)
class Clock:
    """The node's clock minus ours, in seconds. The truth is within ± uncertainty_s: half of what the network took."""

    offset_s: float
    uncertainty_s: float


@dataclass(frozen=True)
class Filesystem:
    """The file system that a path is on, in bytes; inodes are 0 where it has no limit of them (btrfs)."""

    path: str
    type: str
    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int


@dataclass(frozen=True)
class Interface:
    """A network interface; speed in Mbit/s, None where there is no link or the driver does not say."""

    name: str
    mtu: int
    state: str
    speed_mbps: int | None
    lowers: tuple[str, ...] = ()
    """Interfaces that it stands on: a bond's or bridge's members, a VLAN's link."""


@dataclass(frozen=True)
class EngineProcess:
    """The engine's process on the node. A limit of -1 is unlimited."""

    pid: int
    memlock_hard_bytes: int
    nofile_hard: int
    may_raise_limits: bool
    """Whether it holds CAP_SYS_RESOURCE, and so can give a container more than its own hard limits."""


@dataclass(frozen=True)
class Services:
    """What the containers of an engine without a daemon depend on."""

    restarts: bool = False
    """Whether podman-restart.service is enabled: it starts root's containers after a boot."""
    user_restarts: bool = False
    """The same of the login's own Podman."""
    lingers: bool = False
    """Whether the login's services go on after its last logout."""
    first_port: int = 1024
    """First port that is not root's alone."""


@dataclass(frozen=True)
class SystemFacts:
    """What one pass read of a machine."""

    os: Fact[str]
    """PRETTY_NAME of os-release."""
    virtual: Fact[bool]
    """Whether a hypervisor runs this kernel; None where the processor does not say (not x86)."""
    systemd: Fact[bool]
    command_line: Fact[str]
    """The kernel's."""
    memory_total_bytes: Fact[int]
    clock: Clock | Unknown
    login_memlock_bytes: Fact[int]
    """Hard limit of locked memory of an SSH login; -1 is unlimited."""
    engine_process: Fact[EngineProcess]
    filesystems: tuple[Filesystem, ...] | Unknown
    """Of /tmp, the engine's data root and the model, as far as they exist."""
    interfaces: tuple[Interface, ...] | Unknown
    routes: tuple[Route, ...] | Unknown
    model_label: Fact[str]
    """SELinux' label of the model's directory, where SELinux enforces; None where it does not."""
    own_addresses: Fact[tuple[IPv4Address, ...]]
    """What the node's host name resolves to on the node; None: to nothing."""
    services: Fact[Services] = None
    """What containers without a daemon depend on."""
    login_nofile: Fact[int] = None
    """Hard limit of open files of an SSH login; -1 is unlimited."""

    def filesystem(self, path: str) -> Filesystem | None:
        """The file system of a path that was looked at."""
        known = () if isinstance(self.filesystems, Unknown) else self.filesystems
        return next((item for item in known if item.path == path), None)


def system(found: Mapping[str, parse.Section], *, asked_at_s: float, answered_at_s: float) -> SystemFacts:
    """Everything about the machine. The times are our own clock's, right before and after the pass, in Unix seconds."""
    return SystemFacts(
        os=_os(found),
        virtual=_answer(found, "virtual"),
        systemd=_answer(found, "systemd"),
        command_line=_line(found, "cmdline"),
        memory_total_bytes=parse.memory(found, "MemTotal"),
        clock=clock(found, asked_at_s, answered_at_s),
        login_memlock_bytes=_login_limit(found, "Max locked memory"),
        login_nofile=_login_limit(found, "Max open files"),
        services=services(found),
        engine_process=engine_process(found),
        filesystems=filesystems(found),
        interfaces=interfaces(found),
        routes=routes(found),
        model_label=_line(found, "selinux"),
        own_addresses=own_addresses(found),
    )


def pairs(output: str) -> Mapping[str, str]:
    """Lines `key, tab, value` of a section."""
    return dict(row.split("\t", 1) for row in output.splitlines() if "\t" in row)


def clock(found: Mapping[str, parse.Section], asked_at_s: float, answered_at_s: float) -> Clock | Unknown:
    """The clock's offset, from its readings at the beginning and the end of the pass.

    The first was taken after `asked_at_s` and the last before `answered_at_s`: that bounds the offset on both sides.
    """
    begin, end = _time(found, "clock_begin"), _time(found, "clock_end")
    if isinstance(begin, Unknown):
        return begin
    if isinstance(end, Unknown):
        return end
    highest = begin.latest_s - asked_at_s
    lowest = end.earliest_s - answered_at_s
    if lowest > highest:
        return Unknown("a clock was set while it was read")
    return Clock((highest + lowest) / 2, (highest - lowest) / 2)


@dataclass(frozen=True)
class _Reading:
    """The Unix times, in seconds, that a reading may stand for: busybox's date knows no %N."""

    earliest_s: float
    latest_s: float


def _time(found: Mapping[str, parse.Section], name: str) -> _Reading | Unknown:
    printed = parse.text(found, name)
    if not isinstance(printed, str):
        return printed or Unknown("no clock")
    match = re.fullmatch(r"(\d{1,12})(?:\.(\d{9})|\.?(?:%?N)?)", printed)
    if match is None:
        return Unknown(f"`date` printed what is no time: {printed[:60]}")
    exact = float(f"{match[1]}.{match[2] or 0}")
    return _Reading(exact, exact if match[2] else exact + 1)


def _os(found: Mapping[str, parse.Section]) -> Fact[str]:
    release = parse.text(found, "os_release")
    if not isinstance(release, str):
        return release
    match = re.search(r'^PRETTY_NAME="?(.*?)"?$', release, re.MULTILINE)
    return match[1] if match else Unknown("os-release has no PRETTY_NAME")


def _line(found: Mapping[str, parse.Section], key: str) -> Fact[str]:
    output = parse.text(found, "machine")
    return pairs(output).get(key) if isinstance(output, str) else output


def _answer(found: Mapping[str, parse.Section], key: str) -> Fact[bool]:
    said = _line(found, key)
    return said == "1" if isinstance(said, str) else said


def _login_limit(found: Mapping[str, parse.Section], name: str) -> Fact[int]:
    limits = parse.text(found, "limits")
    if not isinstance(limits, str):
        return limits
    try:
        return _hard_limit(limits, name)
    except ValueError as error:
        return Unknown(str(error))


def _hard_limit(limits: str, name: str) -> int:
    """The second column of /proc/PID/limits; -1 is unlimited. ValueError where the row is missing."""
    match = re.search(rf"^{name} +\S+ +(unlimited|\d{{1,20}})\b", limits, re.MULTILINE)
    if match is None:
        raise ValueError(f"/proc/PID/limits has no row `{name}`")
    return UNLIMITED if match[1] == "unlimited" else int(match[1])


def engine_process(found: Mapping[str, parse.Section]) -> Fact[EngineProcess]:
    """The engine's process; None where its PID file is absent or names no process."""
    output = parse.text(found, "engine_process")
    if not isinstance(output, str):
        return output
    pid = re.search(r"^pid\t(\d{1,10})$", output, re.MULTILINE)
    capabilities = re.search(r"^CapEff:\s+([0-9a-f]{1,16})$", output, re.MULTILINE)
    if pid is None or capabilities is None:
        return Unknown("the engine's process cannot be looked at")
    try:
        return EngineProcess(
            pid=int(pid[1]),
            memlock_hard_bytes=_hard_limit(output, "Max locked memory"),
            nofile_hard=_hard_limit(output, "Max open files"),
            may_raise_limits=bool(int(capabilities[1], 16) >> CAP_SYS_RESOURCE & 1),
        )
    except ValueError as error:
        return Unknown(str(error))


def services(found: Mapping[str, parse.Section]) -> Fact[Services]:
    """From the section of that name: what is not there is not said."""
    output = parse.text(found, "services")
    if not isinstance(output, str):
        return output
    said = pairs(output)
    first = _whole(said.get("first_port", ""))
    return Services("restarts" in said, "user_restarts" in said, "lingers" in said, 1024 if first is None else first)


def filesystems(found: Mapping[str, parse.Section]) -> tuple[Filesystem, ...] | Unknown:
    """From `stat -f -c '%n|%a|%b|%S|%d|%c|%T'`."""
    output = parse.text(found, "filesystems")
    if not isinstance(output, str):
        return output or Unknown("nothing was looked at")
    rows = re.findall(r"^(.+)\|(\d{1,20})\|(\d{1,20})\|(\d{1,12})\|(\d{1,20})\|(\d{1,20})\|(.*)$", output, re.MULTILINE)
    return tuple(
        Filesystem(path, kind, int(free) * int(block), int(blocks) * int(block), int(free_inodes), int(inodes))
        for path, free, blocks, block, free_inodes, inodes, kind in rows
    )


def interfaces(found: Mapping[str, parse.Section]) -> tuple[Interface, ...] | Unknown:
    """Network interfaces of /sys/class/net."""
    output = parse.text(found, "interfaces")
    if not isinstance(output, str):
        return output or Unknown("/sys/class/net does not exist")
    files = pairs(output)
    names = dict.fromkeys(path.partition("/")[0] for path in files)
    lowers = defaultdict[str, list[str]](list)
    for name, _, lower in (path.partition("/lower/") for path in files if "/lower/" in path):
        lowers[name].append(lower)
    return tuple(
        Interface(
            name,
            mtu,
            files.get(f"{name}/operstate", ""),
            _whole(files.get(f"{name}/speed", "")),
            tuple(lowers.get(name, ())),
        )
        for name in names
        if (mtu := _whole(files.get(f"{name}/mtu", ""))) is not None
    )


def _whole(digits: str) -> int | None:
    """A number; None for -1 and for nothing."""
    return int(digits) if re.fullmatch(r"\d{1,10}", digits, re.ASCII) else None


def routes(found: Mapping[str, parse.Section]) -> tuple[Route, ...] | Unknown:
    """IPv4 routes of /proc/net/route (the first 200)."""
    output = parse.text(found, "routes")
    if not isinstance(output, str):
        return output or Unknown("no /proc/net/route")
    try:
        return kernel_routes(output)
    except ValueError:
        return Unknown("/proc/net/route holds what is no routing table")


def own_addresses(found: Mapping[str, parse.Section]) -> Fact[tuple[IPv4Address, ...]]:
    """IPv4 addresses of the node's own name, each once; None where it resolves to nothing."""
    output = parse.text(found, "hostname_addresses")
    if not isinstance(output, str):
        return output
    known = dict.fromkeys(re.findall(r"^(\d{1,3}(?:\.\d{1,3}){3})\s", output, re.MULTILINE))
    try:
        return tuple(IPv4Address(address) for address in known) or None
    except ValueError as error:
        return Unknown(f"the host name resolves to what is no address: {error}")
