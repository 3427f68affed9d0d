"""The command line: reads arguments, calls one function, prints its result. No decision is made here."""

from clusterctl.cli.main import main

__all__ = ["main"]
