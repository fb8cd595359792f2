"""Parts of sources, opened: the rows of a part, and the adapter that turns each into a conversation or raw text.

The adapter is named in the recipe, or chosen by the columns of the first rows (``adapter: auto``).
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from harness.errors import MoemixError, unknown
from harness.plugins import file_reference, module_from, plugin, plugin_names
from harness.recipe import Part
from trainers.data.adapters import ADAPTERS
from trainers.data.conversation import Conversation, MalformedRowError, Message, Row, UnusableRowError
from trainers.data.detection import choose
from trainers.data.located import Rows
from trainers.data.marks import texts_of
from trainers.data.reading import read_part

logger = logging.getLogger("moemix.trainers")

Adapter = Callable[[Row], object]
PLUGINS = "moemix.adapters"
_LOOKED_AT = 50  # rows that decide which adapter is chosen
# At the beginning the tag that opens a thought may be missing (it is in the prompt of some templates); at the end, the
# tag that closes one that was cut.
_THOUGHTS = re.compile(r"\A(?:(?!<think>).)*?</think>\s*|(?:\A\s*)?<think>.*?(?:</think>\s*|\Z)", re.DOTALL)
SURROGATES = "lone surrogates were replaced"


@dataclass(frozen=True)
class OpenPart:
    """A part whose files are open: its rows, each with its location, and what turns them into conversations."""

    adapter: PartAdapter
    rows: Rows


def open_part(part: Part, *, root: Path | None, source: str) -> OpenPart:
    """Open the files of a part, and choose its adapter if the recipe leaves it open.

    Raises:
        MoemixError: as :func:`trainers.data.reading.read_part`; the adapter or an option does not exist; or the shape
            of the rows does not say which adapter reads them.
    """
    where = f"source {source}"
    adapter = None if part.adapter == "auto" else PartAdapter(part, where)  # before anything is read
    rows = read_part(part, root=root, source=source)
    if adapter is None:
        first = list(itertools.islice(rows, _LOOKED_AT))
        name, options = choose(first)
        shown = "".join(f", {key}: {value}" for key, value in options.items())
        logger.info("%s: the rows are read by the adapter %s%s (%s)", where, name, shown, first[0][1])
        chosen = part.model_copy(update={"adapter": name, "options": {**options, **part.options}})
        adapter = PartAdapter(chosen, where)
    return OpenPart(adapter, rows)


def load_adapter(name: str, options: Mapping[str, object], *, where: str) -> Adapter:
    """Return the adapter of this name (built in, entry point, or ``path/to/file.py:function``) with its options.

    Raises:
        MoemixError: there is no such adapter, file, function or option; the message names the nearest one.
    """
    if reference := file_reference(name):
        file, function_name = reference
        functions = dict(inspect.getmembers(module_from(file, "adapter"), inspect.isfunction))
        if function_name not in functions:
            raise unknown("function", function_name, functions, where=str(file))
        function: Callable[..., object] = functions[function_name]
    elif name in ADAPTERS:
        function = ADAPTERS[name]
    elif name in plugin_names(PLUGINS):
        function = cast("Callable[..., object]", plugin(PLUGINS, name))
    else:
        raise unknown("adapter", name, [*ADAPTERS, "auto", *plugin_names(PLUGINS)], where=where)
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    types = typing.get_type_hints(function)
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of the adapter {name}:", option, known, where=where)
        choices = typing.get_args(types.get(option)) if typing.get_origin(types.get(option)) is Literal else ()
        if choices and value not in choices:
            raise unknown(f"value of `{option}`:", str(value), choices, where=where)
    return functools.partial(function, **options)


class PartAdapter:
    """A part's adapter, and the selection of its rows.

    ``select``, an option of every adapter, keeps the rows whose columns have the given values:
    ``select: {label: true, task_id: {min: 601, max: 974}}``.
    """

    def __init__(self, part: Part, where: str) -> None:
        options: dict[str, object] = dict(part.options)
        select = options.pop("select", {})
        if not isinstance(select, Mapping):
            raise MoemixError("`select` should be a mapping of columns to values", where=where)
        for column, wanted in select.items():
            for bound in wanted if isinstance(wanted, Mapping) else ():
                if bound not in ("min", "max"):
                    raise unknown(f"bound of `select.{column}`:", bound, ("min", "max"), where=where)
        self.part, self._select = part, select
        self._adapter = load_adapter(part.adapter, options, where=where)

    def read(self, row: Row | MalformedRowError) -> str | Conversation | None:
        """Return a row as raw text that is not blank, or as turns, all of it valid text; None if it is not selected.

        Raises:
            MalformedRowError: the row does not have the format, or could not be read from its file.
            UnusableRowError: the row has nothing to train on.
        """
        if isinstance(row, MalformedRowError):
            raise row
        if not all(self._matches(row, column, wanted) for column, wanted in self._select.items()):
            return None
        try:
            result = self._adapter(row)
        except (MalformedRowError, UnusableRowError, MoemixError):
            raise
        except Exception as error:  # a user's adapter may raise anything
            raise MalformedRowError(f"the adapter failed with {error!r}") from error
        if isinstance(result, str):
            if not result.strip():
                raise UnusableRowError("empty text")
            return result if _is_utf8(result) else cast("str", _repaired(result))
        tools, notes = getattr(result, "tools", ()), list(getattr(result, "notes", ()))
        if isinstance(result, Mapping) and "messages" in result:  # with the schemas of tools
            result, tools = result["messages"], result.get("tools") or ()
        if not isinstance(result, list) or not all(_is_message(turn) for turn in result):
            raise MalformedRowError("the adapter should return text or a list of {role, content}")
        turns = result
        if self.part.reasoning == "drop" and (turns := [_without_thoughts(turn) for turn in result]) != result:
            notes.append("thoughts were removed (`reasoning: drop`)")
        if not _is_utf8((turns, tools)):
            turns, tools = cast("tuple[list[Message], list[object]]", _repaired((turns, tools)))
            notes.append(SURROGATES)
        return Conversation(turns, tools, notes)

    @staticmethod
    def _matches(row: Row, column: str, wanted: object) -> bool:
        if column not in row:
            raise MalformedRowError(f"the column `{column}` of `select` is missing")
        value = row[column]
        if not isinstance(wanted, Mapping):
            return bool(value == wanted)
        try:
            return bool(wanted.get("min", value) <= value <= wanted.get("max", value))
        except TypeError:
            raise MalformedRowError(f"`{column}` cannot be compared with the bounds in `select`: {value!r}") from None


def _is_message(turn: object) -> bool:
    return isinstance(turn, Mapping) and all(isinstance(turn.get(key), str) for key in ("role", "content"))


def _without_thoughts(turn: Message) -> Message:
    if turn["role"] != "assistant":
        return turn
    kept = cast("Message", {key: value for key, value in turn.items() if key != "reasoning_content"})
    if "</think>" in turn["content"] or "<think>" in turn["content"]:
        kept["content"] = _THOUGHTS.sub("", turn["content"])
    return kept


def _is_utf8(value: object) -> bool:
    """Return whether every text in a tree can be written as UTF-8: none has a lone surrogate."""
    try:
        "".join(texts_of(value)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _repaired(value: object) -> object:
    """Return a tree in whose texts the replacement character stands for each lone surrogate."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_repaired(key): _repaired(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_repaired(item) for item in value]
    return value
