"""Who holds a lock, as the record on a node says."""

from __future__ import annotations

import json
from dataclasses import dataclass

from clusterctl.lock.history import duration, plain, utc


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, as the lock's file on a node says."""

    run: str
    who: str
    pid: int | None
    command: str
    since: float | None
    """Unix time in seconds, the node's clock."""

    def sentence(self, now: float) -> str:
        """Who, from where, what, since when. `now` is the node's clock as well."""
        process = f" (pid {self.pid} there)" if self.pid is not None else ""
        since = f" since {utc(self.since)} ({duration(now - self.since)} ago)" if self.since is not None else ""
        return f"{self.who}{process} runs `{self.command}`{since}"


def read_holder(text: str) -> Holder | None:
    """What a lock's file says; None when it says nothing that can be read. Any login may write there: nothing but plain
    text of bounded length comes out."""
    try:
        said = json.loads(text)
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    pid, since = said.get("pid"), said.get("t")
    return Holder(
        run=plain(said.get("run")),
        who=plain(said.get("who")) or "somebody",
        pid=pid if isinstance(pid, int) else None,
        command=plain(said.get("command")) or "clusterctl",
        since=float(since) if isinstance(since, int | float) else None,
    )


@dataclass(frozen=True)
class Busy:
    """A node whose lock another one holds. `now` is the node's clock, Unix time in seconds."""

    holder: Holder | None
    now: float

    def __str__(self) -> str:
        return self.holder.sentence(self.now) if self.holder else "somebody who has not said who it is"
