"""Adapters: each turns one row of a published format into a conversation, or into raw text.

An adapter is a function of a row, and its keyword arguments are its options. ``ADAPTERS`` lists all of them;
``docs/data.md`` shows a row of each. A user's own works as well: ``path/to/file.py:function``, or an entry point of the
group ``moemix.adapters``. :mod:`trainers.data.parts` chooses one and applies it to the rows of a part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

from trainers.data.cells import blank, cell, items, kind, mapping, optional_items, optional_text, required
from trainers.data.cells import text as text_of
from trainers.data.conversation import Conversation, MalformedRowError, Message, Row, UnusableRowError
from trainers.data.glaive import glaive_turns, split_schemas, with_calls
from trainers.data.turns import Calls, Speakers, beside, dialogue, schemas, turn_of, turns_of, with_system, with_tools

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
    system: str | None = None,
    tools: str | None = None,
    calls: Calls = "template",
    tool_role: Literal["user", "tool"] = "user",
    speakers: Speakers | None = None,
) -> Conversation:
    """Read ``conversations: [{from, value}]``.

    Args:
        row: the row.
        conversations: the column of turns.
        append: a column with one more turn (``chosen`` of a preference file).
        system: the column of a system turn; by default ``system`` or ``system_prompt``, if there is one.
        tools: the column of tool schemas; by default ``tools``, if there is one.
        calls: how ``function_call`` turns become tokens: as calls of tools in the way of the model's ``template``, or
            as the ``text`` that they are, which every template can carry. Schemas are then left out, or added to the
            system turn if ``tools`` names their column.
        tool_role: the role of a tool's result where calls are text. Few chat templates have a ``tool`` turn.
        speakers: roles of further speakers (``{npc: assistant}``).
    """
    turns = turns_of(row, conversations, append, speakers or {}, calls)
    listed = tools or beside(row, conversations, ("tools",))
    if calls == "template":
        return Conversation(with_system(row, system, turns, conversations), schemas(row, listed) if listed else ())
    for turn in turns:
        turn["role"] = tool_role if turn["role"] == "tool" else turn["role"]
    turns = with_system(row, system, turns, conversations)
    if tools is not None:
        return Conversation(with_tools(turns, cell(row, tools)))
    return Conversation(turns, notes=["the schemas of tools were left out (`calls: text`)"] if listed else ())


def messages(
    row: Row,
    *,
    messages: str = "messages",
    append: str | None = None,
    system: str | None = None,
    tools: str | None = None,
    speakers: Speakers | None = None,
) -> Conversation:
    """Read ``messages: [{role, content}]``, the shape of the OpenAI API, with thoughts, calls of tools and weights.

    Args:
        row: the row.
        messages: the column of turns.
        append: a column with one more turn.
        system: the column of a system turn; by default ``system`` or ``system_prompt``, if there is one.
        tools: the column of tool schemas; by default ``tools`` or ``functions``, if there is one.
        speakers: roles of further speakers (``{npc: assistant}``).
    """
    turns = turns_of(row, messages, append, speakers or {}, "template")
    listed = tools or beside(row, messages, ("tools", "functions"))
    return Conversation(with_system(row, system, turns, messages), schemas(row, listed) if listed else ())


def alternating(row: Row, *, turns: str = "data", system: str | None = None) -> Conversation:
    """Read a list of texts in which user and assistant take turns (UltraChat's ``data``, LIMA's ``conversations``).

    ``turns`` and ``system`` name the columns; a column ``system`` or ``system_prompt`` is read without being named.
    """
    texts = [text_of({turns: text}, turns) for text in items(row, turns)]
    roles = ("user", "assistant")
    made: list[Message] = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return Conversation(with_system(row, system, made, turns))


def pairs(
    row: Row, *, turns: str = "conversation", input: str = "input", output: str = "output", system: str | None = None
) -> Conversation:
    """Read a list of questions with their answers, ``conversation: [{input, output}]`` (Capybara).

    ``turns`` and ``system`` name the columns, ``input`` and ``output`` the keys of a pair; a column ``system`` or
    ``system_prompt`` is read without being named.
    """
    found = [mapping(pair, turns) for pair in items(row, turns)]
    made = [turn for pair in found for turn in dialogue(text_of(pair, input), text_of(pair, output))]
    return Conversation(with_system(row, system, made, turns))


def alpaca(
    row: Row,
    *,
    instruction: str = "instruction",
    input: str = "input",
    output: str = "output",
    system: str | None = None,
    history: str = "history",
    instances: str | None = None,
    reasoning: str = "reasoning_content",
) -> Conversation:
    """Read ``instruction``, optional ``input``, and ``output``. The input is placed below the instruction.

    Args:
        row: the row.
        instruction: the column of the task.
        input: the column of the task's input.
        output: the column of the answer (``response`` in GPTeacher).
        system: the column of a system turn; by default ``system`` or ``system_prompt``, if there is one.
        history: the column of earlier turns, a list of questions with their answers, if there is one.
        instances: a column with a list of ``{input, output}``, of which the first is used (self-instruct).
        reasoning: the column of the answer's thoughts, if there is one.
    """
    task, holder = text_of(row, instruction), row
    if instances is not None:
        listed = items(row, instances)
        if not listed:
            raise UnusableRowError("the task has no instance")
        holder = mapping(listed[0], instances)
    question = _below(task, optional_text(holder, input))
    earlier: list[Message] = []
    for pair in optional_items(row, history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise MalformedRowError(
                f"`{history}` should hold pairs of a question and an answer, and holds {kind(pair)}"
            )
        earlier += dialogue(*(text_of({history: text}, history) for text in pair))
    last = dialogue(question, text_of(holder, output), optional_text(row, reasoning))
    return Conversation(with_system(row, system, [*earlier, *last], instruction))


def prompt_completion(
    row: Row,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    system: str | None = None,
    strip_suffix: str | Sequence[str] = (),
    unwrap: bool = False,
    reasoning: str = "reasoning_content",
) -> Conversation:
    """Read a question column and an answer column. Either may be a list of turns (TRL's conversational form).

    Args:
        row: the row.
        prompt: the column of the question (``question`` in OpenOrca).
        completion: the column of the answer (``response`` in OpenOrca).
        system: the column of a system turn; by default ``system`` or ``system_prompt``, if there is one.
        strip_suffix: end markers that were written into the answers (``<|endoftext|>``); they are removed.
        unwrap: extract the question from the Alpaca prompt around it ("Below is an instruction …"), because the chat
            template adds such text itself.
        reasoning: the column of the answer's thoughts, if there is one.
    """
    asked, answers = _as_turns(row, prompt), _as_turns(row, completion)
    if asked is not None or answers is not None:
        asked = asked or [{"role": "user", "content": text_of(row, prompt)}]
        answers = answers or [{"role": "assistant", "content": text_of(row, completion)}]
        for turn in asked:
            turn["train"] = False
        listed = beside(row, prompt, ("tools",))
        turns = with_system(row, system, [*asked, *answers], prompt)
        return Conversation(turns, schemas(row, listed) if listed else ())
    question, answer = text_of(row, prompt), text_of(row, completion).rstrip()
    for suffix in [strip_suffix] if isinstance(strip_suffix, str) else strip_suffix:
        answer = answer.removesuffix(suffix).rstrip()
    if unwrap:
        wrapped = ALPACA_PROMPT.fullmatch(question)
        if wrapped is None:
            raise MalformedRowError(f"`{prompt}` is not wrapped in the Alpaca prompt, and `unwrap` is set")
        question = _below(wrapped["instruction"], wrapped["input"] or "")
    return Conversation(with_system(row, system, dialogue(question, answer, optional_text(row, reasoning)), prompt))


def oasst(row: Row, *, prompt: str = "prompt") -> Conversation:
    """Read an Open Assistant tree: the conversation that follows the best reply to each message.

    The best reply is the one of the lowest ``rank``; without ranks, the first. ``prompt`` names the column of the first
    message, ``{role, text, replies: [...]}``.
    """
    turns = Conversation()
    node: object = required(row, prompt)
    while node is not None:
        message = mapping(node, prompt)
        turns.append(turn_of(message, {}, "text"))
        replies = [mapping(reply, "replies") for reply in optional_items(message, "replies")]
        ranked = [(_rank(reply), i) for i, reply in enumerate(replies) if not reply.get("deleted")]
        node = replies[min(ranked)[1]] if ranked else None
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    return turns


def glaive(row: Row, *, chat: str = "chat", system: str = "system", calls: Calls = "template") -> Conversation:
    """Read Glaive's ``chat`` text: ``USER:``, ``ASSISTANT:`` and ``FUNCTION RESPONSE:``, answers end in an end marker.

    Args:
        row: the row.
        chat: the column of the conversation.
        system: the column of the system text, with the schemas of the tools.
        calls: whether calls, results and schemas go the way of the model's ``template``, or are the ``text`` that they
            are, which every template can carry.
    """
    turns = list(glaive_turns(text_of(row, chat)))
    if not turns:
        raise MalformedRowError(f"`{chat}` has no `USER:` or `ASSISTANT:`")
    told = optional_text(row, system).strip().removeprefix("SYSTEM:").strip()
    listed: list[object] = []
    if calls == "template":
        turns = [with_calls(turn) for turn in turns]
        told, listed = split_schemas(told)
    else:
        turns = [{**turn, "role": "user"} if turn["role"] == "tool" else turn for turn in turns]
    return Conversation([{"role": "system", "content": told}, *turns] if told else turns, listed)


def gsm8k(row: Row, *, annotations: Literal["strip", "keep"] = "strip") -> Conversation:
    """Read ``question``, and ``answer`` with worked steps and a last line ``#### 72``.

    The calculator's annotations ``<<48/2=24>>`` are removed (``strip``) or kept.
    """
    answer = text_of(row, "answer")
    if annotations == "strip":
        answer = re.sub(r"<<[^<>]*>>", "", answer)
    return Conversation(dialogue(text_of(row, "question"), answer))


def aqua(row: Row) -> Conversation:
    """Read ``question``, ``options`` such as ``A)600``, ``rationale``, and ``correct``, the letter of the answer."""
    options = "\n".join(str(option) for option in items(row, "options"))
    question = f"{text_of(row, 'question')}\n\nAnswer choices:\n{options}"
    answer = f"{text_of(row, 'rationale').rstrip()}\n\nThe answer is {text_of(row, 'correct')}."
    return Conversation(dialogue(question, answer))


def mbpp(row: Row) -> Conversation:
    """Read ``text``, ``code`` and ``test_list``: the task with its tests, answered by the code with plain line ends."""
    tests = "\n".join(str(test) for test in items(row, "test_list"))
    question = f"{text_of(row, 'text')}\n\nYour code should pass these tests:\n\n{tests}"
    return Conversation(dialogue(question, text_of(row, "code").replace("\r\n", "\n").strip()))


def text(row: Row, *, text: str = "text") -> str:
    """Read raw text from the column ``text``. Every token except the first is a training target."""
    return text_of(row, text)


ADAPTERS: dict[str, Callable[..., Conversation | str]] = {
    function.__name__: function
    for function in (
        *(sharegpt, messages, alternating, pairs, alpaca, prompt_completion, oasst, glaive),
        *(gsm8k, aqua, mbpp, text),
    )
}


# --- parts of adapters ------------------------------------------------------------------------------


def _below(task: str, task_input: str) -> str:
    return f"{task}\n\n{task_input}" if task_input.strip() else task


def _as_turns(row: Row, column: str) -> list[Message] | None:
    """Return the turns in a column; None if it holds a text."""
    return turns_of(row, column, None, {}, "template") if isinstance(cell(row, column), list | tuple) else None


def _rank(reply: Row) -> float:
    rank = reply.get("rank")
    return float(rank) if isinstance(rank, int | float) and not blank(rank) else math.inf
