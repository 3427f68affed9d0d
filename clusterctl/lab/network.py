"""The lab's private network: one switch, one cable to each node, one to this machine.

The switch is a bridge in a network namespace of its own. On the host it would see the host's firewall (Docker's
`FORWARD` policy drops what crosses a bridge once br_netfilter is loaded); in its own namespace nothing is in the way,
and the host shows a single interface per lab. Each node's cable is a veth pair: `eth0` in the node, `port<i>` in the
switch. A partition is the switch's port going down: the node keeps its address and routes and hears nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Literal

from clusterctl.errors import UsageError
from clusterctl.lab.commands import CommandError, run
from clusterctl.lab.state import LabNode, LabPaths, LabSpec

NETNS_DIRECTORY = Path("/run/netns")
SUBNETS = tuple(IPv4Network(f"10.77.{k}.0/24") for k in range(256))
"""Where a lab's network is taken from when none was asked for."""

Cable = Literal["connected", "partitioned", "absent"]
"""A node's cable: plugged in, pulled, or not there (the node has no power, or its network is broken)."""


def free_subnet(used: Iterable[IPv4Network]) -> IPv4Network:
    """Return the first network of 10.77.0.0/16 that overlaps nothing in use."""
    taken = tuple(used)
    for subnet in SUBNETS:
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise UsageError("no free network in 10.77.0.0/16", hint="pass one with --subnet")


def check_subnet(subnet: IPv4Network, nodes: int, used: Iterable[IPv4Network]) -> None:
    """Refuse a network that is too small, public, or in use on this machine."""
    if not subnet.is_private:
        raise UsageError(f"--subnet {subnet} is not private", hint="take one inside 10.0.0.0/8")
    if subnet.num_addresses < nodes + 3:
        raise UsageError(f"--subnet {subnet} is too small for {nodes} nodes and this machine")
    for other in used:
        if subnet.overlaps(other):
            raise UsageError(f"--subnet {subnet} overlaps {other}, which this machine already uses")


def used_networks() -> tuple[IPv4Network, ...]:
    """Every network that this machine has an address in or a route to, apart from default routes."""
    found = []
    for route in json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]"):
        destination = route.get("dst", "default")
        if destination != "default" and route.get("type") not in ("broadcast", "multicast"):
            found.append(IPv4Network(destination, strict=False))
    return tuple(network for network in found if network.prefixlen > 0)


def namespace(paths: LabPaths, node: str) -> str:
    """Name of a node's network namespace (`ip netns exec` finds it by that)."""
    return f"{paths.namespace_prefix}{node}"


def switch_namespace(paths: LabPaths) -> str:
    """Name of the namespace that holds the switch."""
    return f"{paths.namespace_prefix}switch"


def host_interface(paths: LabPaths) -> str:
    """Name of this machine's interface in the lab's network."""
    return f"lab-{paths.tag}"


def ensure_switch(paths: LabPaths, spec: LabSpec) -> None:
    """Make the switch and this machine's cable to it, unless they are there and whole."""
    if _switch_is_whole(paths, spec):
        return
    remove_switch(paths)
    switch, interface = switch_namespace(paths), host_interface(paths)
    _batch([f"netns add {switch}", f"link add name {interface} type veth peer name uplink netns {switch}"])
    _batch(
        [
            "link set lo up",
            "link add name br0 type bridge forward_delay 0 stp_state 0",
            "link set uplink master br0",
            "link set uplink up",
            "link set br0 up",
        ],
        switch,
    )
    _batch(
        [
            f"addr add {spec.host_address}/{spec.subnet.prefixlen} dev {interface}",
            f"link set {interface} up",
        ]
    )


def ensure_node(paths: LabPaths, spec: LabSpec, node: LabNode, *, init: int | None, partitioned: bool) -> None:
    """Make the node's namespace and cable, unless they are there and whole; plug the cable in, or pull it.

    A node that has power (`init`) lives in its namespace, even where someone deleted the name: it gets its name back.
    """
    switch, own = switch_namespace(paths), namespace(paths, node.name)
    if init is not None and not _is_namespace_of(own, init):
        _remove_namespace(own)
        run(["ip", "netns", "attach", own, str(init)])
    elif not _answers(own):
        _remove_namespace(own)
        _batch([f"netns add {own}"])
    if not _cable_is_whole(paths, node):
        _delete_links(switch, [f"port{node.index}"])
        _delete_links(own, ["eth0"])
        mac = f"02:{paths.tag[0:2]}:{paths.tag[2:4]}:{paths.tag[4:6]}:{node.index >> 8:02x}:{node.index & 255:02x}"
        _batch([f"link add name eth0 netns {own} address {mac} type veth peer name port{node.index} netns {switch}"])
        _batch(
            [
                "link set lo up",
                f"addr add {node.address}/{spec.subnet.prefixlen} dev eth0",
                "link set eth0 up",
            ],
            own,
        )
        _batch([f"link set port{node.index} master br0"], switch)
    set_cable(paths, node, connected=not partitioned)


def set_cable(paths: LabPaths, node: LabNode, *, connected: bool) -> None:
    """Plug the node's cable in, or pull it. The node keeps its address and its routes."""
    _batch([f"link set port{node.index} {'up' if connected else 'down'}"], switch_namespace(paths))


def cables(paths: LabPaths, spec: LabSpec) -> dict[str, Cable]:
    """State of every node's cable, as the switch sees it."""
    try:
        ports = {link["ifname"]: link for link in _links(switch_namespace(paths))}
    except CommandError:
        ports = {}
    return {node.name: _cable(ports.get(f"port{node.index}")) for node in spec.members}


def remove_node(paths: LabPaths, node: LabNode) -> None:
    """Remove the node's cable and namespace, if there."""
    if _answers(switch_namespace(paths)):
        _delete_links(switch_namespace(paths), [f"port{node.index}"])
    _remove_namespace(namespace(paths, node.name))


def remove_switch(paths: LabPaths) -> None:
    """Remove the switch and this machine's cable to it, if there."""
    _delete_links(None, [host_interface(paths)])
    _remove_namespace(switch_namespace(paths))


def remove_everything(paths: LabPaths) -> None:
    """Remove every namespace and interface of the lab by name, whatever its description says."""
    _delete_links(None, [host_interface(paths)])
    names = [name for name in leftovers(paths) if name.startswith(paths.namespace_prefix)]
    if names:
        _batch([f"netns delete {name}" for name in names])


def leftovers(paths: LabPaths) -> tuple[str, ...]:
    """Names of the lab's namespaces and interfaces that exist."""
    names = (path.name for path in sorted(NETNS_DIRECTORY.glob("*")))
    found = [name for name in names if name.startswith(paths.namespace_prefix)]
    if Path("/sys/class/net", host_interface(paths)).exists():
        found.append(host_interface(paths))
    return tuple(found)


def _switch_is_whole(paths: LabPaths, spec: LabSpec) -> bool:
    try:
        inside = {link["ifname"]: link for link in _links(switch_namespace(paths))}
        outside = _links(None, host_interface(paths))
    except CommandError:
        return False
    addresses = [info.get("local") for link in outside for info in link.get("addr_info", ())]
    uplink = inside.get("uplink", {})
    return (
        "UP" in inside.get("br0", {}).get("flags", ())
        and uplink.get("master") == "br0"
        and "UP" in uplink.get("flags", ())
        and str(spec.host_address) in addresses
        and any("UP" in link.get("flags", ()) for link in outside)
    )


def _cable_is_whole(paths: LabPaths, node: LabNode) -> bool:
    try:
        port = _links(switch_namespace(paths), f"port{node.index}")
        own = _links(namespace(paths, node.name), "eth0")
    except CommandError:
        return False
    addresses = [info.get("local") for link in own for info in link.get("addr_info", ())]
    return (
        any(link.get("master") == "br0" for link in port)
        and any("UP" in link.get("flags", ()) for link in own)
        and str(node.address) in addresses
    )


def _cable(port: dict[str, Any] | None) -> Cable:
    if port is None:
        return "absent"
    return "connected" if "UP" in port.get("flags", ()) else "partitioned"


def _links(where: str | None, interface: str | None = None) -> list[dict[str, Any]]:
    """Interfaces with their addresses, in a namespace or (None) on this machine."""
    inside = ["-n", where] if where else []
    output = run(["ip", *inside, "-json", "-4", "addr", "show", *(["dev", interface] if interface else [])])
    plain = run(["ip", *inside, "-json", "link", "show", *(["dev", interface] if interface else [])])
    # With -4, `ip addr` leaves out interfaces that have no IPv4 address: ports and bridges.
    addresses = {link["ifname"]: link.get("addr_info", []) for link in json.loads(output or "[]") if link}
    return [{**link, "addr_info": addresses.get(link["ifname"], [])} for link in json.loads(plain or "[]") if link]


def _answers(name: str) -> bool:
    """Whether a namespace of that name exists and can be entered (a crash can leave a name that leads nowhere)."""
    if not (NETNS_DIRECTORY / name).exists():
        return False
    try:
        run(["ip", "-n", name, "link", "show", "dev", "lo"])
    except CommandError:
        return False
    return True


def _is_namespace_of(name: str, pid: int) -> bool:
    """Whether the name leads to the namespace that the process is in."""
    try:
        return (NETNS_DIRECTORY / name).samefile(f"/proc/{pid}/ns/net")
    except OSError:
        return False


def _remove_namespace(name: str) -> None:
    if (NETNS_DIRECTORY / name).exists():
        run(["ip", "netns", "delete", name])


def _delete_links(where: str | None, interfaces: Iterable[str]) -> None:
    """Delete those of the interfaces that exist. Deleting one end of a veth pair deletes the other at once."""
    inside = ["-n", where] if where else []
    for interface in interfaces:
        try:
            run(["ip", *inside, "link", "show", "dev", interface])
        except CommandError:
            continue
        run(["ip", *inside, "link", "delete", "dev", interface])


def _batch(lines: Iterable[str], where: str | None = None) -> None:
    """Run several `ip` commands in one process, in a namespace or (None) on this machine."""
    inside = ["-n", where] if where else []
    run(["ip", *inside, "-batch", "-"], stdin="\n".join(lines) + "\n")
