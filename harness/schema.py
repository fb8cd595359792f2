"""Typed trees: the base class of recipes and records, and errors that name the wrong key and its nearest neighbour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import MoemixError, nearest

T = TypeVar("T", bound=BaseModel)


class Strict(BaseModel):
    """A frozen model, for which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse(schema: type[T], tree: object, *, where: str) -> T:
    """Validate a tree of mappings and lists.

    Raises:
        MoemixError: names the first few wrong keys of ``where``, each with its nearest valid neighbour.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        every = error.errors(include_url=False)
        # a list with a bad item is also reported as too short: only the cause is worth reporting
        faults = [f for f in every if not any(f["loc"] == g["loc"][: len(f["loc"])] and f is not g for g in every)]
        lines = [_describe(schema, fault) for fault in faults[:5]]
        if len(faults) > 5:
            lines.append(f"… and {len(faults) - 5} more")
        raise MoemixError("; ".join(lines), where=where) from None


def _describe(schema: type[BaseModel], fault: ErrorDetails) -> str:
    path, siblings = _resolve(schema, fault["loc"])
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{key}` ({nearest(path[-1], siblings)})"
    if fault["type"] == "missing":
        return f"`{key}` is missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"`{key}`: {message}" if key else message


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
