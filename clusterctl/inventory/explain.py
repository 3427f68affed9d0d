"""What pydantic found, in sentences: what was given, and what is expected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clusterctl.inventory import model
from clusterctl.inventory.issue import Issue, KeyPath, listed, nearest, shown
from clusterctl.inventory.model import Inventory
from clusterctl.inventory.raw import dig, has

PATTERN_MEANS: Mapping[str, str] = {
    model.NAME_PATTERN: "a name of lower-case letters, digits and inner dashes, at most 40 characters",
    model.USER_PATTERN: "a login name",
    model.HOST_PATTERN: "a host name, an address or a Host alias, without user@, brackets, quotes or a path",
    model.JUMP_PATTERN: "a jump host, as [user@]host[:port], or several with commas between them",
    model.WORD_PATTERN: "one word (text without spaces)",
    model.ENV_NAME_PATTERN: "a name of letters, digits and underscores that does not start with a digit",
    model.ABSOLUTE_PATH_PATTERN: "an absolute path",
    model.VOLUME_PATTERN: "a bind mount, as /on/node:/in/container[:ro]",
    model.CAPABILITY_PATTERN: "a capability in upper case, such as IPC_LOCK",
    model.GPU_UUID_PATTERN: "a GPU's UUID as `nvidia-smi -L` prints it, GPU- and 32 digits in five groups",
    model.OPTION_PATTERN: "an option's long name in lower case, with dashes between words and no leading dash",
}
"""A test checks that every pattern of the model is here."""

TYPE_MEANS: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "dataclass_type": "a mapping (key: value)",
}


def validate(data: object) -> tuple[Inventory | None, list[Issue]]:
    """The inventory, or what is wrong with the parts it is made of."""
    try:
        # By way of JSON text, because only there strict validation takes text for addresses and paths.
        return Inventory.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        return None, list(explain(data, error.errors(include_url=False)))


def explain(data: object, errors: Iterable[ErrorDetails]) -> Iterator[Issue]:
    """One issue for each place: the branches of a union each report their own error."""
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    for error in errors:
        by_path.setdefault(path_in(data, error), []).append(error)
    # An error that contains another is a union's other branch, or a list that is "too short" without its bad item.
    containing = {path[:length] for path in by_path for length in range(len(path))}
    for path, found in by_path.items():
        if path not in containing:
            yield issue_at(path, found)


def path_in(data: object, error: ErrorDetails) -> KeyPath:
    """The error's place in the data: its `loc` without the names of union branches and "[key]"."""
    path: KeyPath = ()
    for part in error["loc"]:
        if has(data, part):
            data = dig(data, part)
            path = (*path, part)
    return (*path, error["loc"][-1]) if error["type"] == "missing" else path


def issue_at(path: KeyPath, found: list[ErrorDetails]) -> Issue:
    """The errors at one place as one sentence."""
    first = found[0]
    if first["type"] == "missing":
        return Issue(path, "is missing", described(path))
    if first["type"] == "extra_forbidden":
        return unknown_key(path)
    if first["loc"][-1:] == ("[key]",):
        return bad_key(path, first)
    if first["type"] == "too_short":
        return Issue(path, "the list is empty; expected at least one entry")
    expected = listed(phrase for error in found for phrase in phrases(error))
    given = first["input"]
    if given is None:
        return Issue(path, f"has no value; expected {expected}", described(path) or "leave the key out")
    text_expected = any(error["type"] == "string_type" for error in found)
    hint = None
    if text_expected and isinstance(given, int | float):
        hint = "put it in quotes"
    elif isinstance(given, str) and any(error["type"] in ("int_type", "float_type") for error in found):
        hint = plain_number(given)
    if isinstance(given, str) and first["type"] == "literal_error":
        near = nearest(given, literals(first))
        hint = f"did you mean {json.dumps(near)}?" if near else hint
    return Issue(path, f"{shown(given, path)} is not {expected}", hint)


def plain_number(given: str) -> str | None:
    """The hint for a number in quotes, or with a unit."""
    return "write it without quotes" if given.strip().isdecimal() else "use digits only, without a unit"


def phrases(error: ErrorDetails) -> list[str]:
    """What would have been right, by this error."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return [json.dumps(word) for word in literals(error)]
    if kind == "value_error":  # the model has no validators of its own: addresses and networks
        return ["a network such as 10.77.0.0/24" if error["loc"][-1] == "cidr" else "an IP address"]
    if kind == "string_pattern_mismatch":
        return [PATTERN_MEANS[context["pattern"]]]
    if kind in ("greater_than_equal", "less_than_equal", "greater_than"):
        word, bound = {
            "greater_than_equal": ("of at least", "ge"),
            "less_than_equal": ("of at most", "le"),
            "greater_than": ("above", "gt"),
        }[kind]
        return [f"a number {word} {int(context[bound])}"]
    # Other releases of pydantic may know more kinds: a vague sentence is better than a traceback.
    return [TYPE_MEANS.get(kind, "a valid value")]


def literals(error: ErrorDetails) -> list[str]:
    """The values of a Literal, from pydantic's `'private' or 'any'`."""
    words = str(error["ctx"]["expected"]).replace(" or ", ", ").split(", ")
    return [word.strip("'") for word in words]


def bad_key(path: KeyPath, error: ErrorDetails) -> Issue:
    """A key of env, options or ulimits."""
    key = str(path[-1])
    near = nearest(key, literals(error)) if error["type"] == "literal_error" else None
    return Issue(path, f"the key is not {listed(phrases(error))}", f"did you mean {near}?" if near else None)


def unknown_key(path: KeyPath) -> Issue:
    """A key that no model has, with the nearest that there is."""
    names = list(model_at(path[:-1]).model_fields)
    near = nearest(str(path[-1]), names)
    return Issue(path, "unknown key", f"did you mean {near}?" if near else f"valid keys: {', '.join(names)}")


def described(path: KeyPath) -> str | None:
    """The first sentence of a required field's description."""
    field = model_at(path[:-1]).model_fields.get(str(path[-1])) if path else None
    if field is None or field.description is None or not field.is_required():
        return None
    return " ".join(field.description.split()).split(". ")[0].rstrip(".")


def model_at(path: KeyPath) -> type[BaseModel]:
    """The model that validates the mapping at `path`."""
    found: type[BaseModel] = Inventory
    for part in path:
        if isinstance(part, str) and part in found.model_fields:
            found = model_in(found.model_fields[part].annotation) or found
    return found


def model_in(annotation: object) -> type[BaseModel] | None:
    """The one model that an annotation mentions, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := model_in(inner))), None)
