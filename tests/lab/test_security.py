"""What is reachable, and by whom: the API's key and certificate through SSH, and the printed firewall rules."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from clusterctl.agent.paths import API_KEY_PATH, container_name
from clusterctl.deployment.resolve import resolve
from clusterctl.facts.gather import gather
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.endpoint import endpoint_of
from clusterctl.inventory.load import load_inventory
from clusterctl.modes.ray import NOT_CARRIED_PATH
from clusterctl.planning.container import container_specs
from clusterctl.status.server import api_client

from .conftest import Clusterctl, Rehearsal

pytestmark = pytest.mark.lab

KEY = "cc-for-the-test"
FOLDER = "/srv/tls"
REFUSED_AFTER_S = 2
"""A dropped packet is never answered; in the lab an answer takes less than a millisecond."""

SERVER = """
import http.server, ssl, sys
address, port, certificate, key = sys.argv[1:]
class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        allowed = self.headers.get("Authorization") == "Bearer cc-for-the-test"
        body = b"x" * 100000
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer((address, int(port)), Api)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("listening", flush=True)
server.serve_forever()
"""


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module", autouse=True)
def certificates(rehearsal: Rehearsal) -> None:
    """In FOLDER of node1: self.pem and other.pem vouch for themselves; ca.pem signed leaf.pem and stranger.pem."""
    folder = rehearsal.lab.disk("node1") / FOLDER.lstrip("/")
    folder.mkdir(parents=True)
    for name in ("self", "other", "ca"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}.example",
                "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem")  # fmt: skip
    for name in ("leaf", "stranger"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}.example",
                "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr")  # fmt: skip
        openssl("x509", "-req", "-days", "2", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/ca.pem",
                "-CAkey", f"{folder}/ca.key", "-CAcreateserial", "-out", f"{folder}/{name}.pem")  # fmt: skip
        with (folder / f"{name}.pem").open("a") as chain:
            chain.write((folder / "ca.pem").read_text())
    (folder / "link.pem").symlink_to("self.pem")


@contextmanager
def https(rehearsal: Rehearsal, name: str) -> Iterator[None]:
    """An API on node1's private address that shows this certificate."""
    node, address = rehearsal.names()[0], str(rehearsal.lab.address(rehearsal.names()[0]))
    files = [f"{FOLDER}/{name}.pem", f"{FOLDER}/{name}.key"]
    process = subprocess.Popen(
        [*rehearsal.lab.enter(node), "python3", "-c", SERVER, address, "8000", *files],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "listening"
    try:
        yield
    finally:
        holders = rehearsal.lab.exec(node, ["ss", "-Hltnp", "sport = :8000"])
        pid = holders.partition("pid=")[2].partition(",")[0]
        rehearsal.lab.exec(node, ["kill", "-KILL", pid])
        process.wait(timeout=10)


@contextmanager
def asked(clusterctl: Clusterctl, key: str | None = KEY) -> Iterator[httpx.Client]:
    """The operator's client, with a head's container that does nothing but hold key and certificate."""
    inventory = load_inventory(clusterctl.inventory)
    with Hosts(inventory) as hosts:
        engine = hosts.head.engine
        config = {
            "image": inventory.container.image,
            "entrypoint": ["sleep", "600"],
            "command": [],
            "labels": {"clusterctl.cluster": inventory.cluster},
        }
        container = engine.create(
            container_name(inventory.cluster), config, {"network_mode": "host", "binds": [f"{FOLDER}:/etc/tls:ro"]}
        )
        try:
            if key is not None:
                engine.put_files(container, [FileInContainer(API_KEY_PATH, key.encode(), 0o600)])
            engine.start(container)
            head = inventory.head_node.address
            assert head is not None
            with api_client(hosts, inventory, endpoint_of(inventory, head)) as client:
                yield client
        finally:
            engine.remove(container)


def with_tls(rehearsal: Rehearsal, certfile: str) -> Clusterctl:
    return rehearsal.clusterctl.with_changes(
        "tls",
        {
            "container.volumes": [f"{FOLDER}:/etc/tls:ro"],
            "serve.options.ssl-certfile": f"/etc/tls/{certfile}.pem",
            "serve.options.ssl-keyfile": "/etc/tls/any.key",
        },
    )


@pytest.mark.parametrize("name", ["self", "leaf"])
def test_the_certificate_of_the_container_is_trusted_and_the_key_is_sent(clean: Rehearsal, name: str) -> None:
    with https(clean, name), asked(with_tls(clean, name)) as client:
        for _ in range(2):
            answer = client.get("/v1/models")
            assert (answer.status_code, len(answer.content)) == (200, 100000)
        assert str(client.base_url).startswith("https://")


def test_a_certificate_that_is_a_link(clean: Rehearsal) -> None:
    with https(clean, "self"), asked(with_tls(clean, "link")) as client:
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(("shown", "expected"), [("other", "self"), ("stranger", "leaf"), ("self", "leaf")])
def test_another_certificate_is_refused(clean: Rehearsal, shown: str, expected: str) -> None:
    """`stranger` was signed by the same authority as `leaf`, and its certificate stands in leaf's file."""
    refused = pytest.raises(httpx.ConnectError, match="TLS certificate that is not accepted")
    with https(clean, shown), asked(with_tls(clean, expected)) as client, refused:
        client.get("/v1/models")


def test_without_a_key_there_is_an_answer_that_says_so(clean: Rehearsal) -> None:
    with https(clean, "self"), asked(with_tls(clean, "self"), key=None) as client:
        assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize(("certfile", "reason"), [("absent", "no /etc/tls/absent.pem"), ("self.key", "no /etc/tls")])
def test_a_certificate_that_cannot_be_read_is_the_reason(clean: Rehearsal, certfile: str, reason: str) -> None:
    with asked(with_tls(clean, certfile)) as client, pytest.raises(httpx.ConnectError, match=reason):
        client.get("/v1/models")


def test_plain_http_where_tls_is_expected(clean: Rehearsal) -> None:
    with clean.stranger("node1", 8000), asked(with_tls(clean, "self")) as client:
        began = time.monotonic()
        with pytest.raises(httpx.TransportError):
            client.get("/v1/models", timeout=REFUSED_AFTER_S)
        assert time.monotonic() - began < 2 * REFUSED_AFTER_S


def test_the_key_is_printed_alone_and_its_absence_is_an_error(clean: Rehearsal) -> None:
    none = clean.clusterctl("api-key")
    assert (none.code, none.out) == (1, "")
    assert "there is no container" in none.err
    with asked(clean.clusterctl):
        found = clean.clusterctl("api-key")
        assert (found.code, found.out, found.err) == (0, f"{KEY}\n", "")
    with asked(clean.clusterctl, key=None):
        old = clean.clusterctl("api-key")
        assert (old.code, old.out) == (1, "")
        assert "has no API key" in old.err


# vLLM's own word on what it copies, logs and guards: the installed one, without a server.

ASK_VLLM = """
import asyncio, json, os
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware
from vllm.entrypoints.serve.utils.api_utils import get_non_default_args
from vllm.ray.ray_env import get_env_vars_to_copy
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.executor.ray_env_utils import get_driver_env_vars

def guarded(path):
    async def app(scope, receive, send):
        seen.append("app")
    async def send(message):
        seen.append(message.get("status", "body"))
    seen = []
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asyncio.run(AuthenticationMiddleware(app, [os.environ["VLLM_API_KEY"]])(scope, None, send))
    return seen[0] == 401

args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "m"])
print("ANSWER" + json.dumps({
    "copied": sorted(get_driver_env_vars(set())),
    "copied by others": sorted(name for name in get_env_vars_to_copy() if name in os.environ),
    "logged": str(get_non_default_args(args)),
    "guarded": {path: guarded(path) for path in ("/v1/completions", "/invocations", "/metrics", "/tokenize")},
}))
"""


def test_what_vllm_itself_copies_logs_and_guards(clean: Rehearsal) -> None:
    changed = clean.clusterctl.with_changes(
        "env", {"container.env": {"DB_CREDENTIALS": "s3cr3t", "NCCL_DEBUG": "INFO"}}
    )
    inventory = load_inventory(changed.inventory)
    with Hosts(inventory) as hosts:
        deployment = resolve(inventory, gather(hosts, inventory))
        spec = container_specs(deployment)[inventory.head_name]
        file = FileInContainer(NOT_CARRIED_PATH, spec.files[NOT_CARRIED_PATH].encode())
        environment = {**spec.config["environment"], "VLLM_API_KEY": KEY, "HF_TOKEN": "hf_x"}
        config = {**spec.config, "entrypoint": ["python3", "-c", ASK_VLLM], "environment": environment}
        output = hosts.head.engine.run_once("security-ask", config, spec.host_config, [file], deadline_s=120)
    said = output.stdout.decode()
    assert "ANSWER" in said, output.stderr.decode()[-2000:]
    answer = json.loads(said.partition("ANSWER")[2].splitlines()[0])
    for copied in (answer["copied"], answer["copied by others"]):
        assert "NCCL_DEBUG" in copied, "the list is about secrets alone"
        assert {"VLLM_API_KEY", "HF_TOKEN", "DB_CREDENTIALS"} & set(copied) == set()
    assert "api_key" not in answer["logged"]
    assert KEY not in said + output.stderr.decode()
    assert answer["guarded"] == {"/v1/completions": True, "/invocations": False, "/metrics": False, "/tokenize": False}


# The firewall.


def reaches(prefix: list[str], address: str, port: int) -> bool:
    """Whether a TCP connection is made, from wherever `prefix` runs commands."""
    script = f"import socket; socket.create_connection(({address!r}, {port}), timeout={REFUSED_AFTER_S})"
    return subprocess.run([*prefix, "python3", "-c", script], capture_output=True, check=False).returncode == 0


@contextmanager
def loaded(rehearsal: Rehearsal, rules: str) -> Iterator[None]:
    rehearsal.lab.exec("node1", ["nft", "-f", "-"], stdin=rules)
    try:
        yield
    finally:
        rehearsal.lab.exec("node1", ["nft", "delete", "table", "inet", "clusterctl"])


def test_the_printed_rules_let_nodes_through_and_nobody_else(clean: Rehearsal) -> None:
    address, port = str(clean.lab.address("node1")), 40123
    ours = (6379, 6384, 8000, 10500, port)
    with ExitStack() as stack:
        for each in (*ours, 9999):
            stack.enter_context(clean.stranger("node1", each))
        assert reaches([], address, port), "before: open to this machine, which is no node of the cluster"
        printed = clean.clusterctl("firewall", "--format", "nft", "--node", "node1")
        assert printed.code == 0
        with loaded(clean, printed.out):
            assert [each for each in ours if reaches([], address, each)] == []
            assert [each for each in ours if not reaches(clean.lab.enter("node2"), address, each)] == []
            assert reaches(clean.lab.enter("node1"), address, 8000), "what a node says to itself"
            assert reaches([], address, 22), "SSH"
            assert reaches([], address, 9999), "another's service stays as it is"
            assert clean.clusterctl("status").code == 4, "SSH goes on, and with it clusterctl"
            clean.lab.exec("node1", ["nft", "-f", "-"], stdin=printed.out)  # again: replaced, not doubled
        with socket.create_connection((address, 22)) as own:
            me = own.getsockname()[0]
        rules = clean.clusterctl("firewall", "--format", "nft", "--node", "node1", "--clients", f"{me}/32").out
        with loaded(clean, rules):
            assert reaches([], address, 8000), "a client"
            assert not reaches([], address, port)


def test_rules_without_asking_a_node(clean: Rehearsal) -> None:
    offline = clean.clusterctl("firewall", "--format", "nft", "--offline", "--node", "node2")
    assert offline.code == 0
    assert str(clean.lab.address("node1")) in offline.out
    assert "eth0" not in offline.out
    clean.lab.exec("node2", ["nft", "-c", "-f", "-"], stdin=offline.out)
