"""From the probe's output to facts. Pure: fixtures of real output are its tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.kernel_net import kernel_addresses, kernel_routes
from clusterctl.facts.records import Gpu, GpuProcess, InterfaceAddress, Listener

ABSENT = 44
"""Exit code with which a section of the probe says "looked for, not there"."""

NOT_PERMITTED = 13
"""Exit code of the section engine_socket when the login may not write to the engine's socket."""
COMMAND_NOT_FOUND = 127
"""What a POSIX shell answers for a command that is not installed."""

_SECTION = re.compile(r"^@@begin (\w+)\n(.*?)\n?^@@end \1 (\d{1,3})$", re.MULTILINE | re.DOTALL)
_LISTEN = "0A"
"""State TCP_LISTEN in /proc/net/tcp (Linux, include/net/tcp_states.h)."""


@dataclass(frozen=True)
class Section:
    """One framed section: what it printed and its exit code."""

    text: str
    exit_code: int


def sections(output: str) -> Mapping[str, Section]:
    """Split the probe's output into its sections."""
    return {name: Section(text, int(code)) for name, text, code in _SECTION.findall(output)}


def text(found: Mapping[str, Section], name: str) -> Fact[str]:
    """A section's text; None when it says absent; Unknown when it failed or is not there."""
    section = found.get(name)
    if section is None:
        return Unknown(f"the probe ended before `{name}`")
    if section.exit_code == ABSENT:
        return None
    if section.exit_code != 0:
        last = section.text.strip().splitlines()[-1:] or ["no output"]
        return Unknown(f"`{name}` failed with exit code {section.exit_code}: {last[0]}")
    return section.text.strip()


def memory_available(found: Mapping[str, Section]) -> Fact[int]:
    """MemAvailable in bytes."""
    return memory(found, "MemAvailable")


def memory(found: Mapping[str, Section], name: str) -> Fact[int]:
    """One row of /proc/meminfo in bytes."""
    meminfo = text(found, "memory")
    if not isinstance(meminfo, str):
        return meminfo
    match = re.search(rf"^{name}:\s+(\d{{1,18}}) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else Unknown(f"no {name} in /proc/meminfo")


def addresses(found: Mapping[str, Section]) -> tuple[InterfaceAddress, ...] | Unknown:
    """IPv4 addresses with their interfaces, from `ip -o -4 addr show`, else from the kernel's tables."""
    output = text(found, "addresses")
    if not isinstance(output, str):
        return _addresses_without_ip(found) or output or Unknown("no answer from `ip`")
    rows = re.findall(r"^\d+: (\S+?)(?:@\S+)?\s+inet (\d+\.\d+\.\d+\.\d+)(?:/(\d{1,2}))?", output, re.MULTILINE)
    try:
        return tuple(
            InterfaceAddress(interface, IPv4Address(address), int(prefix or 32)) for interface, address, prefix in rows
        )
    except ValueError:
        return Unknown(f"`ip` printed what is no address table: {output[:120]}")


def _addresses_without_ip(found: Mapping[str, Section]) -> tuple[InterfaceAddress, ...] | None:
    """From the kernel's own tables; None where they do not help."""
    trie, table = text(found, "fib_trie"), text(found, "routes")
    if not isinstance(trie, str) or not isinstance(table, str):
        return None
    try:
        return kernel_addresses(trie, kernel_routes(table))
    except ValueError:
        return None


def listeners(found: Mapping[str, Section]) -> tuple[Listener, ...] | Unknown:
    """Listening TCP sockets from /proc/net/tcp and tcp6, named by `ss` where it could."""
    tables = [table for table in (text(found, "tcp"), text(found, "tcp6")) if isinstance(table, str)]
    if not tables:
        return Unknown("neither /proc/net/tcp nor tcp6 could be read")
    names = _process_names(text(found, "sockets"))
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    try:
        local = [row[1].split(":") for row in rows if len(row) > 3 and row[3] == _LISTEN]
        ports = [(_address(address), int(port, 16)) for address, port in local]
    except ValueError:
        return Unknown("/proc/net/tcp or tcp6 holds what is no socket table")
    found_listeners = {Listener(address, port, names.get(port)) for address, port in ports}
    return tuple(sorted(found_listeners, key=lambda listener: (listener.port, listener.address)))


def _process_names(ss_output: Fact[str]) -> Mapping[int, str]:
    """Port → `name (pid N)` from `ss -Hltnp`; empty where ss is missing or may not look (not root)."""
    if not isinstance(ss_output, str):
        return {}
    rows = re.findall(r'^LISTEN\s+\d+\s+\d+\s+\S+:(\d{1,5})\s.*?users:\(\("([^"]+)",pid=(\d+)', ss_output, re.MULTILINE)
    return {int(port): f"{name} (pid {pid})" for port, name, pid in rows}


def _cells(output: str) -> list[list[str]]:
    """The rows of nvidia-smi's CSV."""
    return [[cell.strip() for cell in line.split(",")] for line in output.splitlines() if line.strip()]


NO_MEMORY_OF_ITS_OWN = ("[N/A]", "[Not Supported]")
"""What nvidia-smi prints for the memory of a GPU that has none but the machine's."""


def _mib(cell: str) -> int | None:
    """A number of MiB; None for `[N/A]`, which nvidia-smi prints where the driver does not know."""
    return None if cell.startswith("[") else int(cell)


def _address(hexadecimal: str) -> str:
    """An address of /proc/net/tcp{,6}: 32-bit words in the machine's (little-endian) byte order."""
    words = [bytes.fromhex(hexadecimal[i : i + 8])[::-1] for i in range(0, len(hexadecimal), 8)]
    if len(words) == 1:
        return str(IPv4Address(words[0]))
    address = IPv6Address(b"".join(words))
    return str(address.ipv4_mapped or address)


def gpus(found: Mapping[str, Section]) -> Fact[tuple[Gpu, ...]]:
    """NVIDIA GPUs; None where nvidia-smi is not installed.

    Rows that can be read count, whatever else nvidia-smi prints and however it ends (`gpu_remarks`): it warns about an
    infoROM, say, with exit code 14, and the GPUs work.
    """
    output, section = text(found, "gpus"), found.get("gpus")
    if output is None:
        return None
    rows, rest = _gpu_rows(section.text) if section is not None else ([], [])
    if rows:
        return tuple(rows)
    if isinstance(output, Unknown):
        return output
    return Unknown(f"nvidia-smi printed what is no GPU table: {rest[0][:120]}") if rest else ()


def gpu_remarks(found: Mapping[str, Section]) -> tuple[str, ...]:
    """What nvidia-smi printed beside rows that could be read, and how it ended."""
    section = found.get("gpus")
    rows, rest = _gpu_rows(section.text) if section is not None else ([], [])
    if section is None or not rows:
        return ()
    return (*rest, *([f"it ended with exit code {section.exit_code}"] if section.exit_code else []))


def _gpu_rows(output: str) -> tuple[list[Gpu], list[str]]:
    """The GPUs, and the lines that are none."""
    rows: list[Gpu] = []
    rest: list[str] = []
    for line in filter(str.strip, output.splitlines()):
        try:
            rows.extend(_gpu(cells) for cells in _cells(line))
        except (ValueError, IndexError):
            rest.append(line.strip())
    return rows, rest


def _gpu(cells: list[str]) -> Gpu:
    """The columns that probes/gpu.sh asks for; an older nvidia-smi has not the last two."""
    index, name, uuid, total, used, bus, driver, mode, mig, ecc, *fabric = cells
    return Gpu(
        index=int(index),
        name=name,
        uuid=uuid,
        memory_total_mib=_mib(total),
        memory_used_mib=_mib(used),
        pci_address=bus,
        driver_version=driver,
        compute_mode=mode,
        mig=mig == "Enabled",
        ecc_uncorrected=_mib(ecc),
        fabric=None if not fabric or fabric[0].startswith("[") or fabric[0] == "N/A" else ", ".join(fabric),
        memory_unread=total.startswith("[") and total not in NO_MEMORY_OF_ITS_OWN,
    )


def gpu_processes(found: Mapping[str, Section]) -> Fact[tuple[GpuProcess, ...]]:
    """Processes with GPU memory; None where nvidia-smi is not installed."""
    output = text(found, "gpu_processes")
    if not isinstance(output, str):
        return output
    rows, rest = [], []
    said = text(found, "gpu_process_groups")
    groups = dict(_groups(said)) if isinstance(said, str) else {}
    for cells in _cells(output):
        try:
            # A process may have commas in its name; no other column has.
            name, memory = ", ".join(cells[2:-1]), _mib(cells[-1])
            rows.append(GpuProcess(cells[0], int(cells[1]), name, memory, groups.get(int(cells[1]))))
        except (ValueError, IndexError):
            rest.append(", ".join(cells))
    return (
        Unknown(f"nvidia-smi printed what is no process table: {rest[0][:120]}") if rest and not rows else tuple(rows)
    )


def _groups(output: str) -> Iterator[tuple[int, str]]:
    """PID and the ID of the container in whose control group it is: Docker's and Podman's have its 64 digits."""
    for pid, group in re.findall(r"^(\d{1,10})\t(.*)$", output, re.MULTILINE):
        if match := re.search(r"[0-9a-f]{64}", group):
            yield int(pid), match[0]


def infiniband(found: Mapping[str, Section]) -> Fact[tuple[str, ...]]:
    """Device nodes below /dev/infiniband; None where there is no such directory."""
    output = text(found, "infiniband")
    return tuple(output.split()) if isinstance(output, str) else output
