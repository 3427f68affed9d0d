"""For all tests."""

from __future__ import annotations

import os
import signal
import sys

# A shell's `&` and nohup start us with SIGINT ignored, and what tests start, and then interrupt, would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where the environment forbids bytecode, each of the many command lines that the tests run would compile all of
# clusterctl anew: a third of its CPU time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
