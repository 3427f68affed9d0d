"""The door to the container engine: the Docker SDK over the node's SSH connection.

Each HTTP connection of the SDK is one channel that runs `docker system dial-stdio` on the node. Measured in the
lab (lab-facts): 5 ms an API call, against 113 ms for a `docker …` command over the same SSH connection, and
answers are typed, so nothing is quoted or parsed.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import re
import struct
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

import docker
import paramiko
import requests
import urllib3
from docker.transport.basehttpadapter import BaseHTTPAdapter

from clusterctl.agent.labels import LABEL_CLUSTER
from clusterctl.hosts.ordered_transport import end_input, transport_of
from clusterctl.hosts.ssh import HostError, Piece, SshConnection, WindowSize, arriving

T = TypeVar("T")

OLDEST_API_VERSION = "1.41"
"""Docker Engine API of 20.10 (Debian 12's docker.io), the oldest engine that is tested. What is spoken is the engine's
own version, asked for at the first call: newer engines refuse old ones (29.0 asks for 1.44)."""

ID_LENGTH = 64
"""Digits of a container's ID; twelve of them are what people read."""


class EngineError(HostError):
    """The engine did not answer, or refused. `status` is the API's HTTP status where there was one."""

    def __init__(self, node: str, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(node, message, hint=hint)
        self.status = status


@dataclass(frozen=True)
class FileInContainer:
    """A file to place in a container before it starts: absolute path, content, permission bits."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class LogChunk:
    """One frame of a container's log. A frame may hold part of a line (the engine splits at 16 KiB)."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True)
class Output:
    """Everything that a container wrote."""

    stdout: bytes
    stderr: bytes


class ContainerCommand:
    """A command that runs in a container. Its methods raise EngineError, or ConnectionLostError when SSH breaks.

    Input and output may be used from two threads; nobody else may read.
    """

    def __init__(self, engine: Engine, exec_id: str, channel: paramiko.Channel, what: str, *, tty: bool) -> None:
        channel.settimeout(None)  # a command may be silent, and may not read, for as long as it likes
        self._engine, self._id, self._channel, self._what, self._tty = engine, exec_id, channel, what, tty
        self._begun = b""

    def begin(self, request: bytes) -> None:
        """Send the request that starts it, and read the answer's head: what follows is the command's own."""
        answer = b""
        self._channel.sendall(request)
        deadline = time.monotonic() + self._engine.timeout_s
        for stream, data in arriving(self._channel, self._engine.node, "docker system dial-stdio", deadline):
            answer += data if stream == "stdout" else b""
            head, blank, self._begun = answer.partition(b"\r\n\r\n")
            if blank and head.split()[1] in (b"101", b"200"):  # 101 Switching Protocols; engines before 20.10: 200
                return
        refused = f"the engine refused to run `{self._what}`: {_said(answer)}"
        raise self._engine.failure(refused, self._channel)

    def send(self, data: bytes) -> None:
        """To its stdin; waits while the command does not read."""
        try:
            self._channel.sendall(data)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._engine.failure(f"`{self._what}` takes no more input", self._channel) from error

    def end_input(self) -> None:
        """Close its stdin: `docker system dial-stdio` hands the half-closed connection on."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            end_input(self._channel)

    def resize(self, size: WindowSize) -> None:
        """Tell it the new size of its terminal; harmless when it does not run (yet)."""
        self._engine.resize(self._id, size)

    def pieces(self, deadline: float | None = None) -> Iterator[Piece]:
        """Its output as it comes, to its end. Raises CommandTimeoutError at the deadline (time.monotonic())."""
        frames = Frames()
        for stream, data in self._raw(deadline):
            if stream == "stderr":
                continue  # dial-stdio's own; that the connection ended is seen by who asks for the exit code
            yield from (("stdout", data),) if self._tty else frames.feed(data)

    def exit_code(self) -> int:
        """What it ended with, once its output has ended."""
        return self._engine.exit_code(self._id, self._what)

    def close(self) -> None:
        """Give its streams up. The command itself goes on: the engine's API cannot end it."""
        self._channel.close()

    def _raw(self, deadline: float | None) -> Iterator[Piece]:
        if self._begun:
            yield "stdout", self._begun
        yield from arriving(self._channel, self._engine.node, self._what, deadline)


class Frames:
    """Takes a stream without terminal apart into what was written where: 8 bytes of head (stream, length), then data.

    Docker Engine API, «Attach to a container». Data is passed on before its frame is complete.
    """

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._stream: Literal["stdout", "stderr"] = "stdout"

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The next bytes of the stream."""
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                yield self._stream, part
                continue
            missing = 8 - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if len(self._head) == 8:
                kind, self._left = struct.unpack(">BxxxL", self._head)
                self._stream = "stderr" if kind == 2 else "stdout"
                self._head = b""


def _said(answer: bytes) -> str:
    """The message in the engine's answer, or the answer."""
    _, _, body = answer.partition(b"\r\n\r\n")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip() or "no answer"


class _ChannelConnection(urllib3.connection.HTTPConnection):
    def __init__(self, ssh: SshConnection, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._ssh = ssh
        self._argv = argv
        self._timeout_s = timeout_s
        self._channel: paramiko.Channel | None = None

    def connect(self) -> None:
        # A paramiko channel has the socket methods that http.client uses (makefile, sendall, close).
        # Kept beside `sock`, which http.client lets go of before anybody can ask why there was no answer.
        self.sock = self._channel = self._ssh.session(self._argv, timeout_s=self._timeout_s)

    def close(self) -> None:
        """Close the channel; when dial-stdio has ended, after its exit code has come, which paramiko drops then."""
        if self._channel is not None and self._channel.eof_received:
            self._channel.status_event.wait(2)
        super().close()

    def ended_because(self) -> str:
        """What dial-stdio said when it ended instead of answering; empty when it said nothing and no failure."""
        channel = self._channel
        if channel is None:
            return ""
        channel.settimeout(2)
        try:
            stderr = channel.recv_stderr(4096).decode(errors="replace").strip()
        except OSError:
            stderr = ""
        if not stderr and channel.exit_status <= 0:  # -1: no exit code came
            return ""
        code = f" with exit code {channel.exit_status}" if channel.exit_status >= 0 else ""
        return f"`{' '.join(self._argv)}` ended{code}" + (f": {stderr}" if stderr else "")


class _ChannelPool(urllib3.connectionpool.HTTPConnectionPool):
    scheme = "http"

    def __init__(self, ssh: SshConnection, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s, maxsize=8)
        self._open = lambda: _ChannelConnection(ssh, argv, timeout_s)
        self.last: _ChannelConnection | None = None

    def _new_conn(self) -> _ChannelConnection:
        self.last = self._open()  # type: ignore[no-untyped-call]
        return self.last

    def _get_conn(self, timeout: float | None = None) -> Any:
        # urllib3 checks a pooled connection with select() on fileno(), which a channel answers with a new pipe each
        # time (docker-py overrides this for the same reason); whether the channel is open is known without it.
        try:
            connection = self.pool.get(block=False) if self.pool is not None else None
        except queue.Empty:
            connection = None
        if connection is not None and getattr(connection.sock, "closed", True):
            connection = None
        return connection or self._new_conn()


class _SshAdapter(BaseHTTPAdapter):
    def __init__(self, ssh: SshConnection, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__()
        self.pool = _ChannelPool(ssh, argv, timeout_s)

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        return self.pool

    def close(self) -> None:
        self.pool.close()
        super().close()


class Engine:
    """One node's Docker Engine. Methods raise EngineError, or ConnectionLostError when SSH breaks."""

    def __init__(self, ssh: SshConnection, *, sudo: bool, timeout_s: float) -> None:
        self._node = ssh.node
        self._ssh = ssh
        self.timeout_s = timeout_s
        self._dial = argv = [*(["sudo", "-n"] if sudo else []), "docker", "system", "dial-stdio"]
        self._adapter = _SshAdapter(ssh, argv, timeout_s)
        self._version_lock = threading.Lock()
        # Any: the stubs know neither `_get` (see logs) nor that the SDK's methods take keyword arguments.
        # A TCP base URL keeps the SDK from touching anything local at construction; the adapter takes over below.
        self._client: Any = docker.APIClient(
            base_url="tcp://localhost:1", version=OLDEST_API_VERSION, timeout=int(timeout_s)
        )
        self._client.base_url = "http+docker://ssh"
        self._client.mount("http+docker://", self._adapter)
        self._version_known = False

    @property
    def _api(self) -> Any:
        """The SDK's client, which speaks the engine's own version of the API (the SDK asks for it at construction)."""
        with self._version_lock:
            if not self._version_known:
                self._client._version = self._client.version(api_version=False)["ApiVersion"]
                self._version_known = True
        return self._client

    def close(self) -> None:
        """Close the API's channels."""
        self._client.close()

    def info(self) -> dict[str, Any]:
        """`docker info`: version, runtimes, cgroup driver, data root."""
        return dict(self._asked("describe itself", lambda api: api.info()))

    def version(self) -> dict[str, Any]:
        """`docker version`: the engine's own, its components' and its API's."""
        return dict(self._asked("tell its version", lambda api: api.version()))

    def image(self, reference: str) -> dict[str, Any] | None:
        """`docker image inspect`, or None when the image is absent."""
        try:
            return dict(self._asked(f"inspect image {reference}", lambda api: api.inspect_image(reference)))
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def containers(self, cluster: str) -> tuple[dict[str, Any], ...]:
        """`docker inspect` of every container, running or not, that carries this cluster's label."""
        wanted = {"label": f"{LABEL_CLUSTER}={cluster}"}
        rows = self._asked("list containers", lambda api: api.containers(all=True, filters=wanted))
        found = []
        for row in rows:
            inspected = self.container(row["Id"])
            if inspected is not None:  # removed between the two calls
                found.append(inspected)
        return tuple(found)

    def container(self, name_or_id: str) -> dict[str, Any] | None:
        """`docker inspect`, or None when there is no such container."""
        what = f"inspect container {name_or_id if len(name_or_id) < ID_LENGTH else name_or_id[:12]}"
        try:
            return dict(self._asked(what, lambda api: api.inspect_container(name_or_id)))
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def started_at(self, container: str) -> float:
        """When the container was last started: Unix time in seconds on the node's own clock; 0 when it is gone."""
        inspected = self.container(container)
        if inspected is None:
            return 0.0
        # Nanoseconds, of which Python knows six digits: 2026-01-02T03:04:05.678901234Z.
        text = re.sub(r"(\.\d{6})\d*", r"\1", str(inspected["State"]["StartedAt"]))
        return datetime.fromisoformat(text).timestamp()

    def create(self, name: str, config: Mapping[str, Any], host_config: Mapping[str, Any]) -> str:
        """Create a container, not started. `config` and `host_config` are the API's own bodies. Returns its ID."""
        with self._errors(f"create container {name}"):
            host = self._api.create_host_config(**host_config)
            body = self._api.create_container_config(**config, host_config=host)
            return str(self._api.create_container_from_config(body, name)["Id"])

    def put_files(self, container: str, files: Sequence[FileInContainer]) -> None:
        """Place files in a container that need not run. Missing directories are made (0755, root)."""
        with self._errors(f"copy files into {container[:12]}"):
            self._api.put_archive(container, "/", _tar(files))

    def read_file(self, container: str, path: str) -> bytes | None:
        """Content of a file in a container, running or not; None when the file or the container is absent.

        A link is followed, as far as the engine resolves it: certificates are often links to their newest version.
        """

        def read(api: Any) -> tuple[bytes, Mapping[str, Any]]:
            chunks, found = api.get_archive(container, path)
            return b"".join(chunks), found

        try:
            archive, found = self._asked(f"read {path} in {container[:12]}", read)
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            member = tar.next()
            if member is not None and member.issym():
                target = str(found["linkTarget"])  # the end of all links, as the engine sees it in the container
                return self.read_file(container, target) if target != path else None
            file = tar.extractfile(member) if member is not None else None
            return file.read() if file is not None else None

    def archive(self, container: str, path: str) -> Iterator[bytes] | None:
        """A file or directory in a container, running or not, as the chunks of a tar stream; None when it is absent.

        The engine follows symbolic links on the way to `path` inside the container, not one at its end, and leaves
        sockets out (seen with 20.10). Reading it may be given up at any time.
        """
        what = f"read {path} in {container[:12]}"
        try:
            chunks, _ = self._asked(what, lambda api: api.get_archive(container, path))
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        return self._chunks(chunks, what)

    def _chunks(self, chunks: Iterator[bytes], what: str) -> Iterator[bytes]:
        with self._errors(what):
            yield from chunks

    def start(self, container: str) -> None:
        """Start a created or stopped container."""
        with self._errors(f"start container {container[:12]}"):
            self._api.start(container)

    def run_once(
        self,
        name: str,
        config: Mapping[str, Any],
        host_config: Mapping[str, Any],
        files: Sequence[FileInContainer],
        *,
        deadline_s: float,
    ) -> Output:
        """Run a container to its end and return what it wrote; whatever happens, nothing of it stays.

        The engine itself removes it when it ends, also when nobody here waits for it any more: only one that was
        never started can be left behind, and a later run finds it by its labels. Raises EngineError, without
        `status` when the deadline (seconds) passes.
        """
        self.remove(name)
        container = self.create(name, config, {**host_config, "auto_remove": True})
        try:
            self.put_files(container, files)
            deadline = time.monotonic() + deadline_s
            # Attached before it starts: what is removed at its end has no log to be read afterwards.
            with self._errors(f"attach to container {name}"):
                channel = self._api.attach_socket(container, {"stdout": 1, "stderr": 1, "stream": 1})
            channel.settimeout(deadline_s)
            self.start(container)
            chunks = list(_frames(channel.makefile("rb")))
            channel.close()
            if time.monotonic() >= deadline:
                raise EngineError(self._node, f"container {name} did not end within {deadline_s:g} s")
        finally:
            self.remove(container)
        streams = {kind: b"".join(c.data for c in chunks if c.stream == kind) for kind in ("stdout", "stderr")}
        return Output(**streams)

    @property
    def node(self) -> str:
        """The node's name."""
        return self._node

    def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdin: bool,
        size: WindowSize | None = None,
    ) -> ContainerCommand:
        """Start a command in a running container, with a terminal when a size is given.

        Raises EngineError, with `status` 409 when the container does not run and 404 when there is none.
        """
        with self._errors(f"run `{argv[0]}` in {container[:12]}"):
            body = self._api.exec_create(
                container, list(argv), stdin=stdin, tty=size is not None, environment=dict(environment)
            )
            path = self._api._url("/exec/{0}/start", body["Id"]).removeprefix(self._api.base_url)
        # Not the SDK's `exec_start(socket=True)`: it hands out the socket without what http.client has read of it
        # together with the answer's head, which is the whole output of a quick command.
        start = {"Detach": False, "Tty": size is not None}
        content = json.dumps({**start, **({"ConsoleSize": [size.rows, size.columns]} if size else {})}).encode()
        request = (
            f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nConnection: Upgrade\r\n"
            f"Upgrade: tcp\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        command = ContainerCommand(self, body["Id"], self._ssh.session(self._dial), argv[0], tty=size is not None)
        command.begin(request.encode() + content)
        return command

    def resize(self, exec_id: str, size: WindowSize) -> None:
        """Set the size of a command's terminal; harmless when the command does not run (yet)."""
        with contextlib.suppress(EngineError), self._errors("resize a terminal"):
            self._api.exec_resize(exec_id, height=size.rows, width=size.columns)

    def exit_code(self, exec_id: str, what: str) -> int:
        """Of a command whose streams have ended. Raises EngineError when it still runs after the API's time-out."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            with self._errors(f"ask what became of `{what}`"):
                found = self._api.exec_inspect(exec_id)
            if not found["Running"] and found["ExitCode"] is not None:
                return int(found["ExitCode"])
            if time.monotonic() >= deadline:
                raise EngineError(self._node, f"the streams of `{what}` ended, but it still runs in the container")
            time.sleep(0.05)

    def signal(self, container: str, name: str) -> None:
        """Send a signal (SIGUSR1 …) to the container's first process; harmless when it is not running.

        Sent from inside, by the image's python3 (not every image has a `kill`): whatever `docker kill` sends, the
        engine takes it for a person's wish to stop the container, and its restart policy no longer holds (seen with
        Docker 20.10; moby daemon/kill.go, HasBeenManuallyStopped).
        """
        code = f"import os, signal; os.kill(1, signal.{name})"
        try:
            with self._errors(f"send {name} to {container[:12]}"):
                exec_id = self._api.exec_create(container, ["python3", "-I", "-S", "-c", code])["Id"]
                self._api.exec_start(exec_id, detach=True)
            exit_code = self.exit_code(exec_id, "python3")
        except EngineError as error:
            if error.status not in (404, 409, 500):  # 500: Docker 20.10's answer for a container that is not running
                raise
        else:
            if exit_code:
                raise EngineError(self._node, f"{name} could not be sent to {container[:12]} (exit code {exit_code})")

    def set_restart_policy(self, container: str, name: str) -> None:
        """Change what the engine does when the container ends: `no`, `always` … (no restart happens now)."""
        with self._errors(f"change the restart policy of {container[:12]}"):
            self._api.update_container(container, restart_policy={"Name": name, "MaximumRetryCount": 0})

    def stop(self, container: str, *, timeout_s: float) -> None:
        """SIGTERM, then SIGKILL after `timeout_s`. Returns when it has stopped; harmless when it is not running."""
        with self._errors(f"stop container {container[:12]}"):
            self._api.stop(container, timeout=max(1, int(timeout_s)))

    def pids(self, container: str) -> tuple[int, ...]:
        """Process ids, as the node sees them, of a running container; empty when it has stopped meanwhile."""
        try:
            what = f"list the processes of {container[:12]}"
            top = self._asked(what, lambda api: api.top(container, ps_args="-eo pid"))
        except EngineError as error:
            if error.status in (404, 409, 500):  # 500: Docker 20.10's answer for a container that is not running
                return ()
            raise
        return tuple(int(row[0]) for row in top["Processes"])

    def remove(self, container: str, *, force: bool = True) -> None:
        """Remove a container and its anonymous volumes; harmless when it is gone, and without `force` when it runs."""
        try:
            with self._errors(f"remove container {container[:12]}"):
                self._api.remove_container(container, v=True, force=force)
        except EngineError as error:
            # 404: gone already. 409: a removal is in progress (two operators, or a restart of the engine), or it runs.
            if error.status not in (404, 409):
                raise

    def logs(
        self,
        container: str,
        *,
        follow: bool,
        tail: int | None = None,
        since: float = 0,
        silence_s: float | None = None,
        timestamps: bool = False,
    ) -> Iterator[LogChunk]:
        """The container's log as frames, each with the stream it was written to; ends when the container stops.

        `tail` limits to the last lines, `since` is Unix time in seconds; with `silence_s` following ends when nothing
        comes for so long. With `timestamps` EVERY frame begins with its time and a blank, also one that goes on in the
        middle of a line (20.10). The SDK's own `logs` drops the stream's name, which tells the agent's events (stderr)
        from the server's output (stdout).
        """
        params = {
            "stdout": 1,
            "stderr": 1,
            "follow": int(follow),
            "tail": "all" if tail is None else tail,
            **({"since": since} if since else {}),
            **({"timestamps": 1} if timestamps else {}),
        }
        with self._errors(f"read the log of {container[:12]}"):
            response = self._api._get(
                self._api._url("/containers/{0}/logs", container), params=params, stream=True, timeout=None
            )
            self._api._raise_for_status(response)
            try:
                if follow:
                    # A quiet server is not a dead one: the stream ends with the container, or with the connection
                    # (keepalives), or because the reader closes it.
                    response.raw._fp.fp.channel.settimeout(silence_s)
                yield from _frames(response.raw)
            except (ValueError, AttributeError):
                # A stream that is closed while another thread reads it leaves http.client without its file, and that
                # is an AttributeError or a ValueError wherever the reader happens to be.
                return
            finally:
                response.close()

    def failure(self, message: str, channel: paramiko.Channel) -> HostError:
        """The error for what ended on this channel: SSH's own where it was the whole connection."""
        transport = transport_of(channel)
        if transport is not None and transport.ended():
            return self._ssh.lost(message, None, transport)
        return EngineError(self._node, message)

    def _asked(self, what: str, ask: Callable[[Any], T]) -> T:
        """The answer to a question that changes nothing: asked again when the SSH connection was lost over it."""

        def once() -> T:
            with self._errors(what):
                return ask(self._api)

        return self._ssh.reading(once)

    def _errors(self, what: str) -> _Translate:
        return _Translate(self._ssh, what, self._adapter.pool)


def _frames(stream: Any) -> Iterator[LogChunk]:
    """The frames of a log or an attached container, to the end of the stream."""
    try:
        while header := stream.read(8):
            kind, length = struct.unpack(">BxxxL", header)
            yield LogChunk("stderr" if kind == 2 else "stdout", stream.read(length))
    except (urllib3.exceptions.HTTPError, OSError, struct.error):
        return  # closed, by the reader or with the connection; who follows asks what became of the container


_CUT_OFF = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)
"""What requests calls an answer that does not begin, and one that does not end; their own texts are Python's."""


def _stalled(error: BaseException | None) -> bool:
    """Whether an answer stopped in the middle, which requests calls a connection error."""
    return isinstance(error, requests.exceptions.ConnectionError) and any(
        isinstance(cause, urllib3.exceptions.ReadTimeoutError) for cause in error.args
    )


class _Translate:
    """Turns the SDK's exceptions into EngineError, or ConnectionLostError where it was SSH; SSH's own pass through."""

    def __init__(self, ssh: SshConnection, what: str, pool: _ChannelPool) -> None:
        self._ssh, self._node, self._what, self._pool = ssh, ssh.node, what, pool
        self._transport = ssh.transport  # as it is before: another thread may open a new one meanwhile

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, docker.errors.APIError):
            raise EngineError(
                self._node,
                f"the engine refused to {self._what}: {error.explanation or error}",
                status=error.response.status_code if error.response is not None else None,
            ) from error
        if not isinstance(error, requests.exceptions.RequestException | docker.errors.DockerException):
            return
        if self._transport is not None and self._transport.ended():
            what = f"lost while the engine was asked to {self._what}"
            raise self._ssh.lost(what, None, self._transport) from error
        if isinstance(error, requests.exceptions.Timeout) or _stalled(error):
            raise EngineError(
                self._node,
                f"the engine did not answer in time ({self._what})",
                hint="on the node: systemctl status docker; journalctl -u docker -n 50",
            ) from error
        cause = self._pool.last.ended_because() if self._pool.last else ""
        if not cause and isinstance(error, _CUT_OFF):
            cause = "its connection was closed before the whole answer was there (was the engine stopped or restarted?)"
        raise EngineError(
            self._node,
            f"the engine cannot be asked to {self._what}: {cause or error}",
            hint="on the node: docker version; journalctl -u docker -n 50",
        ) from error


def _tar(files: Sequence[FileInContainer]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in sorted({parent for file in files for parent in _parents(file.path)}):
            entry = tarfile.TarInfo(directory.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode = len(file.content), file.mode
            tar.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def _parents(path: str) -> list[str]:
    """Directories to make for a file below /etc/clusterctl or /opt/clusterctl; never the standard ones above."""
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: index + 1]) for index in range(1, len(parts))]
