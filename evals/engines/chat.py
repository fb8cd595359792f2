"""Conversations answered in batches by an engine: each with its own temperature, seed, limit and stop strings.

Prompts are rendered with the checkpoint's own chat template and sent as token ids, so both engines answer the same
question. A sampled answer depends on its own seed alone, and not on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.errors import MoemixError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]  # role and content
_ROOM = 16  # tokens of answer for which a prompt that fills the context is cut


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that waits for its next answer.

    Attributes:
        temperature: 0 for the likeliest token.
        max_tokens: limit of the answer; less where prompt and answer would not fit the context.
        stop: the answer ends before the first of these.
    """

    messages: tuple[Message, ...]
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatReply:
    """An answer.

    Attributes:
        finish_reason: ``stop`` (the model or a stop string ended it) or ``length``.
        prompt_cut: tokens taken from the beginning of the prompt because the context is too short for it.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int
    prompt_cut: int = 0


Keep = Callable[[ChatRequest, ChatReply], None]


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it.

    Attributes:
        tokens: token ids, at most as many as leave room for ``max_tokens`` in the context.
        cut: tokens taken from its beginning.
    """

    request: ChatRequest
    tokens: list[int]
    max_tokens: int
    cut: int


class ChatModel(Protocol):
    """A model of lm-eval that can also answer rendered conversations; each engine has one."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def tokenizer_name(self) -> str:
        """What to call the tokenizer in messages."""
        ...

    def answer_prompts(self, prompts: Sequence[Prompt], keep: Keep) -> None:
        """Answer prompts, many at once; call ``keep`` with each answer as it is finished."""
        ...


def chat(lm: ChatModel, requests: Sequence[ChatRequest], keep: Keep, *, template: str | None = None) -> None:
    """Answer conversations, many at once, and pass each answer to ``keep`` when it is finished.

    ``template`` is a chat template (Jinja) in place of the checkpoint's own.

    Raises:
        MoemixError: the checkpoint has no chat template and none is given.
        StageError: the engine failed; what was kept need not be asked again.
    """
    if template is None and not getattr(lm.tokenizer, "chat_template", None):
        raise MoemixError(
            "the tokenizer has no chat template, so a conversation cannot be put to the model",
            where=lm.tokenizer_name,
            hint="give one with --chat-template FILE",
        )
    lm.answer_prompts([_prompt(lm.tokenizer, request, lm.max_length, template) for request in requests], keep)


def _prompt(tokenizer: PreTrainedTokenizerBase, request: ChatRequest, context: int, template: str | None) -> Prompt:
    text = tokenizer.apply_chat_template(
        list(request.messages), tokenize=False, add_generation_prompt=True, chat_template=template
    )
    tokens = tokenizer.encode(str(text), add_special_tokens=False)
    room = min(request.max_tokens, _ROOM, context // 2)
    cut = max(0, len(tokens) - (context - room))
    tokens = tokens[cut:]
    return Prompt(request, tokens, min(request.max_tokens, context - len(tokens)), cut)
