"""Every pattern of the kernel's log lines (dmesg) that report a fault of the machine, in one place. Pure.

Fixed words of the kernel's and the drivers' own sources: Linux 5.15 to 6.12 (mm/oom_kill.c, fs/ext4/super.c,
fs/xfs/xfs_error.c, block/blk-core.c, drivers/net), NVIDIA's driver 535 to 580 (`NVRM: Xid`, numbered
in NVIDIA's Xid catalog), mlx5_core. None was seen here except the killed process: nobody breaks a GPU for a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.signatures.signature import Signature

CLOCK = re.compile(r"\Aclock (?P<uptime>\d+\.\d+) (?P<now>\d+)\n")
"""What stands above dmesg's lines: seconds since boot and Unix time, of the same moment."""


LONGEST_LINE = 1000
"""Characters of a line that are looked at; the kernel's own are shorter (LOG_LINE_MAX)."""


_STAMP = re.compile(r"^\[ *(\d+\.\d+)\] ?", re.MULTILINE)


SIGNATURES: tuple[Signature, ...] = (
    Signature(
        r"NVRM: Xid \([^)]*\): 79\b|GPU has fallen off the bus",
        name="gpu-off-bus",
        failure_mode="F3",
        meaning="a GPU fell off the PCIe bus: power, heat, its seat, or the GPU itself (Xid 79)",
        fix=(
            "power-cycle the node; if it happens again, replace the GPU or change its slot. clusterctl check "
            "counts GPUs"
        ),
    ),
    Signature(
        r"NVRM: Xid \([^)]*\): (?:48|63|64|92|94|95|140)\b",
        name="gpu-memory-error",
        meaning="a GPU's memory has uncorrectable errors (Xid 48, 63, 64, 94, 95)",
        fix=(
            "nvidia-smi -q -d ECC,ROW_REMAPPER on the node; reset the GPU or reboot; if it happens again, "
            "replace the GPU"
        ),
    ),
    Signature(
        r"NVRM: Xid \([^)]*\): (?:74|137|144|145|149)\b",
        name="nvlink-fault",
        meaning="NVLink reported a fault (Xid 74)",
        fix="nvidia-smi nvlink -e on the node; systemctl status nvidia-fabricmanager; then reboot",
    ),
    Signature(
        r"nvidia-nvswitch\S*: SXid|SXid \([^)]*\):",
        name="nvswitch-fault",
        meaning="an NVSwitch reported a fault (SXid)",
        fix="on the node: systemctl status nvidia-fabricmanager, and its log; then reboot",
    ),
    Signature(
        r"NVRM: Xid \([^)]*\): (?:61|62|119|120|154)\b|NVRM: .*GSP.*(?:timeout|failed)",
        name="gpu-firmware-hang",
        meaning="a GPU's firmware stopped responding (Xid 119, 120), or the driver asks for a reset (Xid 154)",
        fix="reboot the node; use the same driver as on the other nodes; if it happens again, a newer one",
    ),
    Signature(
        r"NVRM: Xid \([^)]*\): (?:13|31|43|45|68|69)\b",
        name="gpu-process-stopped",
        meaning=(
            "a process was stopped for what it did on a GPU (Xid 13, 31, 43, 45): a software bug, or another "
            "GPU's fault"
        ),
        fix="read the log around that time; if it is always the same GPU, run dcgmi diag -r 3",
    ),
    Signature(
        r"NVRM: Xid \(|NVRM: .*(?:RmInitAdapter failed|rm_init_adapter failed|API mismatch)",
        name="nvidia-driver-fault",
        meaning="the NVIDIA driver reported a fault",
        fix="look the number up in NVIDIA's catalog of Xid errors; nvidia-smi -q on the node",
    ),
    Signature(
        r"Out of memory: Kill(?:ed)? process|oom-kill:|invoked oom-killer|Memory cgroup out of memory",
        name="kernel-oom-kill",
        failure_mode="F9",
        meaning="the node's memory was full, and the kernel killed a process",
        fix="free memory on the node, lower ray.object_store_bytes, or reduce the load (clusterctl check: memory-low)",
    ),
    Signature(
        r"EXT4-fs error|XFS \([^)]*\): (?:Corruption|Internal error|metadata I/O error|.*[Ss]hut(?:ting)? ?down)"
        r"|BTRFS (?:error|critical)|Remounting filesystem read-only",
        name="filesystem-damaged",
        meaning="a file system of the node is damaged, or was made read-only",
        fix=(
            "on the node, find it with mount and dmesg, unmount and repair it (fsck, xfs_repair), then copy the "
            "model again"
        ),
    ),
    Signature(
        r"I/O error, dev |nvme\S* .*(?:timeout|controller is down|I/O \d+ QID)|critical medium error",
        name="disk-io-error",
        meaning="a disk of the node fails to read or write",
        fix="run smartctl -a (or nvme smart-log) on the disk that the line names; replace it",
    ),
    Signature(
        r"nfs: server \S+ not responding",
        name="nfs-not-responding",
        meaning="a network file system does not respond: whatever reads from it hangs",
        fix=(
            "check that the server is up and that the node can reach it; ps -eo pid,stat,comm shows what hangs "
            "(state D)"
        ),
    ),
    Signature(
        # Severities as ghes.c, mce, EDAC and AER write them. Errors that were corrected are no fault; some machines log
        # them by the dozen, also as "Machine Check Exception: 0".
        r"\[Hardware Error\]:\s+event severity: (?:fatal|recoverable)|Machine Check Exception: 0*[1-9a-f]"
        r"|MC\d+_STATUS\[[^\]]*\bUE\b|EDAC \S+: \d+ UE |[Uu]ncorrected (?:hardware )?(?:memory )?error"
        r"|AER: .*(?:Uncorrect|\(Fatal\))|Memory failure: 0x\S+: ",
        name="hardware-error",
        meaning="the hardware reported an error that it could not correct",
        fix="the machine's event log (ipmitool sel list) names the failing part",
    ),
    Signature(
        r"(?:mlx[45]_core|bnxt_en|ice|i40e|ixgbe|bond\d|en[op]\w+|eth\d|ib\d).*"
        r"(?:[Ll]ink (?:is )?[Dd]own|link status definitely down|NETDEV WATCHDOG)",
        name="link-lost",
        failure_mode="F29",
        meaning="a network port lost its link",
        fix="check the cable, transceiver and switch port; ip -br link on the node; clusterctl check tests every pair",
    ),
    Signature(
        r"INFO: task .* blocked for more than \d+ seconds",
        name="process-hung",
        meaning="a process hung in the kernel: a disk, a network file system or a driver does not respond",
        fix="the next lines of dmesg show where it hangs; often only a reboot helps",
    ),
    Signature(
        r"(?:python3?|ray::|raylet|VLLM)\S*\[\d+\]:? (?:segfault at|trap )",
        name="process-crashed",
        meaning="a process crashed in native code",
        fix=(
            "look at the library that the line names (`in lib…`): use the same image on every node, or another "
            "version of it"
        ),
    ),
)
"""The most specific first."""


def timed(text: str) -> Iterator[tuple[float | None, str]]:
    """Lines of dmesg with their Unix time in seconds, None where it has none."""
    clock = CLOCK.match(text)
    boot = float(clock["now"]) - float(clock["uptime"]) if clock else None
    for line in text[clock.end() if clock else 0 :].splitlines():
        stamp = _STAMP.match(line)
        yield (boot + float(stamp[1]) if stamp and boot is not None else None), line[:LONGEST_LINE]
