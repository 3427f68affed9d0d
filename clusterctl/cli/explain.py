"""`clusterctl explain`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from clusterctl.cli.common import emit, json_option
from clusterctl.errors import ExitCode, UsageError


@click.command()
@json_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default="-")
def explain(file: Path, as_json: bool) -> None:
    """List the causes that a log shows, most likely first: of vLLM, Ray, NCCL or the kernel, from anywhere.

    FILE is a log, or - for standard input. Needs no inventory, and contacts nobody.

    Exit codes: 0 with a cause, 1 with none, 2 when the file cannot be read.
    """
    from clusterctl.diagnosis.causes import explain as explain_log
    from clusterctl.ui import explain as explain_text

    if str(file) == "-" and sys.stdin.isatty():
        raise UsageError("no log given", hint="clusterctl explain FILE, or pipe a log into it")
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    causes = explain_log(data.decode(errors="replace"))
    emit(explain_text.to_json(causes) if as_json else explain_text.text(causes))
    if not causes:
        sys.exit(ExitCode.FAILED)
