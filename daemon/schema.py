"""What the types of `Config` say about a path of a setting: does it exist, what does it hold, what was meant.

Pure, and only for errors and overrides; msgspec does the decoding itself. A path is a tuple of names. Tables
whose keys the operator chooses (`venues`, `streams`, `aliases`, …) are called free.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from marketd.daemon.settings import Config
from marketd.market.errors import MarketdError

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<where>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.DOTALL)
_WORDS = {
    "`object`": "a table",
    "`array`": "a list",
    "`str`": "text",
    "`int`": "a whole number",
    "`float`": "a number",
    "`bool`": "true or false",
}


def is_table(path: tuple[str, ...]) -> Literal["fixed", "free"] | None:
    """Whether the path names a table, and who chooses its keys; None for a value or nothing."""
    found = leaf_type(path)
    if isinstance(found, type) and issubclass(found, msgspec.Struct):
        return "fixed"
    return "free" if get_origin(found) is dict else None


def leaf_type(path: tuple[str, ...]) -> Any:
    """The type at a path, None when there is no such setting."""
    found: Any = Config
    for part in path:
        if isinstance(found, type) and issubclass(found, msgspec.Struct):
            found = _hints(found).get(part)
        elif get_origin(found) is dict:
            found = get_args(found)[1]
        else:
            return None
    return found


def wants_text(path: tuple[str, ...]) -> bool:
    """Whether the setting holds text and nothing else (a choice and an optional text too)."""
    found = leaf_type(path)
    if get_origin(found) is Literal:
        return True
    members = get_args(found) or (found,)
    return set(members) <= {str, type(None)} and get_origin(found) is not dict and get_origin(found) is not tuple


def setting_names() -> list[tuple[str, ...]]:
    """Every setting with a fixed path, and every free table."""
    return list(_walk((), Config))


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    close = get_close_matches(name, list(known), n=1, cutoff=0.75)
    return close[0] if close else None


def explain(
    error: msgspec.ValidationError, raw: Mapping[str, Any], decode: Callable[[Mapping[str, Any]], Any]
) -> tuple[str, str]:
    """The path of the setting, with no key left out, and a sentence with the way out."""
    match = _AT.match(str(error))
    what, where = (match["what"], match["where"] or "") if match else (str(error), "")
    path = _complete(_split(where), raw, decode)
    unknown, missing = _UNKNOWN.fullmatch(what), _MISSING.fullmatch(what)
    if unknown:
        return _dotted((*path, unknown["name"])), f"no such setting; {_way_out(path, unknown['name'])}"
    if missing:
        return _dotted((*path, missing["name"])), "is missing"
    kind = leaf_type(tuple(part for part in path if not part.startswith("[")))
    if get_origin(kind) is Literal and what.startswith("Invalid enum value"):
        return _dotted(path), f"{what.removeprefix('Invalid enum value ')} is none of {', '.join(get_args(kind))}"
    return _dotted(path), _in_words(what)


def _walk(path: tuple[str, ...], struct: type) -> Iterable[tuple[str, ...]]:
    for name, hint in _hints(struct).items():
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from _walk((*path, name), hint)
        else:
            yield (*path, name)


@cache
def _hints(struct: type) -> dict[str, Any]:
    return get_type_hints(struct)


def _split(where: str) -> tuple[str, ...]:
    """`.venues[...].symbols[0]` in its parts; `[...]` stands for a key that msgspec does not tell."""
    return tuple(re.findall(r"\[[^\]]*\]|[^.\[\]]+", where))


def _complete(
    path: tuple[str, ...], raw: Mapping[str, Any], decode: Callable[[Mapping[str, Any]], Any]
) -> tuple[str, ...]:
    """The path with each `[...]` replaced by its key: the one whose table fails all alone."""
    for depth, part in enumerate(path):
        if part == "[...]":
            key = _guilty_key(path[:depth], raw, decode)
            return _complete((*path[:depth], key, *path[depth + 1 :]), raw, decode)
    return path


def _guilty_key(path: tuple[str, ...], raw: Mapping[str, Any], decode: Callable[[Mapping[str, Any]], Any]) -> str:
    table: Any = raw
    for part in path:
        table = table[part]
    for key in table:
        try:
            decode(_nested(path, {key: table[key]}))
        except msgspec.ValidationError:
            return str(key)
        except MarketdError:
            continue  # types are right, a rule between settings is not: that is not what is explained here
    return "[...]"


def _nested(path: tuple[str, ...], table: Any) -> dict[str, Any]:
    for part in reversed(path):
        table = {part: table}
    return table  # type: ignore[no-any-return]


def _way_out(path: tuple[str, ...], name: str) -> str:
    kind = leaf_type(path)
    siblings = list(_hints(kind)) if isinstance(kind, type) else []
    close = did_you_mean(name.lower(), siblings)
    if close:
        return f"did you mean {_dotted((*path, close))}?"
    elsewhere = [_dotted(setting) for setting in setting_names() if setting[-1] == name]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"there are {', '.join(siblings)}"


def _in_words(what: str) -> str:
    for word, plain in _WORDS.items():
        what = what.replace(word, plain)
    return what[:1].lower() + what[1:]


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[", "[")
