"""`clusterctl verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ExitCode

output_option = click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Directory for the record (default: this one). Nothing is overwritten.",
)
compare_option = click.option(
    "--compare",
    "old",
    type=click.Path(path_type=Path, dir_okay=False),
    help="An earlier record of this command (its .json): say what differs, and whether it matters.",
)


@click.command()
@json_option
@output_option
@compare_option
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="With --compare: how far log-probabilities may be apart (default: three times what each cluster differs "
    "from itself, at least 0.02, between two layouts 0.05).",
)
@click.pass_obj
def verify(options: Options, *, as_json: bool, output: Path, old: Path | None, tolerance: float | None) -> None:
    """Look at everything that proves that the cluster works, and write it down.

    Versions, layout, memory, KV cache, transport, a completion of every engine, and five outputs with their
    log-probabilities, as CLUSTER-verify-TIME.json and .md. Changes nothing.

    Exit codes: 0 verified (and within tolerance of the old record), 1 not, 2 the old record cannot be read.
    """
    from datetime import UTC, datetime

    from clusterctl.actions.verify import verify as look
    from clusterctl.records.difference import comparison_json
    from clusterctl.records.files import json_text, read_record, ready, record_name, to_json, write_new
    from clusterctl.records.verification import Verification
    from clusterctl.records.verified import compare
    from clusterctl.ui import verification as ui
    from clusterctl.ui.comparison import comparison_lines
    from clusterctl.ui.progress import progress_on_stderr

    before = read_record(old, "verify", Verification) if old is not None else None
    inventory, made_at = options.inventory(), datetime.now(UTC)
    ready(output)
    with options.hosts(inventory) as hosts, progress_on_stderr() as progress:
        record = look(hosts, inventory, progress, made_at)
    found = compare(before, record, where=str(old), tolerance=tolerance) if before is not None else None
    files = [output / f"{record_name(inventory.cluster, 'verify', made_at)}.{ending}" for ending in ("json", "md")]
    said = to_json("verify", record)
    write_new(files[0], json_text(said))
    write_new(files[1], ui.as_page(record, found))
    if as_json:
        emit({"record": said, "files": [str(file) for file in files], "comparison": comparison_json(found)})
    else:
        shown = comparison_lines(found) if found is not None else []
        emit("\n".join([*ui.as_lines(record), *shown, "", f"record: {', '.join(str(file) for file in files)}"]))
    if record.problems or (found is not None and not found.within):
        sys.exit(ExitCode.FAILED)
