"""Ask judges at OpenAI-compatible endpoints: many judgments at once, and every failure with its reason."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evals.client import Client, Completion, Pace, Reason, RequestError, base_url
from evals.concurrency import as_answered
from evals.judge.budget import Price
from evals.judge.journal import Journal, safe_name
from evals.judge.records import Line, Params, Prompt, Reply
from harness.errors import StageFailed
from harness.judging import JudgeRequest, JudgeSpec
from harness.progress import Progress

KEY_VARIABLES = ("MOEMIX_JUDGE_API_KEY", "OPENAI_API_KEY")
SERVED_SECONDS = 1800.0  # timeout for a server that we start: it queues requests and does not hang
UNREACHABLE = 8  # judgments in a row without a connection after which the endpoint counts as gone
_NO_CONNECTION = "connection"

Work = Callable[[threading.Event], Line]  # makes a judgment; the event is set when nobody waits for it any more


@dataclass(frozen=True)
class Settings:
    """How judges are asked; nothing here changes a verdict.

    Attributes:
        concurrency: judgments in progress at once.
        per_minute: most requests to a judge in a minute; None for no limit.
        timeout: seconds that one request may take.
        attempts: most requests for one judgment.
        key: API key of the endpoints.
        price: what tokens cost; None if unknown.
        max_cost: the budget, in the currency of ``price``.
        retry_failed: repeat the judgments that the endpoint failed to make.
    """

    concurrency: int = 16
    per_minute: float | None = None
    timeout: float = 120.0
    attempts: int = 6
    key: str | None = None
    price: Price | None = None
    max_cost: float | None = None
    retry_failed: bool = False


class Judge:
    """A judge at an endpoint.

    Args:
        client: a client of its server.
        model: the name that the server knows the judge by.
        engine: description of the engine, if we serve the judge.
    """

    def __init__(self, client: Client, model: str, engine: Mapping[str, object] | None = None) -> None:
        self.client, self.model, self.engine = client, model, engine

    def ask(self, prompt: Prompt, params: Params, stop: threading.Event) -> Reply:
        """Send a prompt, again while the failure may pass, and return the reply or the reason why there is none.

        Raises:
            StageFailed: the endpoint refuses all requests (key, model or address).
            RequestCancelledError: ``stop`` was set.
        """
        payload: dict[str, object] = {"model": self.model, "messages": prompt.messages, **params}
        if prompt.schema is not None:
            named = {"name": "verdict", "strict": True, "schema": prompt.schema}
            payload["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            completion = self.client.complete("/chat/completions", payload, check=_useless, stop=stop)
        except RequestError as error:
            if error.reason == "denied":
                raise StageFailed(f"the judge's endpoint refuses requests ({error.detail})",
                                  where=f"{self.client.url} {self.model}",
                                  hint=f"check the address, the model and the key, which is read from "
                                  f"{' or '.join(KEY_VARIABLES)}") from None  # fmt: skip
            return Reply(
                reason=error.reason, detail=error.detail, attempts=error.attempts, seconds=error.seconds,
                prompt_tokens=error.billed.prompt_tokens, reply_tokens=error.billed.completion_tokens,
            )  # fmt: skip
        refusal = _refusal(completion)
        return Reply(
            judgment=refusal if isinstance(refusal, str) else completion.text,
            reason="refused" if refusal else None,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.billed.prompt_tokens,
            reply_tokens=completion.billed.completion_tokens,
            attempts=completion.attempts,
            seconds=completion.seconds,
            structured="response_format" in completion.sent,
        )


def _refusal(completion: Completion) -> object:
    """Return the text of a refusal, true for a reply stopped by a content filter, and a false value otherwise."""
    message = completion.choice.get("message")
    stated = message.get("refusal") if isinstance(message, Mapping) else None
    return stated or completion.finish_reason == "content_filter"


def _useless(completion: Completion) -> tuple[Reason, str] | None:
    if not isinstance(completion.choice.get("message"), Mapping):
        return "bad_reply", "a reply without a message"
    return None if completion.text.strip() or _refusal(completion) else ("empty", "a reply without text")


@contextmanager
def open_judge(judge: JudgeSpec, request: JudgeRequest, out: Path, settings: Settings) -> Iterator[Judge]:
    """Open a judge: at its address, or, if it is a checkpoint, served with vLLM until the block ends.

    Args:
        judge: the judge, with an address or a checkpoint.
        request: says with which precision and seed a checkpoint is served.
        out: the judging's folder, for the server's log.
        settings: how it is asked.
    """
    pace = Pace(settings.per_minute)
    if judge.url is not None:
        client = Client(judge.url, key=settings.key, timeout=settings.timeout, attempts=settings.attempts, pace=pace)
        yield Judge(client, judge.name)
        return
    from evals.engines.vllm_server import VllmEngine

    folder = out / f"serve-{safe_name(judge.name)}"
    with VllmEngine(Path(str(judge.checkpoint)), dtype=request.dtype, seed=request.seed, folder=folder) as engine:
        client = Client(f"{engine.server.url}/v1", timeout=SERVED_SECONDS, attempts=settings.attempts, pace=pace)
        yield Judge(client, engine.server.model, engine.describe())


def judge_address(url: str) -> str:
    """Return a judge's address in the form in which records keep it: up to the version, with its query.

    Raises:
        MoemixError: it is not an http(s) address, or it contains credentials.
    """
    address, query = base_url(url)
    return f"{address}?{query}" if query else address


def ask_all(
    works: Iterator[Work], journal: Journal, bar: Progress, *, concurrency: int, after: Callable[[Line], None]
) -> None:
    """Make judgments, at most ``concurrency`` at once; write each line as soon as it is there and call ``after``.

    A line without a connection is written only once another judgment has got one, so that an endpoint that is gone
    does not appear as a hundred failed judgments. When this ends early, the judgments in progress are waited for and
    kept, since their replies are paid for.

    Raises:
        StageFailed: the endpoint is gone or refuses all requests; finished judgments are kept.
    """
    unconnected: list[Line] = []

    def keep() -> None:
        while unconnected:
            journal.add(unconnected.pop(0))

    def make(work: Work, stop: threading.Event) -> Line:
        line = work(stop)
        if line["reason"] != _NO_CONNECTION:
            journal.add(line)
        return line

    with as_answered(works, make, concurrency=concurrency, finish=True) as answered:
        for _, future in answered:
            line = future.result()
            if line["reason"] != _NO_CONNECTION:
                keep()
            else:
                unconnected.append(line)
            if len(unconnected) >= UNREACHABLE:
                message = f"the judge's endpoint cannot be reached: {line['detail']}"
                raise StageFailed(message, hint="run the same command again: finished judgments are kept")
            bar.advance(note=f"{journal.failures} failed" if journal.failures else "")
            after(line)
    keep()
