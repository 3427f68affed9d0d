"""The door to the container engine: the Docker SDK over the node's SSH connection.

Each HTTP connection of the SDK is one channel that runs `docker system dial-stdio` on the node. Measured in the
lab (lab-facts): 5 ms an API call, against 113 ms for a `docker …` command over the same SSH connection, and
answers are typed, so nothing is quoted or parsed.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import docker
import paramiko
import urllib3

from clusterctl.agent.labels import LABEL_CLUSTER
from clusterctl.hosts.connection import Connection
from clusterctl.hosts.engine.answers import container_of, image_of, info_of, local_images_of, version_of
from clusterctl.hosts.engine.commands import DOCKER, EngineCommands
from clusterctl.hosts.engine.dial import SshAdapter
from clusterctl.hosts.engine.engine import (
    Container,
    EngineError,
    EngineInfo,
    EngineVersion,
    FileInContainer,
    Image,
    LocalImage,
    LogChunk,
    Output,
)
from clusterctl.hosts.engine.errors import Translate
from clusterctl.hosts.engine.exec import DockerCommand
from clusterctl.hosts.engine.files import tar_of
from clusterctl.hosts.engine.volumes import DockerVolumes
from clusterctl.hosts.ssh.errors import HostError
from clusterctl.hosts.ssh.streams import WindowSize
from clusterctl.hosts.ssh.transport import transport_of

T = TypeVar("T")

OLDEST_API_VERSION = "1.41"
"""Docker Engine API of 20.10 (Debian 12's docker.io), the oldest engine that is tested. What is spoken is the engine's
own version, asked for at the first call: newer engines refuse old ones (29.0 asks for 1.44)."""


MOST_IMAGES = 500
"""Images of a node that are looked at."""


ID_LENGTH = 64
"""Digits of a container's ID; twelve of them are what people read."""


class DockerEngine:
    """One node's Docker Engine. Methods raise EngineError, or ConnectionLostError when SSH breaks."""

    commands: EngineCommands = DOCKER
    """Its own words, for hints."""

    def __init__(self, ssh: Connection, *, sudo: bool, timeout_s: float) -> None:
        self._node = ssh.node
        self._ssh = ssh
        self.timeout_s = timeout_s
        self._dial = argv = [*(["sudo", "-n"] if sudo else []), self.commands.program, "system", "dial-stdio"]
        self._adapter = SshAdapter(ssh, argv, timeout_s)
        self._version_lock = threading.Lock()
        # Any: the stubs know neither `_get` (see logs) nor that the SDK's methods take keyword arguments.
        # A TCP base URL keeps the SDK from touching anything local at construction; the adapter takes over below.
        self._client: Any = docker.APIClient(
            base_url="tcp://localhost:1", version=OLDEST_API_VERSION, timeout=int(timeout_s)
        )
        self._client.base_url = "http+docker://ssh"
        self._client.mount("http+docker://", self._adapter)
        # The SDK falls back to it for a URL that is none of ours, where the engine redirects (an image named `/x`).
        self._client._custom_adapter = None  # type: ignore[attr-defined]
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

    @property
    def volumes(self) -> DockerVolumes:
        """Its named volumes."""
        return DockerVolumes(self._asked, self._change)

    def info(self) -> EngineInfo:
        """`docker info`."""
        return info_of(self._asked("describe itself", lambda api: api.info()))

    def version(self) -> EngineVersion:
        """`docker version`."""
        return version_of(self._asked("tell its version", lambda api: api.version()))

    def image(self, reference: str) -> Image | None:
        """`docker image inspect`, or None when the image is absent."""
        try:
            return image_of(self._asked(f"inspect image {reference}", lambda api: api.inspect_image(reference)))
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def local_images(self) -> tuple[LocalImage, ...]:
        """`docker image ls`, and `docker image inspect` of each that has a name."""
        named = [row["Id"] for row in self._asked("list images", lambda api: api.images()) if row.get("RepoTags")]
        found: list[LocalImage] = []
        for image in named[:MOST_IMAGES]:
            try:
                found += local_images_of(self._asked(f"inspect image {image}", partial(_inspected, image)))
            except EngineError as error:
                if error.status != 404:  # removed between the two calls
                    raise
        return tuple(found)

    def containers(self, cluster: str | None) -> tuple[Container, ...]:
        """`docker inspect` of every container, running or not, of this cluster; None: of any."""
        wanted = {"label": LABEL_CLUSTER if cluster is None else f"{LABEL_CLUSTER}={cluster}"}
        rows = self._asked("list containers", lambda api: api.containers(all=True, filters=wanted))
        found = []
        for row in rows:
            inspected = self.container(row["Id"])
            if inspected is not None:  # removed between the two calls
                found.append(inspected)
        return tuple(found)

    def container(self, name_or_id: str) -> Container | None:
        """`docker inspect`, or None when there is no such container."""
        what = f"inspect container {name_or_id if len(name_or_id) < ID_LENGTH else name_or_id[:12]}"
        try:
            return container_of(self._asked(what, lambda api: api.inspect_container(name_or_id)))
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def started_at(self, container: str) -> float:
        """When the container was last started: Unix time in seconds on the node's own clock; 0 when it is gone."""
        found = self.container(container)
        return found.started_t or 0.0 if found is not None else 0.0

    def create(self, name: str, config: Mapping[str, Any], host_config: Mapping[str, Any]) -> str:
        """Create a container, not started. `config` and `host_config` are the API's own bodies. Returns its ID."""
        with self._errors(f"create container {name}"):
            host = self._api.create_host_config(**host_config)
            body = self._api.create_container_config(**config, host_config=host)
            return str(self._api.create_container_from_config(body, name)["Id"])

    def put_files(self, container: str, files: Sequence[FileInContainer]) -> None:
        """Place files in a container that need not run. Missing directories are made (0755, root)."""
        with self._errors(f"copy files into {container[:12]}"):
            self._api.put_archive(container, "/", tar_of(files))

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
    ) -> DockerCommand:
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
        command = DockerCommand(self, body["Id"], self._ssh.session(self._dial), argv[0], tty=size is not None)
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

    def _change(self, what: str, call: Callable[[Any], T]) -> T:
        """A call that is made once."""
        with self._errors(what):
            return call(self._api)

    def _errors(self, what: str) -> Translate:
        return Translate(self._ssh, what, self._adapter.pool, self.commands)


def _frames(stream: Any) -> Iterator[LogChunk]:
    """The frames of a log or an attached container, to the end of the stream."""
    try:
        while header := stream.read(8):
            kind, length = struct.unpack(">BxxxL", header)
            yield LogChunk("stderr" if kind == 2 else "stdout", stream.read(length))
    except (urllib3.exceptions.HTTPError, OSError, struct.error):
        return  # closed, by the reader or with the connection; who follows asks what became of the container


def _inspected(image: str, api: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = api.inspect_image(image)
    return found
