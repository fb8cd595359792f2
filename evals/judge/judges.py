"""Ask judges at OpenAI-compatible endpoints: many at once, within a budget, and with a reason for every failure."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evals.addresses import api_key, base_url
from evals.client import Client, Completion, Pace, Reason, RequestError
from evals.concurrency import as_answered
from evals.judge.journal import Journal, safe_name
from evals.judge.records import Line, Reply, Task
from harness.errors import MoemixError, StageError
from harness.judging import JudgeRequest, JudgeSpec
from harness.progress import Progress
from harness.requests import JudgeJobRequest

KEY_VARIABLES = ("MOEMIX_JUDGE_API_KEY", "OPENAI_API_KEY")
SERVED_SECONDS = 1800.0  # timeout for a server that we start: it queues requests and does not hang
UNREACHABLE = 8  # judgments in a row without a connection after which the endpoint counts as gone
CHARACTERS_PER_TOKEN = 3.5  # English has 4 and more with current tokenizers, so estimates are rather too high
REPLY_TOKENS = 350  # estimate for a judgment with its explanation, unless the limit is lower
_KEPT = "run the same command again: finished judgments are kept"

Work = Callable[[threading.Event], Line]  # makes a judgment; the event is set when nobody waits for it any more


@dataclass(frozen=True)
class Price:
    """The price of a million prompt and a million reply tokens, in any one currency."""

    prompt: float
    reply: float

    def of(self, prompt_tokens: float, reply_tokens: float) -> float:
        """Return the cost of so many tokens."""
        return (self.prompt * prompt_tokens + self.reply * reply_tokens) / 1e6


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

    @classmethod
    def of(cls, job: JudgeJobRequest) -> Settings:
        """Return the settings of a request, with the key from the environment."""
        return cls(
            job.concurrency, job.rate, job.timeout, job.attempts, api_key(KEY_VARIABLES),
            parse_price(job.price) if job.price else None, job.max_cost, job.retry_failed,
        )  # fmt: skip


class Judge:
    """A judge at an endpoint, by the name ``model`` there; ``engine`` describes the engine if we serve it."""

    def __init__(self, client: Client, model: str, engine: Mapping[str, object] | None = None) -> None:
        self.client, self.model, self.engine = client, model, engine

    def ask(self, task: Task, stop: threading.Event) -> Reply:
        """Send a prompt, again while the failure may pass, and return the reply or the reason why there is none.

        Raises:
            StageError: the endpoint refuses all requests (key, model or address).
            RequestCancelledError: ``stop`` was set.
        """
        payload: dict[str, object] = {"model": self.model, "messages": task.prompt.messages, **task.params}
        if task.prompt.schema is not None:
            named = {"name": "verdict", "strict": True, "schema": task.prompt.schema}
            payload["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            completion = self.client.complete("/chat/completions", payload, check=_useless, stop=stop)
        except RequestError as error:
            if error.reason == "denied":
                message, where = f"the judge's endpoint refuses requests ({error.detail})", self.client.url
                hint = f"check the address, the name and the key, which is read from {' or '.join(KEY_VARIABLES)}"
                raise StageError(message, where=f"{where} {self.model}", hint=hint) from None
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

    A checkpoint is served with the precision and the seed of the request; the server's log is in ``out``.
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
        StageError: the endpoint is gone or refuses all requests.
    """
    unconnected: list[Line] = []

    def keep() -> None:
        while unconnected:
            journal.add(unconnected.pop(0))

    def make(work: Work, stop: threading.Event) -> Line:
        line = work(stop)
        if line["reason"] != "connection":
            journal.add(line)
        return line

    with as_answered(works, make, concurrency=concurrency, finish=True) as answered:
        for _, future in answered:
            line = future.result()
            if line["reason"] != "connection":
                keep()
            else:
                unconnected.append(line)
            if len(unconnected) >= UNREACHABLE:
                raise StageError(f"the judge's endpoint cannot be reached: {line['detail']}", hint=_KEPT)
            bar.advance(note=f"{journal.failures} failed" if journal.failures else "")
            after(line)
    keep()


# --- cost -------------------------------------------------------------------------------------------


def parse_price(text: str) -> Price:
    """Parse ``IN,OUT``, the prices of a million prompt and a million reply tokens.

    Raises:
        MoemixError: the text is not two numbers, or one of them is negative.
    """
    try:
        prompt, reply = (float(part) for part in text.split(","))
    except ValueError:
        prompt = reply = math.nan
    if not (0 <= prompt < math.inf and 0 <= reply < math.inf):
        hint = "expected IN,OUT, the prices of a million prompt and a million reply tokens, such as 2.5,10"
        raise MoemixError(f"{text!r} is not a price", where="--price", hint=hint)
    return Price(prompt, reply)


@dataclass
class Estimate:
    """Requests still to be sent and their tokens, without retries."""

    requests: int = 0
    prompt_tokens: float = 0
    reply_tokens: float = 0

    def add(self, task: Task) -> None:
        """Count a request."""
        self.requests += 1
        self.prompt_tokens += round(len(task.prompt.system + task.prompt.user) / CHARACTERS_PER_TOKEN) + 8
        self.reply_tokens += min(REPLY_TOKENS, task.params["max_tokens"])

    def as_text(self, price: Price | None) -> str:
        """Return the estimate as text, with the cost if there is a price."""
        text = f"{self.requests:,} requests, about {self.prompt_tokens:,} prompt and {self.reply_tokens:,} reply tokens"
        return f"{text}: about {price.of(self.prompt_tokens, self.reply_tokens):.2f}" if price else text


@dataclass
class Budget:
    """A limit on the cost, counted from the tokens that the endpoint reports, else from the length of the texts."""

    limit: float
    price: Price
    spent: float = 0.0

    def check(self, estimate: Estimate) -> None:
        """Raise an error before anything is sent if the estimate exceeds the budget."""
        needed = self.spent + self.price.of(estimate.prompt_tokens, estimate.reply_tokens)
        if needed > self.limit:
            message = f"judging would cost about {needed:.4g}, and the budget is {self.limit:g}"
            hint = f"{estimate.as_text(self.price)}; raise the budget, or judge fewer questions (--limit)"
            raise MoemixError(message, where="--max-cost", hint=hint)

    def spend(self, line: Line) -> None:
        """Add the cost of a judgment; raise StageError if the budget is used up."""
        self.spent += cost_of(line, self.price)
        if self.spent > self.limit:
            message = f"the budget of {self.limit:g} is used up (about {self.spent:.4g} spent); give a larger one"
            raise StageError(
                message, where="--max-cost", hint="finished judgments are kept: run again with a larger budget"
            )


def cost_of(line: Line, price: Price) -> float:
    """Return the cost of a judgment; requests that got no reply are not counted."""
    if not line["attempts"]:
        return 0.0
    prompt = line["prompt_tokens"] or len(line["system_prompt"] + line["user_prompt"]) / CHARACTERS_PER_TOKEN
    reply = line["reply_tokens"] or len(line["judgment"]) / CHARACTERS_PER_TOKEN
    return price.of(round(prompt), round(reply))
