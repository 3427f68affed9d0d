"""What a finding code means, from the reference page itself, which is shipped with the code."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from clusterctl.errors import UsageError

_SECTION = re.compile(r"^### `([a-z0-9-]+)`\n(.*?)(?=^#{2,3} |\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


def reference_path() -> Path:
    """docs/reference/findings.md: beside the code in an installed wheel, in docs/ of a checkout otherwise."""
    package = Path(__file__).parent
    shipped = package / "findings.md"
    return shipped if shipped.exists() else package.parent.parent / "docs/reference/findings.md"


def explain(code: str) -> str:
    """A code's entry as text. Raises UsageError for a code that does not exist, with the nearest that does."""
    entries = dict(_SECTION.findall(reference_path().read_text(encoding="utf-8")))
    if code not in entries:
        near = difflib.get_close_matches(code, entries, n=1)
        hint = f"did you mean {near[0]}?" if near else f"codes: {', '.join(sorted(entries))}"
        raise UsageError(f"there is no finding code {code!r}", hint=hint)
    body = _LINK.sub(r"\1 (\2)", entries[code]).replace("**", "").replace("`", "").strip()
    return f"{code}\n\n{body}"
