"""The model that lm-eval's tasks see: answers come from the cache, and missing ones from the engine."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from evals.cache import ResponseCache
from harness.progress import Progress, progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TITLES = {"loglikelihood": "log-likelihoods", "generate_until": "generations", "loglikelihood_rolling": "perplexities"}
# The seeds of one request's samples are consecutive; those of another evaluation seed start this much further.
_SEED_STRIDE = 100_000
_CUT = "prompts were cut on the left to fit the context"
_SHORTENED = "answers had less room than the task allows"


class CachedLM(LM):  # type: ignore[misc]  # lm-eval has no types
    """An engine's model behind a response cache.

    Each answer is stored when the engine has it, so an evaluation that was stopped, however it was stopped, asks only
    for the rest when it is run again. An answer may have no more tokens than its prompt leaves in the context, so that
    no prompt is cut to make room for an answer that may never be that long.

    Args:
        inner: the engine's model.
        cache: the answers of this checkpoint and engine.
        max_length: tokens of prompt and answer together.
        seed: seed of sampled answers.

    Attributes:
        notes: task → how its requests were changed to fit the context, for its record.
    """

    def __init__(self, inner: TemplateLM, cache: ResponseCache, *, max_length: int, seed: int) -> None:
        super().__init__()
        self.inner, self.cache, self.max_length, self.seed = inner, cache, max_length, seed
        self._changes: dict[str, Counter[str]] = defaultdict(Counter)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-likelihood and greedy flag of each continuation."""
        for request in requests:
            text = "".join(request.args)
            # A token is at least a byte, so most texts are seen to fit without tokenising them.
            if len(text.encode()) > self.max_length and len(self.inner.tok_encode(text)) > self.max_length:
                self._changes[request.task_name or ""][_CUT] += 1
        return [(value, greedy) for value, greedy in self._answer("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each text."""
        return self._answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return a continuation of each prompt."""
        return self._answer("generate_until", [self._fitted(request) for request in self._numbered(requests)])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as the tokenizer's template writes it."""
        return str(self.inner.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the tokenizer's chat template."""
        template = self.inner.chat_template(chat_template)
        return None if template is None else str(template)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The engine's tokenizer."""
        tokenizer: PreTrainedTokenizerBase = self.inner.tokenizer
        return tokenizer

    @property
    def tokenizer_name(self) -> str:
        """What to call the tokenizer in records."""
        return str(self.inner.tokenizer_name)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.inner.eot_token_id)

    @property
    def notes(self) -> dict[str, str]:
        """How the requests of each task were changed."""
        return {
            task: "; ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            for task, counts in self._changes.items()
        }

    def _answer(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        keys = [self.cache.key(kind, request.args) for request in requests]
        answers = self.cache.find(dict.fromkeys(keys))
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in answers}
        with progress(_TITLES[kind], len(answers) + len(missing), done=len(answers)) as bar:
            if missing:
                self.inner.cache_hook = _CacheHook(self.cache, bar)
                fresh = getattr(self.inner, kind)(list(missing.values()), disable_tqdm=True)
                answers.update(zip(missing, fresh, strict=True))
        return [answers[key] for key in keys]

    def _numbered(self, requests: Sequence[Instance]) -> list[Instance]:
        """Give sampled requests the seed that they are drawn with: repeats of a prompt are different draws."""
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

    def _fitted(self, request: Instance) -> Instance:
        """Limit a request's answer to the tokens that its prompt leaves in the context."""
        prompt, options = request.args
        wanted = normalize_gen_kwargs(options, default_max_gen_toks=256)["max_gen_toks"]
        if len(prompt.encode()) + wanted <= self.max_length:
            return request
        room = self.max_length - len(self.inner.tok_encode(prompt))
        if room >= wanted:
            return request
        self._changes[request.task_name or ""][_SHORTENED if room >= 1 else _CUT] += 1
        if room < 1:
            room = max(1, min(wanted, self.max_length // 2))
        return dataclasses.replace(request, arguments=(prompt, {**options, "max_gen_toks": room}))


class _CacheHook:
    """What lm-eval's models call with each answer."""

    def __init__(self, cache: ResponseCache, bar: Progress) -> None:
        self.cache, self.bar = cache, bar

    def add_partial(self, kind: str, arguments: tuple[object, ...], answer: object) -> None:
        self.cache.put(self.cache.key(kind, arguments), answer)
        self.bar.advance()
