"""Rules across fields, as pure functions of the raw data.

They read the data before and apart from its validation, so that one mistake does not hide another: a value of the
wrong type counts as absent here, and validation reports it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

from clusterctl.inventory.issue import Issue, KeyPath, quoted
from clusterctl.inventory.layout import Size, resolve_layout, uneven_engines, uneven_stages
from clusterctl.inventory.model import OPTION_PATTERN
from clusterctl.inventory.owned import BALANCED_OUTSIDE
from clusterctl.inventory.raw import dig, entries, items, size, text, whole
from clusterctl.inventory.rules.container import covers, mount_target

SHORT_OPTIONS: Mapping[str, str] = {
    **{"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size"},
    **{"ep": "enable-expert-parallel", "asc": "api-server-count"},
}


# Accelerators and server.


def accelerators(data: object) -> Iterator[Issue]:
    """A CPU has no accelerators to count."""
    section = entries(dig(data, "accelerator"))
    if section.get("kind") == "cpu" and section.get("per_node", "auto") == "auto":
        message = "with kind cpu there are no accelerators to count"
        yield Issue(("accelerator", "per_node"), message, "give the number of slots, such as per_node: 1")
    kind, request = section.get("kind"), section.get("request", "auto")
    if kind == "cpu" and request != "auto":
        yield Issue(("accelerator", "request"), "has no effect: with kind cpu no GPU is asked for", "remove it")
    if kind == "amd" and request == "toolkit":
        message = "is NVIDIA's; AMD's GPUs are given as device files (auto), or by CDI"
        yield Issue(("accelerator", "request"), message, "remove it, or set cdi")


def devices(data: object) -> Iterator[Issue]:
    """Chosen GPUs are NVIDIA's, different ones, and as many as are used."""
    kind, per_node = dig(data, "accelerator", "kind"), size(data, "accelerator", "per_node")
    places: list[KeyPath] = [("accelerator", "devices")]
    places += [("nodes", index, "gpus") for index in range(len(items(dig(data, "nodes"))))]
    for place in places:
        chosen = items(dig(data, *place))
        if not chosen:
            continue
        if kind == "cpu":
            yield Issue(place, "with kind cpu GPUs cannot be chosen", "remove it")
        elif kind == "amd" and not all(isinstance(each, int) for each in chosen):
            yield Issue(place, "AMD's GPUs are chosen by index", "give their indices (rocm-smi -i)")
        elif len(set(map(str, chosen))) < len(chosen):
            yield Issue(place, "a GPU is given twice", "give each one once")
        elif isinstance(per_node, int) and per_node > len(chosen):
            message = f"{len(chosen)} GPUs are chosen, and accelerator.per_node is {per_node}"
            yield Issue(place, message, "give as many, or leave accelerator.per_node out")


def layout(data: object) -> Iterator[Issue]:
    """Data × tensor × pipeline parallel must fit the nodes, as far as the file gives them."""
    nodes = len(items(dig(data, "nodes")))
    tensor, pipeline = size(data, "serve", "tensor_parallel"), size(data, "serve", "pipeline_parallel")
    per_node, engines = size(data, "accelerator", "per_node"), engines_of(data)
    if nodes == 0 or tensor is None or pipeline is None or per_node is None or engines is None:
        return
    if uneven := uneven_engines(nodes, engines):
        yield Issue(("serve", "data_parallel"), uneven)
        return
    own_nodes = nodes if engines == 1 else 1
    try:
        if per_node != "auto":
            resolve_layout(nodes, per_node, tensor, pipeline, engines)
        elif pipeline != "auto" and (uneven := uneven_stages(own_nodes, pipeline, tensor)):
            yield Issue(size_at_fault(nodes, per_node, tensor, pipeline, engines), uneven)
    except ValueError as error:
        yield Issue(size_at_fault(nodes, per_node, tensor, pipeline, engines), str(error))


def engines_of(data: object) -> int | None:
    """serve.data_parallel; None where it is no size."""
    given = dig(data, "serve", "data_parallel")
    number = 1 if "data_parallel" not in entries(dig(data, "serve")) else whole(given)
    return number if number is not None and number > 0 else None


def size_at_fault(nodes: int, per_node: Size, tensor: Size, pipeline: Size, engines: int) -> KeyPath:
    """The field of the size that does not fit."""
    slots = per_node if per_node == "auto" else nodes * per_node // engines
    too_wide = isinstance(tensor, int) and isinstance(slots, int) and tensor > slots
    given = [name for name, value in (("tensor_parallel", tensor), ("pipeline_parallel", pipeline)) if value != "auto"]
    if engines > 1 and not given:
        return ("serve", "data_parallel")
    return ("serve", "tensor_parallel" if too_wide or pipeline == "auto" else "pipeline_parallel")


def option_names(data: object, owned: Mapping[str, str]) -> Iterator[Issue]:
    """Options are written as in `vllm serve --help`, without dashes in front, and must not contradict other fields.

    `owned`: option that clusterctl sets itself -> what to do instead.
    """
    for name, value in entries(dig(data, "serve", "options")).items():
        place = ("serve", "options", name)
        spelled = re.sub(r"[_\s]+", "-", name.strip().lstrip("-").lower())
        meant = SHORT_OPTIONS.get(spelled, spelled)
        if meant in BALANCED_OUTSIDE:
            message = f"makes {BALANCED_OUTSIDE[meant]}, and one endpoint is started, asked and healed: the head's"
            fix = "remove it, serve.data_parallel balances inside vLLM; or a cluster for each endpoint"
            yield Issue(place, message, fix)
        elif meant in owned:
            yield Issue(place, "clusterctl sets this option itself", owned[meant])
        elif meant == "disable-log-stats" and value is not False:
            # With it vLLM 0.32 has no vllm: metrics, by which agent.py sees progress behind a canary that waits.
            message = "without vLLM's metrics a busy server cannot be distinguished from one that hangs"
            yield Issue(place, message, "remove it")
        elif not re.fullmatch(OPTION_PATTERN, name):
            usable = re.fullmatch(OPTION_PATTERN, spelled)
            message = "options are written in lower case, with dashes between words and no leading dash"
            yield Issue(place, message, f"write {spelled}" if usable else None)
        elif value is None:
            yield Issue(place, "has no value", "use true for an option that takes no value")


def api_key(data: object) -> Iterator[Issue]:
    """A key from a file, and none at all, contradict each other."""
    if dig(data, "serve", "api_key") == "off" and dig(data, "serve", "api_key_file") is not None:
        message = "has no effect: serve.api_key is off"
        yield Issue(("serve", "api_key_file"), message, "remove it, or remove serve.api_key")


def balanced_experts(data: object) -> Iterator[Issue]:
    """vLLM's load balancer moves whole experts between ranks (vLLM 0.32, config/parallel.py)."""
    serve = entries(dig(data, "serve"))
    if entries(serve.get("options")).get("enable-eplb") is True and serve.get("expert_parallel") is not True:
        message = "moves whole experts between ranks, and each rank has a part of every expert"
        yield Issue(("serve", "options", "enable-eplb"), message, "set serve.expert_parallel: true, or remove it")


TLS_FILES = ("ssl-certfile", "ssl-keyfile", "ssl-ca-certs")
"""Options of `vllm serve` (0.32) whose values are paths that the server opens, in the container."""


def tls(data: object) -> Iterator[Issue]:
    """https needs a certificate and its key, both where the server can read them; clients show none."""
    options = entries(dig(data, "serve", "options"))
    mounts = [target for volume in items(dig(data, "container", "volumes")) if (target := mount_target(volume))]
    mounts += [path for path in (text(dig(data, "model", "path")),) if path]
    for name in TLS_FILES:
        place = ("serve", "options", name)
        if name not in options:
            continue
        path = text(options[name])
        if path is None or not path.startswith("/") or posixpath.normpath(path) != path:
            yield Issue(place, "must be a plain absolute path in the container", "for example /etc/tls/api.pem")
        elif not any(covers(mount, path) for mount in mounts):
            message = f"{quoted(path)} is in none of the container's mounts, so the server would not find it"
            folder = posixpath.dirname(path)
            yield Issue(place, message, f"mount it: container.volumes: [{folder}:{folder}:ro]")
    for given, other in (("ssl-certfile", "ssl-keyfile"), ("ssl-keyfile", "ssl-certfile")):
        if given in options and other not in options:
            yield Issue(("serve", "options", given), f"needs {other} too", "vLLM takes both or neither")
    if options.get("ssl-cert-reqs", 0) != 0:
        message = "asks clients for certificates, but clusterctl's own requests have none"
        yield Issue(
            ("serve", "options", "ssl-cert-reqs"), message, "ask for them in a reverse proxy in front of the API"
        )
