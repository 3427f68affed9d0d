"""Every pattern of vLLM's and Ray's log lines, in one place, with the version they were seen in.

Log lines are text without a contract; nothing else here decides by message text. What is only nice to know (progress,
KV cache) is absent when a pattern no longer matches, never wrong. Success is never read from a log line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from clusterctl.signatures.explanation import ANSI, Explanation, explained

# Patterns from failure-modes.md («Symptom» and «During»): vLLM 0.26–0.33, Ray 2.56–2.60, NCCL 2.27. Not all were seen
# here: tests/unit/fixtures/causes.yaml says which lines were written after an issue's or a source's fixed words.
_CAUSES: tuple[tuple[re.Pattern[str], str, str, str], ...] = tuple(
    (re.compile(pattern), number, meaning, fix)
    for pattern, number, meaning, fix in (
        (
            r"Gloo connectFullMesh failed|connect to \[?127\.0\.0\.1\]?.*refused.*gloo",
            "F5",
            "a node resolves its own host name to 127.0.0.1, so its peers dial themselves",
            "correct /etc/hosts on the named node",
        ),
        (
            r"Free memory on device .* is less than desired",
            "F13",
            "another process holds GPU memory",
            "nvidia-smi on the nodes: end the other job, or lower gpu-memory-utilization in serve.options",
        ),
        (
            r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks",
            "F13",
            "the model, its activations and the KV cache do not fit the accelerators",
            "lower max-model-len or gpu-memory-utilization, or use more nodes",
        ),
        (
            r"To serve at least one request .* KV cache is needed|larger than the available KV cache memory",
            "F13",
            "one request of max-model-len tokens does not fit the KV cache",
            "lower max-model-len in serve.options",
        ),
        (
            r"MetadataIncompleteBuffer|HeaderTooLarge|InvalidHeaderDeserialization",
            "F37",
            "a weight file is truncated or is not a weight file (an LFS pointer?)",
            "copy the model again on the node that the line names",
        ),
        (
            r"must be divisible by tensor parallel size|Total number of attention heads|assert .*num_kv_heads % ",
            "F51",
            "tensor_parallel does not divide the model's attention heads",
            "choose a tensor_parallel that divides them",
        ),
        (
            r"is not divisible by weight quantization block_n",
            "F52",
            "tensor_parallel splits a quantisation block",
            "a lower tensor_parallel and a higher pipeline_parallel",
        ),
        (
            r"Pipeline parallelism is not supported for this model",
            "F53",
            "this architecture cannot be split into stages",
            "use one node (pipeline_parallel 1)",
        ),
        (
            r"Every node should have a unique IP address",
            "F1",
            "two ranks were given the same address",
            "clusterctl check: each node needs an address of its own in network.cidr",
        ),
        (
            r"No available node types can fulfill resource request.*'node:",
            "F2",
            "vLLM asks for a node by an address that Ray does not know it by",
            "leave VLLM_HOST_IP to clusterctl; check the node's `address` in the inventory",
        ),
        (
            r"bigger than a reserved number of \w*GPUs",
            "F3",
            "tensor_parallel is larger than the accelerators of one node",
            "clusterctl layout: a tensor_parallel that fits one node, the rest as pipeline_parallel",
        ),
        (
            r"Failed to get the IP address, using 0\.0\.0\.0",
            "F6",
            "the node has no default route, and vLLM was not told its address",
            "leave VLLM_HOST_IP to clusterctl, which sets it on every node",
        ),
        (
            r"Bus error|failed to extend /dev/shm|No space left on device.*/dev/shm",
            "F21",
            "the container's /dev/shm is too small",
            "a larger container.shm_bytes",
        ),
        (
            r"[Nn]o space left on device",
            "F8",
            "a disk of the node is full",
            "clusterctl check names the disk (disk-full); docker system df on the node",
        ),
        (
            r"Driver/library version mismatch",
            "F10",
            "the NVIDIA driver was upgraded and the old kernel module is still loaded",
            "reboot the node",
        ),
        (
            r"NVIDIA driver on your system is too old|PTX was compiled with an unsupported toolchain",
            "F11",
            "the image's CUDA is newer than the node's driver",
            'a newer driver or an older CUDA; on data-centre GPUs, container.env VLLM_ENABLE_CUDA_COMPATIBILITY: "1"',
        ),
        (
            r"Error 802: system not yet initialized",
            "F12",
            "the NVSwitch fabric is not up: no fabric manager, or one of another version than the driver",
            "on the node: systemctl status nvidia-fabricmanager; install the driver's version of it",
        ),
        (
            r"Failed to initialize NVML: Unknown Error",
            "F18",
            "the container lost its GPUs: systemd reloaded and took back its devices",
            "clusterctl down, then up; then cgroupfs or CDI for the engine (gpu-lost-on-reload)",
        ),
        (
            r"could not select device driver \"\" with capabilities",
            "F17",
            "the engine knows no way to give GPUs to a container",
            "install nvidia-container-toolkit on the node and restart the engine; Docker from snap does not see it",
        ),
        (
            r"ray: (?:command )?not found|Failed to import Ray",
            "F20",
            "the image has no Ray",
            "an image with ray[default], of the same version on every node",
        ),
        (
            r"Unable to find address for: [\^=]",
            "F27",
            "GLOO_SOCKET_IFNAME holds NCCL's syntax, which Gloo does not know",
            "leave GLOO_SOCKET_IFNAME to clusterctl, or give the plain name of an interface",
        ),
        (
            r"exceeded error retry count",
            "F26",
            "NCCL dials an address that does not answer: a wrong interface, or a firewall",
            "clusterctl check tries every port between every pair and prints each node's interface",
        ),
        (
            r"missed too many heartbeats",
            "F35",
            "the head no longer reaches a node's Ray: a port is blocked, or the node is gone",
            "clusterctl check (ports-blocked); ray.ports in the inventory are open both ways",
        ),
        (
            r"HFValidationError|[Ii]nvalid repository id",
            "F36",
            "there is no model at model.path in a container, so its name was looked for on a hub",
            "the same directory on every node: clusterctl check names those that lack it",
        ),
        (
            r"LocalEntryNotFoundError",
            "F39",
            "a file is not in the local cache, and the hub may not or cannot be asked",
            "model.path: a directory that holds the whole model",
        ),
        (
            r"Cannot access gated repo",
            "F40",
            "vLLM tries to download a model that needs a token",
            "download it once and give its directory as model.path",
        ),
        (
            r"Ray is trying to start at .* but is already running at",
            "F42",
            "another Ray runs on the node",
            "clusterctl check names its process; end it, or choose other ray.ports",
        ),
        (
            r"Ray component .* is trying to use a port number",
            "F43",
            "two of Ray's ports are the same, or one is in the workers' range",
            "leave ray.ports at their defaults, or choose ports outside ray.ports.workers",
        ),
        (
            r"Failed to connect to GCS within \d+ seconds",
            "F62",
            "the head's Ray died or is no longer reachable, and the workers end with it",
            "clusterctl logs --node HEAD; then clusterctl down and up: a head is never restarted alone",
        ),
        (
            r"Waiting for creating a placement group of specs for|Cannot provide a placement group",
            "F45",
            "Ray has fewer free accelerators than the layout asks for",
            "clusterctl status; end what else uses this Ray, or correct accelerator.per_node",
        ),
        (
            r"World size \(\d+\) is larger than the number of available GPUs",
            "F49",
            "vLLM was not started on Ray",
            "leave distributed-executor-backend out of serve.options: clusterctl sets it",
        ),
        (
            r"Timed out waiting \d+ms for recv",
            "F55",
            "a rank waited for another one in vain: Gloo's ports are blocked, or the other one hangs or died",
            "clusterctl check (every port, every pair), then clusterctl check --nccl",
        ),
        (
            r"receiving \d+ bytes instead of \d+|Message truncated",
            "F56",
            "the nodes' NCCL versions or NCCL_* variables differ",
            "bring the same image to every node; the same NCCL_* in container.env",
        ),
        (
            r"corrupted compilation artifact",
            "F58",
            "several processes wrote one compile cache",
            "empty the cache directory; give each node its own in container.volumes, not a shared file system",
        ),
        (
            r"Timed out waiting for engine core processes to start",
            "F59",
            "loading takes longer than vLLM waits for its engine",
            'container.env VLLM_ENGINE_READY_TIMEOUT_S: "3600", and a larger timeouts.load_s',
        ),
        (
            r"RPC call to \w+ timed out",
            "F61",
            "a rank does not answer any more: a collective hangs, or the network is cut",
            "check the network between the nodes (clusterctl check), then clusterctl down and up",
        ),
        (
            r"Workers \(tasks / actors\) killed due to memory pressure",
            "F9",
            "Ray ended workers because the node's memory was nearly full",
            "free memory on the node, or lower the load on it",
        ),
        (
            r"Version mismatch: The cluster was started with",
            "F41",
            "Ray or Python differs between the nodes' images",
            "bring the same image to every node",
        ),
        (
            r"Token authentication is enabled but|AuthenticationError",
            "F46",
            "the nodes do not hold the same Ray token",
            "clusterctl down, then up: all nodes get one new token",
        ),
        (
            r"Unable to connect to GCS|Failed to connect to GCS",
            "F44",
            "the head's Ray is not reachable from this node at its private address",
            "check the firewall between the nodes (Ray's ports: ray.ports in the inventory)",
        ),
        (
            r"timed out during startup",
            "F44",
            "Ray was given an address that is not this node's",
            "check network.cidr and the node's address",
        ),
        (
            r"\[Errno 98\]|[Aa]ddress already in use",
            "F57",
            "a port is taken by another process",
            "ss -ltnp on the node; end that process or change the port in the inventory",
        ),
        (
            r"ibv_(?:reg_mr|create_qp).*(?:failed|Cannot allocate memory)",
            "F22",
            "RDMA memory could not be registered: locked memory is limited",
            "container.ulimits memlock: -1 and cap_add IPC_LOCK",
        ),
        (
            r"NCCL error|ncclSystemError|ncclUnhandledCudaError",
            "F54",
            "NCCL failed",
            "NCCL_DEBUG=INFO in container.env",
        ),
        (
            r"No available shared memory broadcast block found",
            "F61",
            "a rank was silent for a minute: it compiles (a healthy start may say so too), or the network is cut",
            "when it does not go on: check the network between the nodes, then restart the cluster",
        ),
        (
            r"does not recognize this architecture|Model architectures .* are not supported",
            "F53",
            "this vLLM does not know the model's architecture",
            "use an image with a newer vLLM or transformers",
        ),
        (
            r"vllm serve: error:|unrecognized arguments|error: argument",
            "-",
            "vLLM does not accept an option of serve.options",
            "correct serve.options; `vllm serve --help=all` in the image",
        ),
        (
            r"CppCompileError|fatal error: Python\.h",
            "-",
            "vLLM compiles code when it starts, and the image lacks a compiler or Python's headers",
            "add g++ and python3-dev to the image",
        ),
        (
            r"RayWorkerProc .* died unexpectedly|EngineDeadError|Engine core initialization failed",
            "F60",
            "a worker or the engine died; an earlier line says why",
            "read the lines before it: clusterctl logs",
        ),
    )
)


_LINE = re.compile(
    r"^(?P<who>(?:\([^)]*\) )*)"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
    r"(?P<text>.*)$"
)


_EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit)\b(?:: |$)|\bfatal error: |\berror: ")


_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|EngineDeadError|ActorHandle|during handling of the above|CancelledError"
)
"""What the other processes say once one has died: true, and no reason."""


def cause_lines(lines: Iterable[str], limit: int) -> list[str]:
    """The lines that say why: exceptions, the first ones first, each once. Without any, the last lines."""
    clean = [stripped for line in lines if (stripped := ANSI.sub("", line).rstrip())]
    found: dict[str, str] = {}
    for line in clean:
        match = _LINE.match(line)
        text = match["text"] if match else line
        if match and match["level"] != "WARNING" and match["level"] != "INFO" and _EXCEPTION.search(text):
            found.setdefault(text, f"{match['who']}{text}")
    reasons = [line for text, line in found.items() if not _CONSEQUENCE.search(text)] or list(found.values())
    return reasons[:limit] or clean[-limit:]


def causes(lines: Iterable[str]) -> tuple[Explanation, ...]:
    """The failure modes that the lines tell of, the most specific first (the order of the table above)."""
    return explained(_CAUSES, lines)
