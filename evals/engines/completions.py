"""lm-eval's requests over an OpenAI-compatible ``/v1/completions``. Slow to import.

Log-likelihoods come from ``echo`` with ``logprobs``, which recomputes the whole prompt for each continuation. Where
the continuations of a context are one token each (the letters of a multiple choice), vLLM is asked for exactly those
tokens after the context instead: one request a question, and few-shot prefixes come from its prefix cache. Prompts
are sent as token ids, encoded and cut exactly as lm-eval's transformers model does it, so that both engines answer
the same question.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from evals.client import Client, ServerGoneError
from evals.concurrency import as_answered
from evals.engines.chat import ChatReply, Keep, Prompt
from evals.replies import Completion
from harness.errors import StageError

CONCURRENCY = 32
ATTEMPTS = 7  # half a minute in all
MOST_STOPS = 4  # stop strings of a request by OpenAI's protocol; answers are cut at all of them when they are here
_TIMEOUT = 1800.0  # seconds; an answer may wait behind others

Score = tuple[float, bool]
"""Log-likelihood of a continuation, and whether greedy decoding gives it."""
TokenRequest = tuple[object, list[int], list[int]]
"""lm-eval's form: what to cache under, context ids, continuation ids."""
T = TypeVar("T")
R = TypeVar("R")


class Server(Protocol):
    """Where the requests are sent."""

    url: str
    key: str | None

    def alive(self) -> bool:
        """Return false once the server is known to have ended."""
        ...

    def revive(self) -> None:
        """Start a dead server again, or raise StageError."""
        ...


class CompletionsLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A served checkpoint.

    Args:
        server: revived if it dies while there are requests.
        model: the name by which the server knows the checkpoint.
        tokenizer: folder with the tokenizer.
        max_length: the server's limit on prompt and answer together, in tokens.
    """

    def __init__(self, server: Server, model: str, tokenizer: Path, max_length: int) -> None:
        super().__init__()
        self.server, self.model, self.max_length = server, model, max_length
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(tokenizer))
        self._folder = tokenizer
        self._no_label_scores = False  # true once the server was seen to lack them
        self._connect()

    def _connect(self) -> None:
        server = self.server
        self._client = Client(server.url, key=server.key, timeout=_TIMEOUT, attempts=ATTEMPTS, alive=server.alive)

    @property
    def tokenizer_name(self) -> str:
        """What to call the tokenizer in messages."""
        return self._folder.name

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return cast("int", self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else cast("int", bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Return the token ids of a text, with a BOS token only once."""
        if add_special_tokens is None:
            if not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
                return cast("list[int]", self.tokenizer.encode(string))
            add_special_tokens = False
        return cast("list[int]", self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as the tokenizer's template writes it."""
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **options: object
    ) -> list[Score]:
        """Ask requests that differ only in a last token together, the others one by one."""
        groups: dict[tuple[int, ...] | int, list[int]] = {}
        for i, (_, context, continuation) in enumerate(requests):
            single = len(continuation) == 1 and 0 < len(context) < self.max_length
            groups.setdefault(tuple(context) if single else i, []).append(i)
        together = {group[0] for key, group in groups.items() if isinstance(key, tuple)}

        def ask(group: list[int], stop: threading.Event) -> list[Score]:
            if group[0] in together and not self._no_label_scores:
                answers = self._ask_labels(requests[group[0]][1], [requests[i][2][0] for i in group], stop)
                if answers is not None:
                    return answers
                self._no_label_scores = True
            return [self._ask_echo(requests[i], stop) for i in group]

        def keep(group: list[int], answers: list[Score]) -> None:
            for i, answer in zip(group, answers, strict=True):
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], answer)

        members = list(groups.values())
        scores: dict[int, Score] = {}
        prompts = [requests[group[0]][1] + requests[group[0]][2] for group in members]
        for group, answers in zip(members, self._ask_all(members, prompts, ask, keep), strict=True):
            scores.update(zip(group, answers, strict=True))
        return [scores[i] for i in range(len(requests))]

    def _ask_echo(self, request: TokenRequest, stop: threading.Event) -> Score:
        """Ask for the sum of a continuation's log-probabilities, and whether each token was the likeliest."""
        _, context, continuation = request
        prompt = (context + continuation)[-(self.max_length - 1) :]  # the server insists on one token of answer
        payload = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        reply = self._complete(payload, stop)
        chosen = cast("list[float]", _logprobs(reply, "token_logprobs"))
        top = cast("list[dict[str, float]]", _logprobs(reply, "top_logprobs"))
        span = slice(len(prompt) - len(continuation), len(prompt))
        if len(chosen) < len(prompt) or len(top) < len(prompt) or None in chosen[span]:
            raise StageError(
                "the server does not give the log-likelihoods of prompts (`echo` with `logprobs`)",
                where=self.server.url,
                hint="serve the checkpoint with vLLM, or use the transformers engine",
            )
        greedy = all(mine >= max(best.values()) for mine, best in zip(chosen[span], top[span], strict=True))
        return sum(chosen[span]), greedy

    def _ask_labels(self, context: list[int], labels: list[int], stop: threading.Event) -> list[Score] | None:
        """Ask for the log-probabilities of single tokens after a context; None if the server is not vLLM."""
        payload = {"prompt": context, "max_tokens": 1, "temperature": 0, "logprobs": 1}
        payload |= {"logprob_token_ids": labels, "return_tokens_as_token_ids": True}
        top = cast("list[dict[str, float]]", _logprobs(self._complete(payload, stop), "top_logprobs"))
        found = top[0] if top else {}
        keys = [f"token_id:{label}" for label in labels]
        if not all(key in found for key in keys):
            return None
        likeliest = max(found.values())  # the token that the server chose, at temperature 0, is among them
        return [(found[key], found[key] >= likeliest) for key in keys]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each whole text, window by window."""
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
        """Return a continuation of each prompt, up to a stop string or the limit."""
        eos = self.tokenizer.decode([self.eot_token_id])

        def ask(request: Instance, stop: threading.Event) -> str:
            text, raw = request.args
            options = dict(normalize_gen_kwargs(raw))
            ends = handle_stop_sequences(list(options.pop("until")), eos)
            answer_tokens = options.pop("max_gen_toks")
            options.pop("do_sample")
            prompt = self.tok_encode(text)[-(self.max_length - answer_tokens) :]
            payload = {"prompt": prompt, "max_tokens": answer_tokens, "stop": ends[:MOST_STOPS], **options}
            return str(postprocess_generated_text(self._complete(payload, stop).text, ends, None))

        def keep(request: Instance, answer: str) -> None:
            self.cache_hook.add_partial("generate_until", request.args, answer)

        return self._ask_all(requests, [request.args[0] for request in requests], ask, keep)

    def answer_prompts(self, prompts: Sequence[Prompt], keep: Keep) -> None:
        """Answer conversations; call ``keep`` with each answer as it is finished."""
        eos = cast("str", self.tokenizer.decode([self.eot_token_id]))

        def ask(prompt: Prompt, stop: threading.Event) -> ChatReply:
            request = prompt.request
            payload = {"prompt": prompt.tokens, "max_tokens": prompt.max_tokens, "top_p": 1.0}
            payload |= {"temperature": request.temperature, "seed": request.seed}
            if request.stop:
                payload["stop"] = list(request.stop[:MOST_STOPS])
            reply = self._complete(payload, stop)
            whole = reply.text.removesuffix(eos)
            text = postprocess_generated_text(whole, list(request.stop), None)
            finish = "stop" if reply.finish_reason == "stop" or text != whole else "length"
            tokens = reply.usage.completion_tokens or len(self.tok_encode(reply.text))
            return ChatReply(text, finish, len(prompt.tokens), tokens, prompt.cut)

        self._ask_all(
            prompts, [prompt.tokens for prompt in prompts], ask, lambda prompt, reply: keep(prompt.request, reply)
        )

    def _ask_all(
        self,
        requests: Sequence[T],
        prompts: Sequence[list[int]] | Sequence[str],
        ask: Callable[[T, threading.Event], R],
        keep: Callable[[T, R], None],
    ) -> list[R]:
        """Ask concurrently and keep each answer as it arrives; if the server dies, revive it and ask for the rest.

        Requests are sent in the order of their prompts, so that the server's prefix cache serves common beginnings.
        """
        answers: dict[int, R] = {}
        order = sorted(range(len(requests)), key=prompts.__getitem__)
        while left := [i for i in order if i not in answers]:
            gone = False
            with as_answered(left, lambda i, stop: ask(requests[i], stop), concurrency=CONCURRENCY) as answered:
                for i, future in answered:
                    try:
                        answers[i] = future.result()
                    except ServerGoneError:
                        gone = True
                        continue
                    keep(requests[i], answers[i])
            if gone:
                self.server.revive()
                self._connect()
        return [answers[i] for i in range(len(requests))]

    def _complete(self, payload: dict[str, object], stop: threading.Event) -> Completion:
        return self._client.complete("/completions", {"model": self.model, **payload}, stop=stop)


def _logprobs(reply: Completion, name: str) -> list[object]:
    """Return a list from a reply's log-probabilities; empty if there is none."""
    logprobs = reply.choice.get("logprobs")
    found = logprobs.get(name) if isinstance(logprobs, dict) else None
    return found if isinstance(found, list) else []
