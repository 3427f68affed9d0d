"""The inventory's JSON Schema, for completion and checks in editors."""

from __future__ import annotations

from typing import Any

from clusterctl.inventory.model import Inventory

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of version 1. It knows types and keys; rules across fields are the loader's."""
    schema = closed(Inventory.model_json_schema())
    return {"$schema": DIALECT, **schema, "title": "clusterctl inventory, version 1"}


def closed(schema: Any) -> Any:
    """The schema, refusing keys that match no pattern: pydantic refuses them, but its schema does not say so."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {**inner, "additionalProperties": False} if "patternProperties" in inner else inner
