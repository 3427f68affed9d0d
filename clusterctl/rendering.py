"""The door to Jinja2: templates become files. Values that are absent are errors, never empty strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2


def templates_dir() -> Path:
    """Where the templates are: beside the code in an installed wheel, at the top level of a checkout otherwise."""
    package = Path(__file__).parent
    for candidate in (package / "templates", package.parent / "templates"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"clusterctl is installed without its templates (looked beside {package})")


def render(template: str, **values: Any) -> str:
    """Render templates/TEMPLATE. Raises jinja2.UndefinedError for a value that the template uses and nobody gave."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (YAML and JSON, every value through `tojson`; no HTML)
    )
    # Jinja's own tojson escapes <, >, & and ' for HTML, which YAML and JSON readers would take literally.
    environment.filters["tojson"] = _to_json
    return environment.get_template(template).render(**values)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
