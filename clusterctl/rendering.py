"""The door to Jinja2: templates become files. Values that are absent are errors, never empty strings."""

from __future__ import annotations

import json
import re
from functools import cache
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
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # YAML and JSON have every value through `tojson`; pages escape what they are given.
        autoescape=jinja2.select_autoescape(("html.j2",), default_for_string=False),
    )
    # Jinja's own tojson escapes <, >, & and ' for HTML, which YAML and JSON readers would take literally.
    environment.filters["tojson"] = _to_json
    return environment


_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON allows in a string and YAML 1.1 refuses, or takes for a line break."""
_STRING_OR_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![\d.])(-?\d+)(e[+-]\d+)')


def _to_json(value: Any) -> str:
    """JSON that YAML 1.1 reads as the same value: 1e-06 would be a text there, 1.0e-06 is a number in both."""
    text = json.dumps(value, ensure_ascii=False)
    text = _NOT_IN_YAML.sub(lambda character: f"\\u{ord(character[0]):04x}", text)
    return _STRING_OR_EXPONENT.sub(lambda found: f"{found[1]}.0{found[2]}" if found[1] else found[0], text)
