"""What a client sees while gpus_of_host.py breaks something: each answer, and when the endpoint served again."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Load:
    """One client that asks for a few tokens again and again, each time in a connection of its own."""

    url: str
    model: str
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    """Began, ended (Unix time), status; 0 where nothing answered."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until it is stopped."""
        while not self.stop.is_set():
            began = time.time()
            status = completion(self.url, self.model, 16)
            self.answers.append((began, time.time(), status))
            self.stop.wait(0.2)

    def recovery(self, killed: float) -> dict[str, Any] | None:
        """What clients lost; None while nothing was, or while it lasts."""
        since = [each for each in self.answers if each[1] > killed]
        failed = [each for each in since if each[2] != 200]
        back = [each for each in since if failed and each[2] == 200 and each[0] > failed[0][0]]
        if not back:
            return None
        longest = max(ended - began for began, ended, _ in since)
        return {
            "served_again_s": round(back[0][1] - killed, 1),
            "failed": len(failed),
            "longest_s": round(longest, 1),
            "statuses": sorted({each[2] for each in failed}),
        }


def completion(url: str, model: str, tokens: int) -> int:
    """Ask for so many tokens; the answer's status, 0 for none."""
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": tokens, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 (http, to the lab)
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0
