"""What benchmarks/gpus_of_host.py says of the requests that a failure cost, against a server that is slow and fails."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.gpus_load import Load

SLOW_S = 0.4


class Answers(BaseHTTPRequestHandler):
    """200, then after a while 503, then 200 for good."""

    asked = 0

    def do_POST(self) -> None:
        Answers.asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        failing = Answers.asked == 2
        time.sleep(SLOW_S if failing else 0)
        self.send_response(503 if failing else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_request_takes_until_its_answer() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    load, began = Load(f"http://127.0.0.1:{server.server_port}", "m"), time.time()
    client = threading.Thread(target=load.run, daemon=True)
    client.start()
    deadline, recovery = time.monotonic() + 20, None
    while recovery is None and time.monotonic() < deadline:
        time.sleep(0.05)
        recovery = load.recovery(began)
    load.stop.set()
    client.join(10)
    server.shutdown()
    server.server_close()
    assert recovery is not None
    assert (recovery["failed"], recovery["statuses"]) == (1, [503])
    assert recovery["longest_s"] >= SLOW_S
    assert recovery["served_again_s"] > SLOW_S
