"""Facts of machines from short notations in YAML (fixtures/findings.yaml): system, GPU and RDMA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from clusterctl.facts.fact import Unknown
from clusterctl.facts.nvidia import KernelModule, NvidiaFacts, Topology
from clusterctl.facts.parse import Section
from clusterctl.facts.rdma import Gid, RdmaPort
from clusterctl.facts.records import Gpu
from clusterctl.facts.routing import routing as read_routing
from clusterctl.facts.system import Clock, EngineProcess, Filesystem, Interface, Services, SystemFacts

GOOD_DISK = {"type": "ext4", "free_bytes": 900 << 30, "total_bytes": 1000 << 30, "free_inodes": 1 << 24,
             "total_inodes": 1 << 24}  # fmt: skip
GOOD_PROCESS = {"pid": 800, "memlock_hard_bytes": -1, "nofile_hard": 1 << 20, "may_raise_limits": True}


def fact(value: Any, read: Any) -> Any:
    """null is absent, {unknown: reason} is Unknown, anything else is read."""
    if isinstance(value, Mapping) and set(value) == {"unknown"}:
        return Unknown(value["unknown"])
    return None if value is None else read(value)


def system(said: Mapping[str, Any], number: int) -> SystemFacts:
    """A good machine: bare metal with systemd, exact clock, empty disks, a name that is its address."""
    given = dict(said)
    disks = fact(given.pop("filesystems", {}), lambda v: _disks({"/tmp": {}, "/docker": {}, **v}))
    clock = fact(given.pop("clock", [0, 0]), lambda v: Clock(float(v[0]), float(v[1])))
    own = fact(given.pop("own_addresses", [f"10.77.0.1{number}"]), lambda v: tuple(map(IPv4Address, v)) or None)
    process = fact(given.pop("engine_process", {}), lambda v: EngineProcess(**{**GOOD_PROCESS, **v}))
    services = fact(given.pop("services", None), lambda v: Services(**v))
    given |= {"interfaces": fact(v, _interfaces)} if (v := given.pop("interfaces", None)) is not None else {}
    assert set(given) <= {field.name for field in fields(SystemFacts)}, given
    good = SystemFacts(
        os="Ubuntu 24.04.3 LTS",
        virtual=False,
        systemd=True,
        command_line="quiet",
        memory_total_bytes=1 << 41,
        clock=clock,
        login_memlock_bytes=-1,
        engine_process=process,
        filesystems=disks,
        interfaces=(),
        routes=(),
        own_addresses=own,
        model_label=fact(given.pop("model_label", None), str),
        services=services,
        login_nofile=-1,
    )
    return replace(good, **{name: fact(value, lambda v: v) for name, value in given.items()})


def _interfaces(value: Any) -> tuple[Interface, ...]:
    """Interfaces, or what differs from one that is up."""
    good = {"mtu": 1500, "state": "up", "speed_mbps": None}
    return tuple(
        each if isinstance(each, Interface) else Interface(**{**good, **each, "lowers": tuple(each.get("lowers", ()))})
        for each in value
    )


def _disks(value: Mapping[str, Any]) -> tuple[Filesystem, ...]:
    return tuple(
        Filesystem(path=path, **{**GOOD_DISK, **(said or {})}) for path, said in value.items() if said != "gone"
    )


def nvidia(value: Any) -> Any:
    """A driver with everything in place, except for what is said. `links`: `GPU0-GPU1` → how they reach each other."""

    def read(said: Mapping[str, Any]) -> NvidiaFacts:
        given = dict(said)
        links = fact(given.pop("links", {}), _topology)
        module = fact(
            given.pop("module", {}), lambda v: KernelModule(v.get("version", "580.95.05"), v.get("open", True))
        )
        good = NvidiaFacts(
            module=module,
            version_mismatch=given.pop("version_mismatch", None),
            topology=links,
            peermem=True,
            char_links=True,
            hook=True,
            cdi=False,
            nvswitches=False,
            fabric_manager=None,
            iommu={},
            acs_bridges=0,
        )
        return replace(good, **{name: fact(v, lambda v: v) for name, v in given.items()})

    return fact(value, read)


def _topology(value: Mapping[str, str]) -> Topology:
    links: dict[str, dict[str, str]] = {"GPU0": {"GPU1": "NV18"}, "GPU1": {"GPU0": "NV18"}}
    for pair, how in value.items():
        one, other = pair.split("-")
        links.setdefault(one, {})[other] = how
        links.setdefault(other, {})[one] = how
    return Topology(links, {})


def gpu(index: int, said: Mapping[str, Any]) -> Gpu:
    """An idle H200, except for what is said."""
    good = Gpu(index, "NVIDIA H200", f"GPU-{index}", 143771, 4, driver_version="580.95.05", ecc_uncorrected=0)
    return replace(good, **said)


def rdma(value: Any) -> Any:
    """`mlx5_0:1` → what differs from an ACTIVE RoCE port on eth1 with the node's address as GID of version 2."""
    return fact(value, lambda ports: tuple(_port(name, said or {}) for name, said in ports.items()))


def routing(value: Any) -> Any:
    """Lines as the probe prints them: `get PEER ANSWER`, `route …`, `rule …`."""
    return fact(value, lambda lines: read_routing({"routes_to_peers": Section("\n".join(map(_tagged, lines)), 0)}))


def _tagged(line: str) -> str:
    parts = line.split(" ", 2) if line.startswith(("get ", "match ")) else line.split(" ", 1)
    return "\t".join(parts)


def _port(name: str, said: Mapping[str, Any]) -> RdmaPort:
    device, _, port = name.partition(":")
    layer = said.get("link_layer", "Ethernet")
    of_layer = {"fe80::1": None} if layer == "InfiniBand" else {f"::ffff:10.77.0.1{n}": "RoCE v2" for n in (1, 2)}
    gids = said.get("gids", of_layer)
    on = tuple(said.get("interfaces", ["eth1"]))
    return RdmaPort(
        device=device,
        port=int(port),
        state=said.get("state", "ACTIVE"),
        phys_state=said.get("phys_state", "LinkUp"),
        link_layer=layer,
        rate=said.get("rate", "400 Gb/sec (4X NDR)"),
        interfaces=on,
        gids=tuple(
            Gid(index, IPv6Address(address), kind, on[0] if on and kind else None)
            for index, (address, kind) in enumerate(gids.items())
        ),
        lid=said.get("lid"),
        sm_lid=said.get("sm_lid"),
        nvswitch=said.get("nvswitch", False),
    )
