"""The model as lm-eval's tasks meet it: answers come from the cache, and what is missing from the engine."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from evals.cache import ResponseCache
from harness.progress import Progress, progress

_TITLES = {"loglikelihood": "log-likelihoods", "generate_until": "generations", "loglikelihood_rolling": "perplexities"}
# Seeds of one request's samples lie next to each other, those of another evaluation seed this far away.
_SEED_STRIDE = 100_000


class CachedLM(LM):  # type: ignore[misc]  # lm-eval is untyped
    """An engine's model behind a response cache.

    Each answer is stored when the engine has it, so an evaluation that is stopped, however it is stopped, asks only
    for the rest when it is run again. Requests are also made to fit: an answer gets no more tokens than its prompt
    leaves in the context, so that no prompt is cut to make room for an answer that may never be that long.

    Attributes:
        notes: task → what had to be done to its requests, for its record.
    """

    def __init__(self, inner: TemplateLM, cache: ResponseCache, *, max_length: int, seed: int) -> None:
        super().__init__()
        self.inner, self.cache, self.max_length, self.seed = inner, cache, max_length, seed
        self._shortened: dict[str, Counter[str]] = defaultdict(Counter)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(value, greedy) for value, greedy in self._answer("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._answer("generate_until", requests)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.inner.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.inner.chat_template(chat_template)

    @property
    def tokenizer(self) -> Any:
        return self.inner.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return self.inner.tokenizer_name

    @property
    def eot_token_id(self) -> int:
        return self.inner.eot_token_id

    @property
    def notes(self) -> dict[str, str]:
        return {
            task: "; ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            for task, counts in self._shortened.items()
        }

    def _answer(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        if kind == "generate_until":
            requests = self._fitted(self._numbered(requests))
        elif kind == "loglikelihood":
            self._count_cut(requests)
        keys = [self.cache.key(kind, request.args) for request in requests]
        answers = self.cache.find(dict.fromkeys(keys))
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in answers}
        with progress(_TITLES[kind], len(answers) + len(missing), done=len(answers)) as bar:
            if missing:
                self.inner.cache_hook = _Store(self.cache, bar)
                fresh = getattr(self.inner, kind)(list(missing.values()), disable_tqdm=True)
                answers.update(zip(missing, fresh, strict=True))
        return [answers[key] for key in keys]

    def _numbered(self, requests: Sequence[Instance]) -> list[Instance]:
        """Sampled requests get the seed they are drawn with: repeats of a prompt are different draws."""
        seen: Counter[str] = Counter()
        numbered = []
        for request in requests:
            prompt, options = request.args
            if normalize_gen_kwargs(options)["do_sample"]:
                key = self.cache.key("sample", request.args)
                seed = self.seed * _SEED_STRIDE + seen[key]
                seen[key] += 1
                request = dataclasses.replace(request, arguments=(prompt, {**copy.deepcopy(options), "seed": seed}))
            numbered.append(request)
        return numbered

    def _fitted(self, requests: Sequence[Instance]) -> list[Instance]:
        fitted = []
        for request in requests:
            prompt, options = request.args
            wanted = normalize_gen_kwargs(options, default_max_gen_toks=256)["max_gen_toks"]
            # A token is at least a byte, so most prompts are seen to fit without tokenising them.
            if len(prompt.encode()) + wanted > self.max_length:
                room = self.max_length - len(self.inner.tok_encode(prompt))
                if room < wanted:
                    task = request.task_name or ""
                    if room < 1:
                        room = max(1, min(wanted, self.max_length // 2))
                        self._shortened[task]["prompts were cut on the left to fit the context"] += 1
                    else:
                        self._shortened[task]["answers had less room than the task allows"] += 1
                    request = dataclasses.replace(request, arguments=(prompt, {**options, "max_gen_toks": room}))
            fitted.append(request)
        return fitted

    def _count_cut(self, requests: Sequence[Instance]) -> None:
        for request in requests:
            text = "".join(request.args)
            if len(text.encode()) > self.max_length and len(self.inner.tok_encode(text)) > self.max_length:
                self._shortened[request.task_name or ""]["prompts were cut on the left to fit the context"] += 1


class _Store:
    """What lm-eval's models call when an answer is there."""

    def __init__(self, cache: ResponseCache, bar: Progress) -> None:
        self.cache, self.bar = cache, bar

    def add_partial(self, kind: str, arguments: tuple[Any, ...], answer: Any) -> None:
        self.cache.put(self.cache.key(kind, arguments), answer)
        self.bar.advance()
