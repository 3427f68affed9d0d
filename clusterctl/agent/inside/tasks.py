"""Jobs that run side by side, and the error that ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class GiveUpError(Exception):
    """The node cannot go on as it is; `reason` is one of the codes that clusterctl/agent/reasons.py explains."""

    def __init__(self, reason: str, detail: str, **fields: object) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.fields = fields


class StoodDownError(GiveUpError):
    """The node's part has ended because another node's has: no failure of its own, to be recorded and not counted."""


class Changes:
    """Lets any number of tasks wait for the next change of something."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def note(self) -> None:
        """Something has changed: everybody who waits goes on."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def next(self) -> None:
        """Return at the next change."""
        await self._changed.wait()


async def reach(host: str, port: int) -> str:
    """What a connection meets: `open`, `refused`, or `silent` (no answer, no route)."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 2)
    except ConnectionRefusedError:
        return "refused"
    except OSError:  # TimeoutError among them
        return "silent"
    writer.close()
    return "open"


async def unless(event: asyncio.Event, job: Coroutine[Any, Any, None]) -> None:
    """Run a job until it raises, or until the event comes: then the job is cancelled."""
    task, waiting = asyncio.create_task(job), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        waiting.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


async def first_failure(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run jobs side by side until the first one raises: raise that, and cancel the others."""
    tasks = [asyncio.create_task(job) for job in jobs]
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
