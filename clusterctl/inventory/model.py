"""The inventory, version 1: what the operator asked for, as frozen and strict values.

Field descriptions here are the reference documentation, the editor's tooltips (JSON Schema) and the
source of inventory.example.yaml's comments. Units are in the names.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
"""Names of clusters and nodes: a DNS label of at most 40 characters, so that `<cluster>-node` is a legal
container name and a host name everywhere."""


# A leading dash is refused wherever a value could end up as an argument of a program: `-oProxyCommand=…`.
USER_PATTERN = r"^[^\s-]\S*$"


# What OpenSSH refuses in a host's name (valid_hostname in its ssh.c), and brackets: an address has none in this place.
HOST_PATTERN = r"^[^\s/@\[\]{}()'\"`$\\;&<>|-][^\s/@\[\]{}()'\"`$\\;&<>|]*$"


JUMP_PATTERN = r"^([^\s@,-][^\s@,]*@)?[^\s@,-][^\s@,]*(,([^\s@,-][^\s@,]*@)?[^\s@,-][^\s@,]*)*$"


WORD_PATTERN = r"^\S+$"


ENV_NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"


ABSOLUTE_PATH_PATTERN = r"^/[^\x00\n]*$"


VOLUME_PATTERN = r"^/[^:]*:/[^:]*(:(ro|rw|z|Z)(,(ro|rw|z|Z))*)?$"


CAPABILITY_PATTERN = r"^[A-Z_]+$"


GPU_UUID_PATTERN = r"^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


OPTION_PATTERN = r"^[a-z0-9][a-z0-9-]*$"


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


User = Annotated[str, StringConstraints(pattern=USER_PATTERN)]


HostName = Annotated[str, StringConstraints(pattern=HOST_PATTERN)]


JumpHost = Annotated[str, StringConstraints(pattern=JUMP_PATTERN)]


Word = Annotated[str, StringConstraints(pattern=WORD_PATTERN)]


EnvName = Annotated[str, StringConstraints(pattern=ENV_NAME_PATTERN)]


AbsolutePath = Annotated[str, StringConstraints(pattern=ABSOLUTE_PATH_PATTERN)]


Volume = Annotated[str, StringConstraints(pattern=VOLUME_PATTERN)]


Capability = Annotated[str, StringConstraints(pattern=CAPABILITY_PATTERN)]


OptionName = Annotated[str, StringConstraints(pattern=OPTION_PATTERN)]


GpuDevice = Annotated[int, Field(ge=0, le=127)] | Annotated[str, StringConstraints(pattern=GPU_UUID_PATTERN)]
"""A GPU, as `nvidia-smi -L` lists it: by its index, or by its UUID, which it keeps."""


Port = Annotated[int, Field(ge=1, le=65535)]


Seconds = Annotated[float, Field(gt=0, le=86400)]


class Strict(BaseModel):
    """Unknown keys are errors, types are not coerced, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


THIS_MACHINE = "localhost"
"""A node's host that needs no SSH."""


class Ssh(Strict):
    """How nodes are reached. Every field can be overridden on a node; `ssh_config` fills in what is not set."""

    user: User | None = None
    """Login name. Default: from ssh_config, otherwise your own login name."""
    port: Port | None = None
    """SSH port. Default: from ssh_config, otherwise 22."""
    key: Path | None = None
    """Private key file; relative to the inventory. Default: ssh_config, the SSH agent, then the usual key files."""
    jump: JumpHost | None = None
    """Jump host (ProxyJump), as [user@]host[:port]; several with commas, the first one first; `none` for none, whatever
    ssh_config says. Its host key is checked as strictly as those of the nodes."""


class SshDefaults(Ssh):
    """How nodes are reached, for all nodes, and where host keys are looked up."""

    known_hosts: Path | None = None
    """The only known_hosts file with the nodes' host keys; relative to the inventory. Default: from ssh_config,
    otherwise ~/.ssh/known_hosts and the system's. Unknown and changed keys are refused."""
    config: Path | None = None
    """ssh_config file, read in place of all others (`ssh -F`); relative to the inventory. Default: ~/.ssh/config and
    the system's. It is read as OpenSSH reads it (`clusterctl nodes` shows the result)."""


class Node(Ssh):
    """One machine."""

    name: Name
    """Name used in every message and in `--node`; a unique DNS label."""
    host: HostName
    """Where SSH connects to: a host name, an address, or a Host alias in ssh_config. `localhost`, where it is the only
    node, is this machine itself, without SSH."""
    address: IPv4Address | None = None
    """The node's own address in network.cidr. Default: detected (exactly one of its addresses must be in the CIDR)."""
    env: dict[EnvName, str] = Field(default_factory=dict)
    """Environment for this node's container; overrides container.env."""
    gpus: tuple[GpuDevice, ...] | None = None
    """Which of this node's GPUs are used; overrides accelerator.devices."""

    @property
    def is_this_machine(self) -> bool:
        """Whether it is where clusterctl runs, and needs no SSH."""
        return self.host.lower() == THIS_MACHINE


class Network(Strict):
    """The private network that carries Ray, NCCL and Gloo traffic between the nodes."""

    cidr: IPv4Network
    """The network, such as 10.77.0.0/24. Traffic on it is unencrypted, so it must be private."""
    allow_public: bool = False
    """Accept a CIDR with public addresses. vLLM's and Ray's traffic can be abused to run code: only behind a
    firewall."""


RdmaMode = Literal["off", "auto", "required"]


class Ulimit(Strict):
    """One resource limit of the container; -1 is unlimited."""

    soft: Annotated[int, Field(ge=-1)]
    """Soft limit."""
    hard: Annotated[int, Field(ge=-1)]
    """Hard limit."""


UlimitName = Literal["memlock", "stack", "nofile", "core"]


def rdma_ulimits() -> dict[UlimitName, Ulimit | int]:
    """What registering RDMA memory needs (F22), and the stack size in NVIDIA's own examples."""
    return {"memlock": -1, "stack": 67108864}


class Container(Strict):
    """The one container that runs on each node."""

    image: Word
    """Image reference; the image must be present and identical on every node. Pin a digest in production."""
    engine: Literal["docker", "podman"] = "docker"
    """Container engine. `podman`: root's Podman from 5.1 on, through its API's socket (podman.socket must run)."""
    sudo: bool = False
    """Reach the engine with `sudo -n` (for a login user outside the docker group; for Podman any user but root)."""
    volumes: tuple[Volume, ...] = ()
    """Extra bind mounts, as /on/node:/in/container[:ro]; with `z` or `Z` (`:ro,z`) the engine labels them for SELinux.
    model.path is always mounted, read-only, at the same path."""
    env: dict[EnvName, str] = Field(default_factory=dict)
    """Extra environment on every node. What clusterctl sets for each node (VLLM_HOST_IP …) is refused here."""
    ipc: Literal["host", "private"] = "private"
    """IPC namespace. With `private` the shared memory of NCCL, vLLM and Ray is freed with the container; with `host` it
    is the node's own /dev/shm, where killed processes leave files behind that hold memory."""
    shm_bytes: Annotated[int, Field(gt=0)] = 256 * 1024**3
    """Limit of /dev/shm when ipc is private; memory is only taken as it is used. Docker's 64 MiB are too small for
    NCCL, and Ray's object store must fit in (30% of the node's memory, or ray.object_store_bytes)."""
    ulimits: dict[UlimitName, Ulimit | Annotated[int, Field(ge=-1)]] = Field(default_factory=rdma_ulimits)
    """Resource limits, as one number or {soft, hard}. RDMA needs memlock -1."""
    cap_add: tuple[Capability, ...] = ("IPC_LOCK",)
    """Linux capabilities to add. Registering RDMA memory needs IPC_LOCK."""
    devices: tuple[AbsolutePath, ...] = ()
    """Extra devices for the container. /dev/infiniband is passed automatically where the node has it."""
    cache: Literal["on", "off"] = "on"
    """Keep compiled code (torch.compile, Triton …) in a volume of the engine's on each node, CLUSTER-cache, so that
    the next start is faster; `down --purge` removes it. A volume of your own in container.volumes at
    /var/cache/clusterctl, or over vLLM's own cache (/root/.cache/vllm), is used instead."""
    cache_max_bytes: Annotated[int, Field(ge=1024**3)] = 20 * 1024**3
    """How large the kept code may be when a container starts: images that were not used for longest lose theirs first.
    At least 1 GiB. Changing it restarts nothing."""
    privileged: bool = False
    """Run the container privileged. Not needed for GPUs or RDMA with the defaults above."""


class Accelerator(Strict):
    """What the nodes compute with."""

    kind: Literal["nvidia", "amd", "cpu"]
    """Kind of accelerator. `cpu` is vLLM's CPU build with declared slots (the rehearsal lab)."""
    per_node: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    """Accelerators used on each node. `auto`: all of them, the same number on every node. `cpu` needs a number."""
    devices: tuple[GpuDevice, ...] = ()
    """Which GPUs are used on each node, by index or UUID (`nvidia-smi -L`), so that clusters can share machines.
    Default: the first per_node. An index may be another GPU after a reboot, which `check` notices; a UUID never is."""
    request: Literal["auto", "toolkit", "cdi"] = "auto"
    """How containers ask the engine for GPUs. `toolkit`: through NVIDIA's container toolkit (`--gpus`). `cdi`: as
    devices of a CDI specification (Docker from 25 on). `auto`: what runs, else the toolkit where the engine has it,
    else CDI (`plan` says which, and why); for AMD's the device files of ROCm."""


class Model(Strict):
    """The model that is served."""

    path: AbsolutePath
    """Directory of the model, or its GGUF file, at the same absolute path on every node."""
    name: Word | None = None
    """Name that clients send as `model`. Default: the last part of the path."""


class Serve(Strict):
    """The vLLM server on the head."""

    host: Literal["private", "any"] | IPv4Address = "private"
    """Address that the API listens on: `private` is the head's address in network.cidr, `any` is 0.0.0.0."""
    port: Port = 8000
    """Port of the API on the head."""
    executor: Literal["auto", "ray", "mp"] = "auto"
    """What joins the processes of the server. `mp`: vLLM's own multiprocessing, without Ray. `ray`: a Ray cluster.
    `auto`: mp on one node; on several ray where the image has it, else mp (`plan` says which, and why)."""
    tensor_parallel: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Tensor-parallel size of each engine. A number may span nodes (every layer then waits for the network), `auto`
    never does: accelerators per node, or what pipeline_parallel and data_parallel leave."""
    pipeline_parallel: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Pipeline-parallel size of each engine; stages lie evenly on the nodes. `auto`: number of nodes, or as many stages
    as tensor_parallel and data_parallel leave accelerators for."""
    data_parallel: Annotated[int, Field(ge=1)] = 1
    """Engines, each with the whole model, behind one endpoint; vLLM balances requests between them. On several nodes
    a multiple of their number."""
    expert_parallel: bool = False
    """Give each rank whole experts (of all engines' ranks together) instead of a part of each. Only for models with
    experts."""
    api_servers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Processes that take requests on the head. `auto`: what vLLM takes (as many as engines)."""
    api_key: Literal["generated", "off"] = "generated"
    """Key that clients must send (Authorization: Bearer …). `generated`: a random one, kept while the cluster's
    container exists; `clusterctl api-key` prints it. `off`: everybody who can reach the port is served. It protects
    every path except /health, /ping and /metrics (vLLM's own check leaves more open)."""
    api_key_file: Path | None = None
    """File (mode 0600) that holds the key, instead of a generated one; relative to the inventory."""
    options: dict[OptionName, JsonValue] = Field(default_factory=dict)
    """Any other `vllm serve` option, by its long name without leading dashes: max-model-len: 8192. Mappings become
    JSON; true is a bare flag. Options that clusterctl sets itself are refused. With ssl-certfile and ssl-keyfile (paths
    in the container, inside a mount of container.volumes) the API uses https."""


class PortRange(Strict):
    """An inclusive range of ports."""

    first: Port
    """First port."""
    last: Port
    """Last port."""


class RayPorts(Strict):
    """Every port that Ray would otherwise choose at random, fixed so that firewall rules can be written."""

    gcs: Port = 6379
    """Global control store, on the head."""
    node_manager: Port = 6380
    """Node manager, on every node."""
    object_manager: Port = 6381
    """Object manager, on every node."""
    runtime_env_agent: Port = 6382
    """Runtime environment agent, on every node."""
    dashboard_agent_grpc: Port = 6383
    """Dashboard agent (gRPC), on every node."""
    metrics_export: Port = 6384
    """Metrics export, on every node."""
    dashboard_agent_http: Port = 52365
    """Dashboard agent (HTTP), on every node."""
    workers: PortRange = PortRange(first=10002, last=10999)
    """Worker processes, on every node."""


class Ray(Strict):
    """The Ray cluster that vLLM runs on, with the executor ray. The dashboard stays off; token authentication is always
    on."""

    ports: RayPorts = RayPorts()
    """Fixed ports."""
    token_file: Path | None = None
    """File (mode 0600) that holds the cluster's Ray token; relative to the inventory. Default: a new random token for
    each start of the cluster, kept only inside the containers."""
    object_store_bytes: Annotated[int, Field(ge=78643200)] | None = None
    """Ray's object store on each node; at least 75 MiB. Default: Ray's own (30% of memory)."""


class MpPorts(Strict):
    """Ports of the executor mp, on the head; only those that the sizes need are listened on."""

    agent: Port = 29500
    """Where the followers' agents join the head's, on its private address; only with several nodes."""
    master: Port = 29501
    """Where the ranks meet; only where an engine spans nodes. PyTorch listens there on ALL addresses."""
    data_parallel: Port = 29550
    """Where the engines meet while they start; only with data_parallel above 1."""


class Mp(Strict):
    """The executor mp: vLLM's own multiprocessing, on one node or on several, without Ray."""

    ports: MpPorts = MpPorts()
    """Pinned ports."""


class Timeouts(Strict):
    """Deadlines, in seconds. A timeout is a failure, never a success."""

    connect_s: Seconds = 10.0
    """For opening one SSH connection, including authentication."""
    command_s: Seconds = 60.0
    """For one remote command or engine call."""
    ray_s: Seconds = 180.0
    """From container start until all nodes have joined: in Ray, or with mp on the link between the agents."""
    load_s: Seconds = 3600.0
    """From server start until the first completion. Large models on slow disks need more."""
    drain_s: Annotated[float, Field(ge=0, le=86400)] = 30.0
    """For running requests to finish when the server is stopped or restarted; new ones are refused meanwhile."""
    stop_s: Seconds = 60.0
    """For the server (after its requests have finished) and Ray to stop by themselves before they are killed; at most
    10 s for a server that is not serving yet."""
    canary_interval_s: Seconds = 30.0
    """Between two one-token completions, with which the head checks that the server still works."""
    hang_s: Seconds = 120.0
    """Without a token for that check and without progress in the engine, until the server counts as hung."""


class Inventory(Strict):
    """A cluster: N nodes that become one vLLM endpoint."""

    version: Literal[1]
    """Version of this format."""
    cluster: Name
    """Name of the cluster; part of container names and labels. Unique among the clusters that share a node."""
    network: Network | None = None
    """The private network between the nodes. Only where there is one node it may be left out: nothing leaves it then,
    and with `serve.host: private` the API is on 127.0.0.1, or on the node's `address`."""
    rdma: RdmaMode = "auto"
    """RDMA (InfiniBand, RoCE) between the nodes. `auto`: used where available, TCP elsewhere. `required`: without it
    the cluster does not start, instead of silently using TCP. `off`: not used, and no RDMA device is passed."""
    ssh: SshDefaults = SshDefaults()
    """How nodes are reached, unless a node overrides it."""
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    """The machines, in the order of all output. The first one is the head unless `head` names another node."""
    head: Name | None = None
    """Name of the node that runs the server (and Ray's head). Default: the first node."""
    container: Container
    """The container on each node."""
    accelerator: Accelerator
    """What the nodes compute with."""
    model: Model
    """The model that is served."""
    serve: Serve = Serve()
    """The vLLM server."""
    ray: Ray = Ray()
    """The Ray cluster, where the executor is ray."""
    mp: Mp = Mp()
    """What is pinned where the executor is mp."""
    timeouts: Timeouts = Timeouts()
    """Deadlines."""
    metrics_port: Port | None = None
    """Port on which every node's agent answers Prometheus (/metrics), on the node's private address only, and without a
    key. Default: none. Setting, changing or removing it restarts nothing."""
    supervise: Literal["on", "off"] = "on"
    """`on`: what fails after a successful `up` is restarted without an operator, also after a power cut. `off`: it
    stays down."""
    waive: tuple[Word, ...] = ()
    """Codes of findings that are accepted: they are reported as waived, and fail neither `check` nor `up`."""

    @property
    def cidr(self) -> IPv4Network | None:
        """The private network, where one is declared."""
        return self.network.cidr if self.network is not None else None

    @property
    def head_name(self) -> str:
        """Name of the head node."""
        return self.head or self.nodes[0].name

    @property
    def head_node(self) -> Node:
        """The head node; the loader has checked that `head` names a node."""
        return next(node for node in self.nodes if node.name == self.head_name)

    @property
    def served_name(self) -> str:
        """Name that clients send as `model`."""
        return self.model.name or re.sub(r"\s", "-", Path(self.model.path).name)
