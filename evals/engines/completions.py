"""lm-eval's requests over an OpenAI-compatible ``/v1/completions``. Heavy to import.

Log-likelihoods come from ``echo`` with ``logprobs``, which recomputes the whole prompt for each continuation. Where
the continuations of a context are one token each (the letters of a multiple choice), vLLM is asked for exactly those
tokens after the context instead: one request a question, and few-shot prefixes come from its prefix cache. Prompts
are sent as token ids, encoded and cut exactly as lm-eval's transformers model does it, so that both engines answer
the same question.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import requests
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoTokenizer

from harness.errors import StageFailed

CONCURRENCY = 32
_ATTEMPTS = 7  # half a minute in all: the wait doubles
_WAIT = 0.5  # seconds before the second attempt
_TIMEOUT = (10.0, 1800.0)  # seconds to connect, and to wait for an answer that queues behind others
_RESUME_HINT = "run the same command again: what was answered is kept"

TokenRequest = tuple[Any, list[int], list[int]]  # lm-eval's (what to cache under, context ids, continuation ids)


class Server(Protocol):
    """Where the requests go."""

    url: str

    def alive(self) -> bool:
        """False once the server is known to be gone for good."""
        ...

    def revive(self) -> None:
        """Bring a dead server back, or raise StageFailed."""
        ...


class ServerGone(Exception):
    """The server died with requests in flight."""


class CompletionsLM(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """A served checkpoint.

    Args:
        server: kept for as long as there are requests; revived if it dies.
        model: the name the server knows the checkpoint by.
        tokenizer: folder with the tokenizer.
        max_length: the server's limit on prompt and answer together, in tokens.
    """

    def __init__(self, server: Server, model: str, tokenizer: Path, max_length: int) -> None:
        super().__init__()
        self.server, self.model, self.max_length = server, model, max_length
        self.tokenizer = AutoTokenizer.from_pretrained(str(tokenizer))
        self._folder = tokenizer
        self._no_label_scores = False  # seen that the server lacks them
        self._local = threading.local()

    @property
    def tokenizer_name(self) -> str:
        return self._folder.name

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is None:
            if not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
                return self.tokenizer.encode(string)
            add_special_tokens = False
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Requests that differ only in a last token are asked together, the others one by one."""
        groups: dict[tuple[int, ...] | int, list[int]] = {}
        for i, (_, context, continuation) in enumerate(requests):
            single = len(continuation) == 1 and 0 < len(context) < self.max_length
            groups.setdefault(tuple(context) if single else i, []).append(i)
        together = {group[0] for key, group in groups.items() if isinstance(key, tuple)}

        def ask(group: list[int]) -> list[tuple[float, bool]]:
            if group[0] in together and not self._no_label_scores:
                answers = self._ask_labels(requests[group[0]][1], [requests[i][2][0] for i in group])
                if answers is not None:
                    return answers
                self._no_label_scores = True
            return [self._ask_echo(requests[i]) for i in group]

        def keep(group: list[int], answers: list[tuple[float, bool]]) -> None:
            for i, answer in zip(group, answers, strict=True):
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], answer)

        members = list(groups.values())
        scores: dict[int, tuple[float, bool]] = {}
        answered = self._ask_all(members, ask, keep, order=lambda group: requests[group[0]][1] + requests[group[0]][2])
        for group, answers in zip(members, answered, strict=True):
            scores.update(zip(group, answers, strict=True))
        return [scores[i] for i in range(len(requests))]

    def _ask_echo(self, request: TokenRequest) -> tuple[float, bool]:
        _, context, continuation = request
        prompt = (context + continuation)[-(self.max_length - 1) :]  # the server insists on one token of answer
        body = self._post({"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True})
        return self._continuation_score(body, len(prompt), len(continuation))

    def _ask_labels(self, context: list[int], labels: list[int]) -> list[tuple[float, bool]] | None:
        """Log-probabilities of single tokens after a context; None if the server does not know how (only vLLM does)."""
        body = self._post(
            {
                "prompt": context,
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 1,
                "logprob_token_ids": labels,
                "return_tokens_as_token_ids": True,
            }
        )
        logprobs = body["choices"][0].get("logprobs") or {}
        found = (logprobs.get("top_logprobs") or [{}])[0]
        keys = [f"token_id:{label}" for label in labels]
        if not all(key in found for key in keys):
            return None
        likeliest = max(found.values())  # the token the server chose, at temperature 0, is among them
        return [(found[key], found[key] >= likeliest) for key in keys]

    def _continuation_score(self, body: Any, prompt: int, continuation: int) -> tuple[float, bool]:
        """Sum of the continuation's log-probabilities, and whether each token was the likeliest."""
        logprobs = body["choices"][0].get("logprobs") or {}
        chosen, top = (logprobs.get(key) or [] for key in ("token_logprobs", "top_logprobs"))
        span = slice(prompt - continuation, prompt)
        if len(chosen) < prompt or len(top) < prompt or None in chosen[span]:
            raise StageFailed(
                "the server does not give the log-likelihoods of prompts (`echo` with `logprobs`)",
                where=self.server.url,
                hint="serve the checkpoint with vLLM, or use the transformers engine",
            )
        greedy = all(mine >= max(best.values()) for mine, best in zip(chosen[span], top[span], strict=True))
        return sum(chosen[span]), greedy

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        totals = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 2,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(value for value, _ in self._loglikelihood_tokens(pairs)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        eos = self.tokenizer.decode([self.eot_token_id])

        def ask(request: Instance) -> str:
            text, raw = request.args
            options = dict(normalize_gen_kwargs(raw))
            stop = handle_stop_sequences(list(options.pop("until")), eos)
            answer_tokens = options.pop("max_gen_toks")
            options.pop("do_sample")
            prompt = self.tok_encode(text)[-(self.max_length - answer_tokens) :]
            body = self._post({"prompt": prompt, "max_tokens": answer_tokens, "stop": stop, **options})
            return postprocess_generated_text(body["choices"][0]["text"] or "", stop, None)

        def keep(request: Instance, answer: str) -> None:
            self.cache_hook.add_partial("generate_until", request.args, answer)

        return self._ask_all(requests, ask, keep, order=lambda request: request.args[0])

    def _ask_all(
        self,
        requests: Sequence[Any],
        ask: Callable[[Any], Any],
        keep: Callable[[Any, Any], None],
        order: Callable[[Any], Any],
    ) -> list[Any]:
        """Ask concurrently, keep each answer as it arrives; if the server dies, revive it and ask for the rest.

        Requests go in the order of their text, so those with a common beginning find it in the server's prefix cache.
        """
        answers: dict[int, Any] = {}
        positions = sorted(range(len(requests)), key=lambda i: order(requests[i]))
        while left := [i for i in positions if i not in answers]:
            abandoned = threading.Event()
            pool = ThreadPoolExecutor(CONCURRENCY, initializer=self._prepare_thread, initargs=(abandoned,))
            waiting: dict[Future[Any], int] = {pool.submit(ask, requests[i]): i for i in left}
            gone = False
            try:
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        i = waiting.pop(future)
                        try:
                            answers[i] = future.result()
                        except ServerGone:
                            gone = True
                            continue
                        keep(requests[i], answers[i])
                    if gone:
                        for future in [future for future in waiting if future.cancel()]:
                            del waiting[future]
            finally:
                abandoned.set()
                pool.shutdown(wait=False, cancel_futures=True)
            if gone:
                self.server.revive()
        return [answers[i] for i in range(len(requests))]

    def _prepare_thread(self, abandoned: threading.Event) -> None:
        self._local.session, self._local.abandoned = requests.Session(), abandoned

    def _post(self, payload: dict[str, Any]) -> Any:
        """One request, asked again while the server has trouble that may pass."""
        trouble = ""
        for attempt in range(_ATTEMPTS):
            if attempt and self._local.abandoned.wait(_WAIT * 2 ** (attempt - 1)):
                raise ServerGone  # nobody waits for this answer any more
            if not self.server.alive():
                raise ServerGone
            try:
                response = self._local.session.post(
                    f"{self.server.url}/v1/completions",
                    json={"model": self.model, **payload},
                    timeout=_TIMEOUT,
                )
                if response.ok:
                    body = response.json()
                    if body.get("choices"):
                        return body
                    trouble = "an answer without choices"
                elif response.status_code < 500 and response.status_code not in (408, 429):
                    raise StageFailed(
                        f"the server refused a request ({response.status_code}): {response.text[:500]}",
                        where=self.server.url,
                    )
                else:
                    trouble = f"{response.status_code} {response.text[:200]}"
            except (requests.RequestException, ValueError) as error:
                trouble = f"{type(error).__name__}: {error}"[:300]
        if not self.server.alive():
            raise ServerGone
        raise StageFailed(f"no answer after {_ATTEMPTS} attempts: {trouble}", where=self.server.url, hint=_RESUME_HINT)
