"""Adapters: each turns one row of a published format into a conversation, or into raw text.

An adapter is a function of a row, and its keyword arguments are its options. ``ADAPTERS`` lists all of them. A user's
own file works as well: ``path/to/file.py:function``.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict

from harness.errors import MoemixError, unknown
from harness.plugins import file_reference, module_from
from harness.recipe import Part


class Message(TypedDict):
    """One turn: ``role`` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


class MalformedRowError(Exception):
    """The row is not in the declared format. Reading stops with the file, the line and this reason."""


class UnusableRowError(Exception):
    """The row has the declared format but nothing to train on. It is left out, counted and reported by this reason."""


Row = Mapping[str, object]
Conversation = list[Message]
Adapter = Callable[[Row], Conversation | str]

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",  # the model writes the call; the result comes from outside
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
OPENAI_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}

ALPACA_PROMPT = re.compile(
    r"Below is an instruction.*?\n\n### Instruction:\n(?P<instruction>.*?)"
    r"(?:\n\n### Input:\n(?P<input>.*?))?\n\n### Response:\s*",
    re.DOTALL,
)


def sharegpt(
    row: Row,
    *,
    conversations: str = "conversations",
    append: str | None = None,
    tools: str | None = None,
    tool_role: Literal["user", "tool"] = "user",
) -> Conversation:
    """Read ``conversations: [{from, value}]``.

    Args:
        row: the row.
        conversations: the column of turns.
        append: a column with one more turn (``chosen`` of a preference file).
        tools: a column of tool schemas, which are added to the system turn.
        tool_role: the role of a tool's result. Few chat templates have a ``tool`` turn, and many of the others drop
            it, so the default is ``user``.
    """
    turns: Conversation = []
    for turn in _turns(row, conversations, append):
        speaker = _text(turn, "from").lower()
        if speaker not in SHAREGPT_ROLES:
            raise MalformedRowError(str(unknown("speaker", speaker, SHAREGPT_ROLES)))
        role = SHAREGPT_ROLES[speaker]
        turns.append({"role": tool_role if role == "tool" else role, "content": _text(turn, "value")})
    return turns if tools is None else _with_tools(turns, row.get(tools))


def messages(row: Row, *, messages: str = "messages", append: str | None = None) -> Conversation:
    """Read ``messages: [{role, content}]``, the shape of the OpenAI API.

    Args:
        row: the row.
        messages: the column of turns.
        append: a column with one more turn.
    """
    turns: Conversation = []
    for turn in _turns(row, messages, append):
        role = _text(turn, "role")
        if role not in OPENAI_ROLES:
            raise MalformedRowError(str(unknown("role", role, OPENAI_ROLES)))
        turns.append({"role": role, "content": _content(_mapping(turn, "a turn"))})
    return turns


def alpaca(
    row: Row,
    *,
    instruction: str = "instruction",
    input: str = "input",
    output: str = "output",
    system: str | None = None,
    instances: str | None = None,
) -> Conversation:
    """Read ``instruction``, optional ``input``, and ``output``. The input is placed below the instruction.

    Args:
        row: the row.
        instruction: the column of the task.
        input: the column of the task's input.
        output: the column of the answer (``response`` in GPTeacher).
        system: the column of a system turn.
        instances: a column with a list of ``{input, output}``, of which the first is used (self-instruct).
    """
    task, holder = _text(row, instruction), row
    if instances is not None:
        listed = _list(row, instances)
        if not listed:
            raise UnusableRowError("the task has no instance")
        holder = _mapping(listed[0], instances)
    task_input = _text(holder, input) if holder.get(input) is not None else ""
    return _dialogue(_below(task, task_input), _text(holder, output), system=_text(row, system) if system else "")


def prompt_completion(
    row: Row,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    system: str | None = None,
    strip_suffix: str | Sequence[str] = (),
    unwrap: bool = False,
) -> Conversation:
    """Read a question column and an answer column.

    Args:
        row: the row.
        prompt: the column of the question (``question`` in OpenOrca).
        completion: the column of the answer (``response`` in OpenOrca).
        system: the column of a system turn.
        strip_suffix: end markers that were written into the answers (``<|endoftext|>``); they are removed.
        unwrap: extract the question from the Alpaca prompt around it ("Below is an instruction …"), because the chat
            template adds such text itself.
    """
    question, answer = _text(row, prompt), _text(row, completion).rstrip()
    for suffix in [strip_suffix] if isinstance(strip_suffix, str) else strip_suffix:
        answer = answer.removesuffix(suffix).rstrip()
    if unwrap:
        wrapped = ALPACA_PROMPT.fullmatch(question)
        if wrapped is None:
            raise MalformedRowError(f"`{prompt}` is not wrapped in the Alpaca prompt, and `unwrap` is set")
        question = _below(wrapped["instruction"], wrapped["input"] or "")
    return _dialogue(question, answer, system=_text(row, system) if system else "")


def gsm8k(row: Row, *, annotations: Literal["strip", "keep"] = "strip") -> Conversation:
    """Read ``question``, and ``answer`` with worked steps and a last line ``#### 72``.

    Args:
        row: the row.
        annotations: whether the calculator annotations ``<<48/2=24>>`` are removed (``strip``) or kept.
    """
    answer = _text(row, "answer")
    if annotations == "strip":
        answer = re.sub(r"<<[^<>]*>>", "", answer)
    return _dialogue(_text(row, "question"), answer)


def aqua(row: Row) -> Conversation:
    """Read ``question``, ``options`` such as ``A)600``, ``rationale``, and ``correct``, the letter of the answer."""
    options = "\n".join(str(option) for option in _list(row, "options"))
    question = f"{_text(row, 'question')}\n\nAnswer choices:\n{options}"
    return _dialogue(question, f"{_text(row, 'rationale').rstrip()}\n\nThe answer is {_text(row, 'correct')}.")


def mbpp(row: Row) -> Conversation:
    """Read ``text``, ``code`` and ``test_list``: the task with its tests, answered by the code with plain line ends."""
    tests = "\n".join(str(test) for test in _list(row, "test_list"))
    question = f"{_text(row, 'text')}\n\nYour code should pass these tests:\n\n{tests}"
    return _dialogue(question, _text(row, "code").replace("\r\n", "\n").strip())


def text(row: Row, *, text: str = "text") -> str:
    """Read raw text from the column ``text``. Every token except the first is a training target."""
    return _text(row, text)


ADAPTERS: dict[str, Callable[..., Conversation | str]] = {
    function.__name__: function for function in (sharegpt, messages, alpaca, prompt_completion, gsm8k, aqua, mbpp, text)
}


def load_adapter(name: str, options: Mapping[str, object], *, where: str) -> Adapter:
    """Return the adapter called ``name`` (or ``path/to/file.py:function``) with its options filled in.

    Raises:
        MoemixError: there is no such adapter, file, function or option; the message names the nearest one.
    """
    if reference := file_reference(name):
        file, function_name = reference
        functions = dict(inspect.getmembers(module_from(file, "adapter"), inspect.isfunction))
        if function_name not in functions:
            raise unknown("function", function_name, functions, where=str(file))
        function: Callable[..., Conversation | str] = functions[function_name]
    elif name in ADAPTERS:
        function = ADAPTERS[name]
    else:
        raise unknown("adapter", name, ADAPTERS, where=where)
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
        self._adapter: Callable[[Row], object] = load_adapter(part.adapter, options, where=where)

    def wants(self, row: Row) -> bool:
        """Return whether ``select`` keeps the row.

        Raises:
            MalformedRowError: a column is missing or cannot be compared.
        """
        return all(self._matches(row, column, wanted) for column, wanted in self._select.items())

    def adapt(self, row: Row) -> str | Conversation:
        """Return the row as raw text that is not blank, or as a list of turns.

        Raises:
            MalformedRowError: the row does not have the format.
            UnusableRowError: the row has nothing to train on.
        """
        try:
            result = self._adapter(row)
        except (MalformedRowError, UnusableRowError, MoemixError):
            raise
        except Exception as error:  # a user's adapter may raise anything
            raise MalformedRowError(f"the adapter failed with {error!r}") from error
        if isinstance(result, str):
            if not result.strip():
                raise UnusableRowError("empty text")
            return result
        if not isinstance(result, list) or not all(_is_message(turn) for turn in result):
            raise MalformedRowError("the adapter should return text or a list of {role, content}")
        return result

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


# --- parts of adapters ------------------------------------------------------------------------------


def _turns(row: Row, column: str, append: str | None) -> list[object]:
    """Return the turns in a column, and one more if ``append`` names its column."""
    return [*_list(row, column), *([] if append is None else [_required(row, append)])]


def _dialogue(question: str, answer: str, *, system: str = "") -> Conversation:
    turns: Conversation = [{"role": "system", "content": system}] if system.strip() else []
    return [*turns, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _below(task: str, task_input: str) -> str:
    return f"{task}\n\n{task_input}" if task_input.strip() else task


def _content(turn: Row) -> str:
    """Return a turn's text, which is plain or in parts that are all text."""
    content = turn.get("content")
    if content is None and (turn.get("tool_calls") or turn.get("function_call")):
        raise UnusableRowError("a turn that calls a tool instead of writing text")
    if isinstance(content, list):
        parts = [_mapping(part, "content") for part in content]
        if others := sorted({str(part.get("type")) for part in parts} - {"text"}):
            raise UnusableRowError(f"a turn with parts that are not text ({', '.join(others)})")
        return "".join(_text(part, "text") for part in parts)
    return _text(turn, "content")


def _with_tools(turns: Conversation, schemas: object) -> Conversation:
    """Add tool schemas to the end of the system turn, or as a system turn."""
    listing = schemas if isinstance(schemas, str) else json.dumps(schemas, ensure_ascii=False)
    if schemas is None or listing.strip() in ("", "[]", "null"):
        return turns
    prompt = f"You can call these functions, by answering with JSON:\n{listing.strip()}"
    if turns and turns[0]["role"] == "system":
        first: Message = {"role": "system", "content": f"{turns[0]['content']}\n\n{prompt}".strip()}
        return [first, *turns[1:]]
    return [{"role": "system", "content": prompt}, *turns]


def _mapping(value: object, name: str) -> Row:
    if not isinstance(value, Mapping):
        raise MalformedRowError(f"`{name}` should hold objects, and holds {_kind(value)}")
    return value


def _required(row: object, key: str) -> object:
    row = _mapping(row, "a turn")
    if row.get(key) is None:
        raise MalformedRowError(f"`{key}` is missing (there are: {', '.join(map(str, row))})")
    return row[key]


def _text(row: object, key: str) -> str:
    value = _required(row, key)
    if not isinstance(value, str):
        raise MalformedRowError(f"`{key}` should be text, and is {_kind(value)}")
    return value


def _list(row: Row, key: str) -> Sequence[object]:
    value = _required(row, key)
    if not isinstance(value, list | tuple):
        raise MalformedRowError(f"`{key}` should be a list, and is {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
