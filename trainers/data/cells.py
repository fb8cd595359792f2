"""Cells of rows: texts, numbers, lists and objects, also inside objects or written as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from trainers.data.conversation import MalformedRowError, Row


def blank(value: object) -> bool:
    """Return whether a cell is empty: null, NaN, which some tables hold in its place, or a text of blanks."""
    return _null(value) or (isinstance(value, str) and not value.strip())


def _null(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def cell(row: Row, key: str) -> object:
    """Return a cell, also one inside objects (``data.turns``), or None."""
    if key in row or "." not in key:
        return row.get(key)
    outer, _, inner = key.partition(".")
    value = parsed(row.get(outer))
    return cell(value, inner) if isinstance(value, Mapping) else None


def parsed(value: object) -> object:
    """Return the object or list that a text holds as JSON, or the value itself."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def required(row: Row, key: str) -> object:
    """Return a cell that must be there."""
    value = cell(row, key)
    if _null(value):
        if key in row:
            raise MalformedRowError(f"`{key}` is {kind(value)}")
        raise MalformedRowError(f"`{key}` is missing (there are: {', '.join(map(str, row))[:200]})")
    return value


def text(row: Row, key: str) -> str:
    """Return a cell that must be a text, or a number, which is read as its digits."""
    value = required(row, key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise MalformedRowError(f"`{key}` should be text, and is {kind(value)}")
    return value


def optional_text(row: Row, key: str) -> str:
    """Return a text; an empty one if the cell is not there or blank."""
    return "" if blank(cell(row, key)) else text(row, key)


def items(row: Row, key: str) -> Sequence[object]:
    """Return a cell that must be a list, or a list as JSON."""
    value = parsed(required(row, key))
    if not isinstance(value, list | tuple):
        raise MalformedRowError(f"`{key}` should be a list, and is {kind(value)}")
    return value


def optional_items(row: Row, key: str) -> Sequence[object]:
    """Return a list; an empty one if the cell is not there or blank."""
    return () if blank(cell(row, key)) else items(row, key)


def mapping(value: object, name: str) -> Row:
    """Return a value that must be an object; ``name`` is the cell that holds it."""
    if not isinstance(value, Mapping):
        raise MalformedRowError(f"`{name}` should hold objects, and holds {kind(value)}")
    return value


def kind(value: object) -> str:
    """Return what a value is, for an error."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return names.get(type(value), "null" if value is None else type(value).__name__)
