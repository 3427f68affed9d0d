"""For all tests."""

from __future__ import annotations

import signal

# A shell's `&` and nohup start us with SIGINT ignored, and what tests start, and then interrupt, would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
