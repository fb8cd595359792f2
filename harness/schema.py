"""Typed trees: the base class of recipes and records, and errors that name the wrong key and its nearest neighbour."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from harness.errors import MoemixError, nearest, raise_all
from harness.files import read_jsonl

T = TypeVar("T", bound=BaseModel)
Keys = tuple[str, ...]
"""The keys from the root of a tree to a value; the items of a list are counted from 0."""

_WORDS = {
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a text",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping of keys",
    "model_type": "expected a mapping of keys",
    "model_attributes_type": "expected a mapping of keys",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "too_short": "needs at least {min_length} item(s)",
    "too_long": "takes at most {max_length} item(s)",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "invalid_key": "a key should be a text; put it in quotes",
    "finite_number": "must be a finite number",
    "string_pattern_mismatch": "does not match the pattern {pattern}",
    "union_tag_not_found": "`kind` is missing",
    "union_tag_invalid": "unknown `kind` {tag!r}; valid: {expected_tags}",
    "missing_argument": "a value is missing",
}
"""What the validator's most frequent faults mean, in our words."""


def _question_limit(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value >= 1 if isinstance(value, int) else 0 < value < 1):  # type: ignore[operator]
        raise ValueError(f"expected a number of questions, at least 1, or a share between 0 and 1, not {value!r}")
    return value


QuestionLimit = Annotated[int | float, BeforeValidator(_question_limit)]
"""How many questions of each task are asked, or what share of them."""

Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
"""The seed of a random generator; numpy's take 32 bits."""

Label = Annotated[str, Field(min_length=1, max_length=100)]
"""A name that becomes a part of files' names."""


class Strict(BaseModel):
    """A frozen model, for which unknown keys are errors. A list of one may be a single value; of words, ``a, b``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_of_one(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        numbers, lists = _short_forms(cls)
        words = {k: str(v).lower() for k in numbers & value.keys() if isinstance(v := value[k], bool)}
        given = value | words if words else value
        items = {k: _items(v) for k in lists & given.keys() if isinstance(v := given[k], str | int | float)}
        return given | items if items else given


class Extended(Strict):
    """A model that got fields after runs had been stored: at their defaults they are no part of a run's identity.

    Attributes:
        newer: the names of these fields.
    """

    newer: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_newer(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields = type(self).model_fields
        tree: dict[str, object] = serialise(self)
        return {k: v for k, v in tree.items() if k not in self.newer or getattr(self, k) != fields[k].default}


@functools.cache
def _short_forms(model: type[BaseModel]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the fields that take numbers, for which pydantic would take `true` as 1, and those that are lists."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    lists = (name for name, kind in kinds.items() if get_origin(kind) is tuple and get_args(kind)[1:] == (...,))
    return frozenset(name for name, kind in kinds.items() if _is_number(kind)), frozenset(lists)


def _items(value: object) -> tuple[object, ...]:
    words = isinstance(value, str) and re.fullmatch(r"\w+(\s*,\s*\w+)+", value)
    return tuple(re.split(r"\s*,\s*", value)) if words and isinstance(value, str) else (value,)


def _is_number(annotation: object) -> bool:
    """Return whether an annotation says a number."""
    kinds = get_args(annotation) or (annotation,)
    return bool not in kinds and (int in kinds or float in kinds)


def parse(schema: type[T], tree: object, *, where: str | Callable[[Keys], str]) -> T:
    """Validate a tree of mappings and lists.

    ``where`` is what the tree is (a file, say), or a function that says where a key of it stands.

    Raises:
        MoemixError: names every wrong key with its place, each with its nearest valid neighbour.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        every = error.errors(include_url=False)
        # a list with a bad item is also reported as too short: only the cause is worth reporting
        faults = [f for f in every if not any(f["loc"] == g["loc"][: len(f["loc"])] and f is not g for g in every)]
        raise_all([_describe(schema, fault, where) for fault in faults])
        raise


def parse_lines(schema: type[T], path: Path) -> Iterator[T]:
    """Yield the lines of a JSONL file; none if there is no file.

    Raises:
        MoemixError: as :func:`parse`, with file and line.
    """
    for number, line in enumerate(read_jsonl(path) if path.is_file() else (), 1):
        yield parse(schema, line, where=f"{path}:{number}")


def _describe(schema: type[BaseModel], fault: ErrorDetails, where: str | Callable[[Keys], str]) -> MoemixError:
    path, siblings = _resolve(schema, fault["loc"])
    place = where if isinstance(where, str) else where(tuple(path))
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return MoemixError(f"unknown key `{key}` ({nearest(path[-1], siblings)})", where=place)
    if fault["type"] == "missing":
        return MoemixError(f"`{key}` is missing", where=place)
    message = fault["msg"].removeprefix("Value error, ")
    if words := _WORDS.get(fault["type"]):
        message = words.format(**fault.get("ctx", {}))
        if isinstance(fault["input"], str | int | float | None):
            message += (
                f", not {str(fault['input'])[:80]!r}" if isinstance(fault["input"], str) else f", not {fault['input']}"
            )
    elif fault["type"] == "literal_error":
        choices = fault.get("ctx", {}).get("expected", "").replace("'", "").replace(" or ", ", ").split(", ")
        message = f"unknown value {fault['input']!r}; {nearest(str(fault['input']), choices)}"
    return MoemixError(f"`{key}`: {message}" if key else message, where=place)


def _resolve(schema: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """Return the keys of a fault's location, without the tags of unions, and the valid keys beside the last one."""
    path: list[str] = []
    models = [schema]
    for depth, part in enumerate(location, 1):
        tagged = [model for model in models if part in _tags(model) and part not in model.model_fields]
        if tagged:
            models = tagged
            continue
        path.append(str(part))
        if depth < len(location) and isinstance(part, str):
            models = [m for s in models if part in s.model_fields for m in _models(s.model_fields[part].annotation)]
    return path, sorted({name for model in models for name in model.model_fields})


def _tags(model: type[BaseModel]) -> tuple[object, ...]:
    """Return what stands for a member of a union in a location: its ``kind``, or the name of its class."""
    field = model.model_fields.get("kind")
    return (model.__name__, *get_args(field.annotation if field else None))


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the models named anywhere in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
