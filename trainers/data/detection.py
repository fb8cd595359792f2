"""The adapter that the columns of a row ask for (``adapter: auto``), where they say enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.errors import MoemixError
from trainers.data.adapters import ADAPTERS
from trainers.data.cells import kind, parsed
from trainers.data.conversation import MalformedRowError, Row
from trainers.data.located import Located

Choice = tuple[str, dict[str, str]]
"""An adapter and its options."""

_TURNS = ("conversations", "messages", "conversation", "dialogue", "dialog", "turns", "data")
_DIALOGUES: tuple[tuple[str, str], ...] = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("query", "answer"),
    ("problem", "solution"),
    ("input", "output"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("inputs", "targets"),
)
_OUTPUTS = ("output", "response", "completion", "answer")
_CONTEXT = ("context", "passage")  # columns that belong to a question
_CHOICES = ("choices", "options", "endings")  # columns without which a question makes no sense, and no adapter takes
_CLEAR = 0.9  # the share of rows that must have the same shape


def choose(rows: Sequence[Located]) -> Choice:
    """Return the adapter that nearly all of the first rows of a part ask for.

    Raises:
        MoemixError: the rows have several shapes, or none that is known.
    """
    read = [(row, where) for row, where in rows if not isinstance(row, MalformedRowError)]
    found: dict[str, tuple[Choice, str]] = {}
    counts: Counter[str] = Counter()
    for row, where in read:
        if choice := detect(row):
            found.setdefault(repr(choice), (choice, where))
            counts[repr(choice)] += 1
    if counts and counts.most_common(1)[0][1] >= _CLEAR * counts.total():
        return found[counts.most_common(1)[0][0]][0]
    hint = f"write `adapter: NAME` and its options; there are: {', '.join(ADAPTERS)} (docs/data.md)"
    if found:
        shapes = "; ".join(f"{name} ({where})" for (name, _), where in found.values())
        raise MoemixError(f"the rows have several shapes: {shapes}", where=rows[0][1], hint=hint)
    if not read:
        raise MoemixError(f"no adapter can be chosen: {rows[0][0]}", where=rows[0][1], hint=hint)
    columns = ", ".join(f"{key} ({kind(value)})" for key, value in read[0][0].items())
    raise MoemixError(f"no adapter is known for rows with these columns: {columns}", where=read[0][1], hint=hint)


def detect(row: Row) -> Choice | None:
    """Return the adapter that a row's columns and their types ask for, with its options; None if they do not say."""
    for column in _TURNS:
        if (choice := _turns_choice(row, column, column)) is not None:
            return choice
    for outer, value in row.items():
        if isinstance(inner := parsed(value), Mapping):
            for column in _TURNS:
                if (choice := _turns_choice(inner, column, f"{outer}.{column}")) is not None:
                    return choice
    tree = parsed(row.get("prompt"))
    if isinstance(tree, Mapping) and "replies" in tree:
        return "oasst", {}
    texts = {key for key, value in row.items() if isinstance(value, str | int | float)}
    if "chat" in texts and "USER:" in str(row["chat"]):
        return "glaive", {}
    if {"question", "rationale", "correct"} <= texts and isinstance(row.get("options"), list):
        return "aqua", {}
    if {"question", "answer"} <= texts and "\n#### " in str(row["answer"]):
        return "gsm8k", {}
    if {"text", "code"} <= texts and isinstance(row.get("test_list"), list):
        return "mbpp", {}
    return _answered(row, texts) or (("text", {}) if texts >= {"text"} else None)


def _answered(row: Row, texts: set[str]) -> Choice | None:
    """Return the adapter for a question and its answer in columns of their own."""
    context = next((column for column in _CONTEXT if column in row), None)
    if "instruction" in texts:
        if isinstance(row.get("instances"), list):
            return "alpaca", {"instances": "instances"}
        for output in _OUTPUTS:
            if output in texts:
                beside = {"input": context} if context and "input" not in row else {}
                return "alpaca", {**beside, **({} if output == "output" else {"output": output})}
    for prompt, completion in _DIALOGUES:
        if not all(key in texts or _is_turns(row.get(key)) for key in (prompt, completion)):
            continue
        if any(column in row for column in _CHOICES):
            return None
        if context and {prompt, completion} <= texts:
            named = {"instruction": prompt, "input": context, "output": completion}
            return "alpaca", {option: column for option, column in named.items() if option != column}
        named = {"prompt": prompt, "completion": completion}
        return "prompt_completion", {option: column for option, column in named.items() if option != column}
    return None


def _is_turns(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)


def _turns_choice(row: Row, column: str, place: str) -> Choice | None:
    """Return the adapter for a column of turns, if the row has it; ``place`` is its name with that of its object."""
    value = parsed(row.get(column))
    if not isinstance(value, list | tuple) or not value:
        return None
    first = value[0]
    if isinstance(first, str):
        return "alternating", {} if place == "data" else {"turns": place}
    if not isinstance(first, Mapping):
        return None
    if {"from", "role", "speaker"} & first.keys():
        name, usual = ("sharegpt", "conversations") if column == "conversations" else ("messages", "messages")
        options = {} if place == usual else {usual: place}
        return name, {**options, "append": "chosen"} if isinstance(row.get("chosen"), Mapping) else options
    for question, answer in (
        ("input", "output"),
        ("human", "assistant"),
        ("user", "assistant"),
        ("prompt", "response"),
        ("question", "answer"),
    ):
        if {question, answer} <= first.keys():
            named = {"turns": place, "input": question, "output": answer}
            defaults = {"turns": "conversation", "input": "input", "output": "output"}
            return "pairs", {option: key for option, key in named.items() if key != defaults[option]}
    return None
