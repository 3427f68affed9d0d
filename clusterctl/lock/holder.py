"""Who holds a lock, according to the record on a node."""

from __future__ import annotations

import json
from dataclasses import dataclass

from clusterctl.lock.history import duration, plain, utc


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, according to its file on a node."""

    run: str
    who: str
    pid: int | None
    command: str
    since: float | None
    """Unix time in seconds, the node's clock."""

    def sentence(self, now: float) -> str:
        """Who, from where, what, since when. `now` is the node's clock as well."""
        process = f" (pid {self.pid} there)" if self.pid is not None else ""
        if self.since is None:
            return f"{self.who}{process} is running `{self.command}`"
        ago = duration(now - self.since)
        return f"{self.who}{process} has been running `{self.command}` since {utc(self.since)} ({ago} ago)"


def read_holder(text: str) -> Holder | None:
    """What a lock's file says; None when nothing in it can be read. Any login may write there: nothing but plain
    text of bounded length comes out."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    pid, since = record.get("pid"), record.get("t")
    return Holder(
        run=plain(record.get("run")),
        who=plain(record.get("who")) or "somebody",
        pid=pid if isinstance(pid, int) else None,
        command=plain(record.get("command")) or "clusterctl",
        since=float(since) if isinstance(since, int | float) else None,
    )


@dataclass(frozen=True)
class Busy:
    """A node whose lock another one holds. `now` is the node's clock, Unix time in seconds."""

    holder: Holder | None
    now: float

    def __str__(self) -> str:
        return self.holder.sentence(self.now) if self.holder else "an unknown holder (the lock file names nobody)"
