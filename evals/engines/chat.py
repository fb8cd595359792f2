"""Conversations answered in batches by an engine: each with its own temperature, seed, limit and stop strings.

Prompts are rendered with the checkpoint's own chat template and sent as token ids, so both engines answer the same
question. A sampled answer depends on its own seed alone, not on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import MoemixError

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

Message = dict[str, str]  # role and content
_ROOM = 16  # tokens of answer for which a prompt that fills the context is cut


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that waits for its next answer.

    Attributes:
        temperature: 0 for the likeliest token.
        max_tokens: less where prompt and answer would not fit the context.
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
        finish_reason: ``stop`` (the model ended it, or a stop string did) or ``length``.
        prompt_cut: tokens taken from the beginning of the prompt because the context is too short for it.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int
    prompt_cut: int = 0


Keep = Callable[[ChatRequest, ChatReply], None]


def chat(lm: TemplateLM, requests: Sequence[ChatRequest], keep: Keep, *, template: str | None = None) -> None:
    """Answer ``requests``, many at once; ``keep`` gets each answer as it is finished.

    Args:
        lm: an engine's ``lm()``.
        template: a chat template (Jinja) in place of the checkpoint's own.

    Raises:
        MoemixError: the checkpoint has no chat template and none is given.
        StageFailed: the engine failed; what was kept need not be asked again.
    """
    from evals.engines.completions import CompletionsLM

    tokenizer: Any = lm.tokenizer  # type: ignore[attr-defined]
    if template is None and not getattr(tokenizer, "chat_template", None):
        raise MoemixError(
            "the tokenizer has no chat template, so a conversation cannot be put to the model",
            where=lm.tokenizer_name,
            hint="give one with --chat-template FILE",
        )
    prompts = [_prompt(tokenizer, request, lm.max_length, template) for request in requests]  # type: ignore[attr-defined]
    (_served if isinstance(lm, CompletionsLM) else _in_process)(lm, prompts, keep)


@dataclass(frozen=True)
class _Prompt:
    request: ChatRequest
    tokens: list[int]
    max_tokens: int
    cut: int


def _prompt(tokenizer: Any, request: ChatRequest, context: int, template: str | None) -> _Prompt:
    text = tokenizer.apply_chat_template(
        list(request.messages), tokenize=False, add_generation_prompt=True, chat_template=template
    )
    tokens = tokenizer.encode(text, add_special_tokens=False)
    room = min(request.max_tokens, _ROOM, context // 2)
    cut = max(0, len(tokens) - (context - room))
    tokens = tokens[cut:]
    return _Prompt(request, tokens, min(request.max_tokens, context - len(tokens)), cut)


def _served(lm: Any, prompts: list[_Prompt], keep: Keep) -> None:
    eos = lm.tokenizer.decode([lm.eot_token_id])

    def ask(prompt: _Prompt) -> ChatReply:
        request = prompt.request
        payload: dict[str, Any] = {"prompt": prompt.tokens, "max_tokens": prompt.max_tokens, "top_p": 1.0}
        payload |= {"temperature": request.temperature, "seed": request.seed}
        if request.stop:
            payload["stop"] = list(request.stop)
        body = lm._post(payload)
        choice = body["choices"][0]
        text = choice["text"] or ""
        finish = "stop" if choice.get("finish_reason") == "stop" else "length"
        answer = (body.get("usage") or {}).get("completion_tokens") or len(lm.tok_encode(text))
        return ChatReply(text.removesuffix(eos), finish, len(prompt.tokens), answer, prompt.cut)

    lm._ask_all(prompts, ask, lambda prompt, reply: keep(prompt.request, reply), order=lambda prompt: prompt.tokens)


def _in_process(lm: Any, prompts: list[_Prompt], keep: Keep) -> None:
    """Batches of similar length: the padding is short, and so is the wait for the longest answer."""
    size = int(lm.batch_size)
    ordered = sorted(prompts, key=lambda prompt: (prompt.max_tokens, len(prompt.tokens)))
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        for prompt, reply in zip(batch, _generate(lm, batch), strict=True):
            keep(prompt.request, reply)


def _generate(lm: Any, batch: list[_Prompt]) -> list[ChatReply]:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    from evals.engines.sampling import RowLimits, RowSampler

    model, tokenizer = lm.model, lm.tokenizer
    longest = max(len(prompt.tokens) for prompt in batch)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else lm.eot_token_id
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch):
        ids[row, longest - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
        mask[row, longest - len(prompt.tokens) :] = 1
    ends = model.generation_config.eos_token_id
    ends = {lm.eot_token_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])}
    limits = RowLimits(
        tokenizer, longest, [prompt.max_tokens for prompt in batch], [prompt.request.stop for prompt in batch]
    )
    sampler = RowSampler([prompt.request.temperature for prompt in batch], [prompt.request.seed for prompt in batch])
    # Whatever the checkpoint's own generation settings say, the request's temperature alone decides.
    settings = GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, pad_token_id=pad, eos_token_id=sorted(ends),
        max_new_tokens=max(prompt.max_tokens for prompt in batch),
    )  # fmt: skip
    with torch.inference_mode():
        output = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([limits]),
        )
    replies = []
    for row, prompt in enumerate(batch):
        new = output[row, longest:].tolist()[: prompt.max_tokens]
        end = next((i for i, token in enumerate(new) if token in ends), None)
        stopped = limits.stopped_at[row]
        finish = "length" if end is None and stopped is None else "stop"
        length = min(i for i in (end, stopped, len(new)) if i is not None)
        text = tokenizer.decode(new[:length], skip_special_tokens=True)
        for stop in prompt.request.stop:
            text = text.split(stop)[0]
        replies.append(ChatReply(text, finish, len(prompt.tokens), length, prompt.cut))
    return replies
