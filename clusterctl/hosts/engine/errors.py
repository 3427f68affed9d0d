"""The SDK's exceptions, as ours."""

from __future__ import annotations

import docker
import requests
import urllib3

from clusterctl.hosts.connection import Connection
from clusterctl.hosts.engine.commands import EngineCommands
from clusterctl.hosts.engine.dial import ChannelPool
from clusterctl.hosts.engine.engine import EngineError

_CUT_OFF = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)
"""What requests calls an answer that does not begin, and one that does not end; their own texts are Python's."""


def _stalled(error: BaseException | None) -> bool:
    """Whether an answer stopped in the middle, which requests calls a connection error."""
    return isinstance(error, requests.exceptions.ConnectionError) and any(
        isinstance(cause, urllib3.exceptions.ReadTimeoutError) for cause in error.args
    )


class Translate:
    """Turns the SDK's exceptions into EngineError, or ConnectionLostError where it was SSH; SSH's own pass through."""

    def __init__(self, ssh: Connection, what: str, pool: ChannelPool, says: EngineCommands) -> None:
        self._ssh, self._node, self._what, self._pool, self._says = ssh, ssh.node, what, pool, says
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
                hint=f"on the node: {self._says.status}; {self._says.journal}",
            ) from error
        cause = self._pool.last.ended_because() if self._pool.last else ""
        if not cause and isinstance(error, _CUT_OFF):
            cause = "its connection was closed before the whole answer was there (was the engine stopped or restarted?)"
        raise EngineError(
            self._node,
            f"the engine cannot be asked to {self._what}: {cause or error}",
            hint=f"on the node: {self._says.version}; {self._says.journal}",
        ) from error
