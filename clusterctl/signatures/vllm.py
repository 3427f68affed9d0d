"""Why a vLLM server does not start, or ends: what its log's lines mean, with those of Ray and the machine in between.

Log lines are text without a contract; nothing else here decides by message text. What is only nice to know (progress,
KV cache) is absent when a pattern no longer matches, never wrong. Success is never read from a log line.

Patterns come from the symptoms in failure-modes.md: vLLM 0.26 to 0.33, Ray 2.56 to 2.60, NCCL 2.27. Not all were seen
here: tests/unit/fixtures/causes.yaml says which lines were captured, and which were written after the fixed words of an
issue or a source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from clusterctl.signatures.machine import MACHINE
from clusterctl.signatures.ray import RAY
from clusterctl.signatures.signature import ANSI, Explanation, Signature, explained

_MODEL: tuple[Signature, ...] = (
    Signature(
        r"Free memory on device .* is less than desired",
        name="gpu-memory-held",
        failure_mode="F13",
        meaning="another process holds GPU memory",
        fix=(
            "find the other job with nvidia-smi on the nodes and end it, or lower gpu-memory-utilization "
            "in serve.options"
        ),
    ),
    Signature(
        r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks",
        name="gpu-out-of-memory",
        failure_mode="F13",
        meaning="the model, its activations and the KV cache do not fit the accelerators",
        fix="lower max-model-len or gpu-memory-utilization, or use more nodes",
    ),
    Signature(
        r"To serve at least one request .* KV cache is needed|larger than the available KV cache memory",
        name="kv-cache-too-small",
        failure_mode="F13",
        meaning="one request of max-model-len tokens does not fit the KV cache",
        fix="lower max-model-len in serve.options",
    ),
    Signature(
        r"MetadataIncompleteBuffer|HeaderTooLarge|InvalidHeaderDeserialization",
        name="model-file-damaged",
        failure_mode="F37",
        meaning="a weight file is truncated or is not a weight file (an LFS pointer?)",
        fix="copy the model again on the node that the line names",
    ),
    Signature(
        r"must be divisible by tensor parallel size|Total number of attention heads|assert .*num_kv_heads % ",
        name="layout-indivisible",
        failure_mode="F51",
        meaning="tensor_parallel does not divide the model's attention heads",
        fix="use a tensor_parallel that divides them",
    ),
    Signature(
        r"is not divisible by weight quantization block_n",
        name="layout-blocks",
        failure_mode="F52",
        meaning="tensor_parallel splits a quantisation block",
        fix="use a lower tensor_parallel and a higher pipeline_parallel",
    ),
    Signature(
        r"Pipeline parallelism is not supported for this model",
        name="pipeline-unsupported",
        failure_mode="F53",
        meaning="this architecture cannot be split into pipeline stages",
        fix="use one node (pipeline_parallel 1)",
    ),
    Signature(
        r"Every node should have a unique IP address",
        name="address-duplicate",
        failure_mode="F1",
        meaning="two ranks were given the same address",
        fix="give each node an address of its own in network.cidr (clusterctl check)",
    ),
    Signature(
        r"is not divisible by min_thread_[kn]",
        name="layout-kernel-tile",
        failure_mode="F52",
        meaning="tensor_parallel splits a quantised matrix into parts that its kernel cannot calculate with",
        fix="use a lower tensor_parallel and a higher pipeline_parallel, or data_parallel (clusterctl layout)",
    ),
    Signature(
        r"Tokenizer class \w+ does not exist or is not currently imported",
        name="tokenizer-unknown",
        meaning="the model names a tokenizer class that the image's transformers does not know: a newer one saved it",
        fix="use an image with a newer transformers, or the tokenizer_class of an older release of the model",
    ),
    Signature(
        r"did not match any variant of untagged enum ModelWrapper",
        name="tokenizer-newer",
        meaning="tokenizer.json was written by a newer tokenizers than the image's",
        fix="use an image with newer tokenizers and transformers",
    ),
    Signature(
        r"Invalid repository ID or local directory specified",
        name="model-unreadable",
        meaning="in the container, model.path holds no configuration that may be read: often a permission",
        fix="on the node: namei -l MODEL/config.json; then chmod -R a+rX MODEL (clusterctl check: what is missing)",
    ),
    Signature(
        r"ptxas fatal\s*: Value 'sm_\w+' is not defined|no kernel image is available for execution on the device",
        name="gpu-newer-than-image",
        meaning="the image's CUDA tools or kernels do not know this GPU's architecture",
        fix="use an image that was built for it (a newer CUDA), or point TRITON_PTXAS_PATH at a ptxas that knows it",
    ),
    Signature(
        r"HFValidationError|[Ii]nvalid repository id",
        name="model-missing",
        failure_mode="F36",
        meaning="there is no model at model.path in a container, so its name was looked for on a hub",
        fix="put the same directory on every node: clusterctl check names those that lack it",
    ),
    Signature(
        r"LocalEntryNotFoundError",
        name="model-file-not-cached",
        failure_mode="F39",
        meaning="a file is not in the local cache, and the hub is disabled or cannot be reached",
        fix="set model.path to a directory that holds the whole model",
    ),
    Signature(
        r"Cannot access gated repo",
        name="gated-model",
        failure_mode="F40",
        meaning="vLLM tries to download a model that needs a token",
        fix="download it once and set model.path to its directory",
    ),
)


_SERVER: tuple[Signature, ...] = (
    Signature(
        r"World size \(\d+\) is larger than the number of available GPUs",
        name="not-started-on-ray",
        failure_mode="F49",
        meaning="vLLM was not started on Ray",
        fix="leave distributed-executor-backend out of serve.options: clusterctl sets it",
    ),
    Signature(
        r"Timed out waiting \d+ms for recv",
        name="gloo-timeout",
        failure_mode="F55",
        meaning="a rank waited in vain for another one: Gloo's ports are blocked, or the other one hangs or died",
        fix="clusterctl check (every port, every pair), then clusterctl check --nccl",
        consequence=True,
    ),
    Signature(
        r"receiving \d+ bytes instead of \d+|Message truncated",
        name="nccl-differs",
        failure_mode="F56",
        meaning="the nodes' NCCL versions or NCCL_* variables differ",
        fix="use the same image on every node, and the same NCCL_* in container.env",
    ),
    Signature(
        r"corrupted compilation artifact",
        name="compile-cache-corrupt",
        failure_mode="F58",
        meaning="several processes wrote one compile cache",
        fix="empty the cache directory; give each node its own one in container.volumes, not on a shared file system",
    ),
    Signature(
        r"Timed out waiting for engine core processes to start",
        name="engine-start-timeout",
        failure_mode="F59",
        meaning="loading takes longer than vLLM waits for its engine",
        fix='container.env VLLM_ENGINE_READY_TIMEOUT_S: "3600", and a higher timeouts.load_s',
    ),
    Signature(
        r"RPC call to \w+ timed out",
        name="engine-rpc-timeout",
        failure_mode="F61",
        meaning="a rank stopped responding: a collective hangs, or the network is down",
        fix="check the network between the nodes (clusterctl check), then clusterctl down and up",
        consequence=True,
    ),
    Signature(
        r"\[Errno 98\]|[Aa]ddress already in use",
        name="port-taken",
        failure_mode="F57",
        meaning="a port is taken by another process",
        fix="find the process with ss -ltnp on the node; end it, or change the port in the inventory",
    ),
    Signature(
        r"ibv_(?:reg_mr|create_qp).*(?:failed|Cannot allocate memory)",
        name="memlock-in-container",
        failure_mode="F22",
        meaning="RDMA memory could not be registered: locked memory is limited",
        fix="container.ulimits memlock: -1 and container.cap_add [IPC_LOCK]",
    ),
    Signature(
        r"NCCL error|ncclSystemError|ncclUnhandledCudaError",
        name="nccl-failed",
        failure_mode="F54",
        meaning="NCCL failed",
        fix="set NCCL_DEBUG: INFO in container.env and read its WARN lines",
        consequence=True,
    ),
    Signature(
        r"No available shared memory broadcast block found",
        name="rank-silent",
        failure_mode="F61",
        meaning="a rank was silent for a minute: it is compiling (as in a healthy start), or the network is down",
        fix="if the start does not continue, check the network between the nodes, then restart the cluster",
        harmless=True,
        consequence=True,
    ),
    Signature(
        r"does not recognize this architecture|Model architectures .* are not supported",
        name="architecture-unknown",
        failure_mode="F53",
        meaning="this vLLM does not know the model's architecture",
        fix="use an image with a newer vLLM or transformers",
    ),
    Signature(
        r"vllm serve: error:|unrecognized arguments|error: argument",
        name="option-rejected",
        meaning="vLLM does not accept an option of serve.options",
        fix="correct serve.options; run `vllm serve --help=all` in the image for the list",
    ),
    Signature(
        r"CppCompileError|fatal error: Python\.h",
        name="compiler-missing",
        meaning="vLLM compiles code on start, and the image lacks a compiler or Python's headers",
        fix="add g++ and python3-dev to the image",
    ),
    Signature(
        r"RayWorkerProc .* died unexpectedly|EngineDeadError|Engine core initialization failed"
        r"|WorkerProc initialization failed due to an exception",
        name="worker-died",
        failure_mode="F60",
        meaning="a worker or the engine died; an earlier line says why",
        fix="read the lines before it: clusterctl logs",
        consequence=True,
    ),
)


SIGNATURES = (*_MODEL, *MACHINE, *RAY, *_SERVER)
"""The most specific first; last, lines that only report that something failed earlier."""


_LINE = re.compile(
    # What journald (`Aug 19 18:34:30 host vllm[8707]: `) or Docker Compose (`vllm-1  | `) puts before it.
    r"^(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ \S+\[\d+\]: |[\w.-]+ +\| )?"
    r"(?P<who>(?:\([^)]*\) )*)"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
    r"(?P<text>.*)$"
)


_EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit)\b(?:: |$)|\bfatal error: |\berror: (?!\d+$)")


_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|EngineDeadError|ActorHandle|during handling of the above|CancelledError"
)
"""What the other processes log once one has died: true, but not the reason."""


_REPORTS = tuple(each for each in SIGNATURES if each.consequence and not each.harmless)
"""Signatures of lines that report what has happened elsewhere."""


def cause_lines(lines: Iterable[str], limit: int) -> list[str]:
    """The lines that give the reason: exceptions, the first ones first, each once. Without any, the last lines."""
    clean = [stripped for line in lines if (stripped := ANSI.sub("", line).rstrip())]
    found: dict[str, str] = {}
    for line in clean:
        match = _LINE.match(line)
        text = match["text"] if match else line
        if match and match["level"] != "WARNING" and match["level"] != "INFO" and _EXCEPTION.search(text):
            found.setdefault(text, f"{match['who']}{text}")
    reasons = [line for text, line in found.items() if not _CONSEQUENCE.search(text)] or list(found.values())
    return reasons[:limit] or clean[-limit:]


UNKNOWN_ERROR = Signature(
    r"(?!)",
    name="unknown-error",
    meaning="the last error before the others ended; no more is known about it here",
    fix="read the lines around it, and search vLLM's issues for it: it is seldom the first of its kind",
)
"""What no table knows. Better than a wrong cause: the line is shown as the likely one."""


_IGNORED = re.compile(r"^Exception ignored ")
"""What Python prints before an exception that nothing can catch, as in a destructor: it comes after the reason."""


def last_error(lines: Iterable[str]) -> str | None:
    """The line of the last exception before the first line in which others report that something has ended; None
    where there is no exception."""
    last, ignored = None, set[str]()
    for line in lines:
        text = ANSI.sub("", line).strip()
        match = _LINE.match(text)
        words, who = (match["text"], match["who"]) if match else (text, "")
        if _CONSEQUENCE.search(words) or any(each.expression.search(text) for each in _REPORTS):
            if last is not None:
                return last
            continue
        if _IGNORED.match(words):
            ignored.add(who)
        elif match and match["level"] not in ("WARNING", "INFO") and _EXCEPTION.search(words):
            if who in ignored:
                ignored.remove(who)
            else:
                last = text
    return last


def nccl_words(lines: Iterable[str]) -> str | None:
    """What NCCL itself says of its failure: the line after "Last error:", else its first warning."""
    clean = [ANSI.sub("", line).strip() for line in lines]
    ends = (index for index, line in enumerate(clean[:-1]) if line.endswith("Last error:"))
    said = next((clean[index + 1] for index in ends), None)
    return said or next((line for line in clean if "NCCL WARN" in line), None)


def causes(lines: Iterable[str]) -> tuple[Explanation, ...]:
    """What the lines mean, the most specific first (the order of the table above)."""
    return explained(SIGNATURES, lines)
