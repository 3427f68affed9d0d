"""Every pattern of the kernel's log lines (dmesg) that tell of a fault of the machine, in one place. Pure.

Fixed words of the kernel's and the drivers' own sources: Linux 5.15 to 6.12 (mm/oom_kill.c, fs/ext4/super.c,
fs/xfs/xfs_error.c, block/blk-core.c, drivers/net), NVIDIA's driver 535 to 580 («NVRM: Xid», numbered in NVIDIA's «Xid
Errors» catalog), mlx5_core. Not seen here, except for the killed process: nobody breaks a GPU for a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

CLOCK = re.compile(r"\Aclock (?P<uptime>\d+\.\d+) (?P<now>\d+)\n")
"""What stands above dmesg's lines: seconds since boot and Unix time, of the same moment."""


LONGEST_LINE = 1000
"""Characters of a line that are looked at; the kernel's own are shorter (LOG_LINE_MAX)."""


_STAMP = re.compile(r"^\[ *(\d+\.\d+)\] ?", re.MULTILINE)


CAUSES: tuple[tuple[re.Pattern[str], str, str, str], ...] = tuple(
    (re.compile(pattern), number, meaning, fix)
    for pattern, number, meaning, fix in (
        (
            r"NVRM: Xid \([^)]*\): 79\b|GPU has fallen off the bus",
            "F3",
            "a GPU fell off the PCIe bus: power, heat, its seat, or the GPU itself (Xid 79)",
            "power the node off and on; when it comes back: change the GPU or its slot. clusterctl check counts GPUs",
        ),
        (
            r"NVRM: Xid \([^)]*\): (?:48|63|64|92|94|95|140)\b",
            "-",
            "a GPU's memory has uncorrectable errors (Xid 48, 63, 64, 94, 95)",
            "nvidia-smi -q -d ECC,ROW_REMAPPER on the node; reset the GPU or reboot; when it comes back: change it",
        ),
        (
            r"NVRM: Xid \([^)]*\): (?:74|137|144|145|149)\b",
            "-",
            "NVLink reported a fault (Xid 74)",
            "nvidia-smi nvlink -e on the node; systemctl status nvidia-fabricmanager; then reboot",
        ),
        (
            r"NVRM: Xid \([^)]*\): (?:61|62|119|120|154)\b|NVRM: .*GSP.*(?:timeout|failed)",
            "-",
            "a GPU's own firmware does not answer (Xid 119, 120), or the driver asks for a reset (Xid 154)",
            "reboot the node; the same driver as on the others; a newer one when it comes back",
        ),
        (
            r"NVRM: Xid \([^)]*\): (?:13|31|43|45|68|69)\b",
            "-",
            "a process was stopped for what it did on a GPU (Xid 13, 31, 43, 45): a defect of software, or another "
            "GPU's fault",
            "read the log's lines of that moment; when it is always the same GPU: dcgmi diag -r 3",
        ),
        (
            r"NVRM: Xid \(|NVRM: .*(?:RmInitAdapter failed|rm_init_adapter failed|API mismatch)",
            "-",
            "the NVIDIA driver reported a fault",
            "look the number up in NVIDIA's catalog of Xid errors; nvidia-smi -q on the node",
        ),
        (
            r"Out of memory: Kill(?:ed)? process|oom-kill:|invoked oom-killer|Memory cgroup out of memory",
            "F9",
            "the node's memory was full, and the kernel killed a process",
            "free memory on the node, a smaller ray.object_store_bytes, or less load (clusterctl check: memory-low)",
        ),
        (
            r"EXT4-fs error|XFS \([^)]*\): (?:Corruption|Internal error|metadata I/O error|.*[Ss]hut(?:ting)? ?down)"
            r"|BTRFS (?:error|critical)|Remounting filesystem read-only",
            "-",
            "a file system of the node is damaged, or was made read-only",
            "on the node: mount; dmesg; then unmount and repair it (fsck, xfs_repair), and copy the model again",
        ),
        (
            r"I/O error, dev |nvme\S* .*(?:timeout|controller is down|I/O \d+ QID)|critical medium error",
            "-",
            "a disk of the node does not read or write",
            "smartctl -a (or nvme smart-log) of the disk that the line names; change it",
        ),
        (
            r"nfs: server \S+ not responding",
            "-",
            "a network file system does not answer: what reads from it hangs",
            "is that server up, and can the node reach it? ps -eo pid,stat,comm shows what waits (D)",
        ),
        (
            # Severities as ghes.c, mce, EDAC and AER write them. Errors that were corrected are no fault; some machines
            # log them by the dozen, also as «Machine Check Exception: 0».
            r"\[Hardware Error\]:\s+event severity: (?:fatal|recoverable)|Machine Check Exception: 0*[1-9a-f]"
            r"|MC\d+_STATUS\[[^\]]*\bUE\b|EDAC \S+: \d+ UE |[Uu]ncorrected (?:hardware )?(?:memory )?error"
            r"|AER: .*(?:Uncorrect|\(Fatal\))|Memory failure: 0x\S+: ",
            "-",
            "the hardware reported an error that it could not correct",
            "the machine's own event log (ipmitool sel list) names the part",
        ),
        (
            r"(?:mlx[45]_core|bnxt_en|ice|i40e|ixgbe|bond\d|en[op]\w+|eth\d|ib\d).*"
            r"(?:[Ll]ink (?:is )?[Dd]own|link status definitely down|NETDEV WATCHDOG)",
            "F29",
            "a network port lost its link",
            "cable, transceiver, switch port; ip -br link on the node; clusterctl check tries every pair",
        ),
        (
            r"INFO: task .* blocked for more than \d+ seconds",
            "-",
            "a process hung in the kernel: a disk, a network file system or a driver does not answer",
            "the lines that follow it in dmesg say in what; often a reboot is what helps",
        ),
        (
            r"(?:python3?|ray::|raylet|VLLM)\S*\[\d+\]:? (?:segfault at|trap )",
            "-",
            "a process crashed in native code",
            "the library that the line names («in lib… »): the same image on every node, another version of it",
        ),
    )
)
"""(pattern, failure mode, meaning, fix), the most specific first."""


def timed(text: str) -> Iterator[tuple[float | None, str]]:
    """Lines of dmesg with their Unix time in seconds, None where it has none."""
    clock = CLOCK.match(text)
    boot = float(clock["now"]) - float(clock["uptime"]) if clock else None
    for line in text[clock.end() if clock else 0 :].splitlines():
        stamp = _STAMP.match(line)
        yield (boot + float(stamp[1]) if stamp and boot is not None else None), line[:LONGEST_LINE]
