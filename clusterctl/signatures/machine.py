"""Lines about the machine, the engine or the image: names and addresses, disks, memory, drivers, GPUs."""

from __future__ import annotations

from clusterctl.signatures.signature import Signature

MACHINE: tuple[Signature, ...] = (
    Signature(
        r"Gloo connectFullMesh failed|connect to \[?127\.0\.0\.1\]?.*refused.*gloo",
        name="hostname-loopback",
        failure_mode="F5",
        meaning="a node resolves its own host name to 127.0.0.1, so its peers connect to themselves",
        fix="correct /etc/hosts on the named node",
    ),
    Signature(
        r"Failed to get the IP address, using 0\.0\.0\.0",
        name="no-default-route",
        failure_mode="F6",
        meaning="the node has no default route, and vLLM was not given its address",
        fix="leave VLLM_HOST_IP to clusterctl, which sets it on every node",
        harmless=True,
    ),
    Signature(
        r"Bus error|failed to extend /dev/shm|No space left on device.*/dev/shm",
        name="shm-too-small",
        failure_mode="F21",
        meaning="the container's /dev/shm is too small",
        fix="raise container.shm_bytes",
    ),
    Signature(
        r"[Nn]o space left on device",
        name="disk-full",
        failure_mode="F8",
        meaning="a disk of the node is full",
        fix="free space: clusterctl check names the disk and the command that shows what fills it (disk-full)",
    ),
    Signature(
        r"Driver/library version mismatch",
        name="gpu-driver-mismatch",
        failure_mode="F10",
        meaning="the NVIDIA driver was upgraded and the old kernel module is still loaded",
        fix="reboot the node",
    ),
    Signature(
        r"NVIDIA driver on your system is too old|PTX was compiled with an unsupported toolchain",
        name="cuda-newer-than-driver",
        failure_mode="F11",
        meaning="the image's CUDA is newer than the node's driver",
        fix=(
            "use a newer driver or an older CUDA; on data-centre GPUs, container.env "
            'VLLM_ENABLE_CUDA_COMPATIBILITY: "1"'
        ),
    ),
    Signature(
        r"Error 802: system not yet initialized",
        name="gpu-fabric",
        failure_mode="F12",
        meaning="the NVSwitch fabric is not up: no fabric manager, or one of another version than the driver",
        fix="on the node: systemctl status nvidia-fabricmanager; install the version that matches the driver",
    ),
    Signature(
        r"Failed to initialize NVML: Unknown Error",
        name="gpu-lost-on-reload",
        failure_mode="F18",
        meaning="the container lost its GPUs: a systemd reload revoked its devices",
        fix=(
            "clusterctl down, then up; to prevent it, use cgroupfs or CDI for the engine (clusterctl "
            "check: gpu-lost-on-reload)"
        ),
    ),
    Signature(
        r"could not select device driver \"\" with capabilities",
        name="gpu-runtime-missing",
        failure_mode="F17",
        meaning="the container engine cannot give GPUs to a container",
        fix="install nvidia-container-toolkit on the node and restart the engine; Docker from snap does not see it",
    ),
    Signature(
        r"ray: (?:command )?not found|Failed to import Ray",
        name="image-without-ray",
        failure_mode="F20",
        meaning="the image has no Ray",
        fix="use an image with ray[default], of the same version on every node",
    ),
    Signature(
        r"Unable to find address for: [\^=]",
        name="gloo-interface-syntax",
        failure_mode="F27",
        meaning="GLOO_SOCKET_IFNAME holds NCCL's syntax, which Gloo does not know",
        fix="leave GLOO_SOCKET_IFNAME to clusterctl, or set it to the plain name of an interface",
    ),
    Signature(
        r"exceeded error retry count",
        name="peer-unreachable",
        failure_mode="F26",
        meaning="NCCL connects to an address that does not respond: a wrong interface, or a firewall",
        fix="clusterctl check tests every port between every pair and prints each node's interface",
        consequence=True,
    ),
)
"""The most specific first. CUDA, NVIDIA's driver and container toolkit, Gloo and NCCL 2.27."""
