"""Records as files: JSON with a kind and a version of its form. Nothing is ever overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from clusterctl.errors import ClusterctlError, UsageError

ELSEWHERE = "use --output with a directory that you can write to"

VERSION = 1
"""Of the records' form: another number is another form, and is not read."""

Record = TypeVar("Record")


def record_name(cluster: str, kind: str, made_at: datetime) -> str:
    """Name of a record's files, without the ending."""
    return f"{cluster}-{kind}-{made_at:%Y%m%dT%H%M%SZ}"


def to_json(kind: str, record: Any) -> dict[str, Any]:
    """The record for machines, as it is written."""
    assert is_dataclass(record)  # noqa: S101 (only ours are written)
    assert not isinstance(record, type)  # noqa: S101
    return {"kind": f"clusterctl-{kind}", "version": VERSION, **asdict(record)}


def json_text(said: Mapping[str, Any]) -> str:
    """As it is written: one line for each answer's tokens would be long, and one for each token too many."""
    return json.dumps(said, indent=1) + "\n"


def read_record(path: Path, kind: str, form: type[Record]) -> Record:
    """A record that was written earlier. Raises UsageError (exit code 2) for a file that is none of this kind."""
    hint = f"give a file that `clusterctl {kind}` has written: CLUSTER-{kind}-TIME.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no JSON: it is not UTF-8", hint=hint) from error
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON ({error})", hint=hint) from error
    if not isinstance(said, Mapping) or said.get("kind") != f"clusterctl-{kind}":
        found = said.get("kind") if isinstance(said, Mapping) else None
        raise UsageError(f"{path} is no record of `{kind}`" + (f": its kind is {found}" if found else ""), hint=hint)
    if said.get("version") != VERSION:
        raise UsageError(
            f"{path} is a record of form {said.get('version')}; this clusterctl reads form {VERSION}",
            hint="make the record again with this clusterctl",
        )
    try:
        return TypeAdapter(form).validate_python({k: v for k, v in said.items() if k not in ("kind", "version")})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path} is no whole record: {place}: {first['msg']}", hint=hint) from error


def ready(directory: Path) -> None:
    """Make the directory where a record will be written. Raises UsageError before anything was measured in vain."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {directory} for the record: {error.strerror}", hint=ELSEWHERE) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write a record into {directory}: permission denied", hint=ELSEWHERE)


def write_new(path: Path, text: str) -> None:
    """Write a file that must not be there yet. Raises ClusterctlError."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ClusterctlError(
            f"{path} already exists", hint="use another --output directory: nothing is overwritten"
        ) from error
    except OSError as error:
        raise ClusterctlError(f"cannot write {path}: {error.strerror}", hint=ELSEWHERE) from error
