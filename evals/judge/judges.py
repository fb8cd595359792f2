"""Ask judges at OpenAI-compatible endpoints: many at once, within a budget, and with a reason for every failure."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from evals.addresses import api_key, base_url, is_loopback
from evals.client import PATIENCE, RESUME_HINT, Client, RequestError
from evals.concurrency import as_answered
from evals.judge.journal import Journal, safe_name
from evals.judge.records import Line, Reply, Task
from evals.judge.strict import explanation_length
from evals.pace import Pace, RequestCancelledError
from evals.replies import Completion, Reason, Usage, tokens_of
from harness.errors import MoemixError, StageError
from harness.judging import JudgeSettings, JudgeSpec
from harness.progress import Progress
from harness.requests import JudgeJobRequest

KEY_VARIABLES = ("MOEMIX_JUDGE_API_KEY", "OPENAI_API_KEY")
SERVED_SECONDS = 1800.0  # timeout for a server that we start: it queues requests and does not hang
UNREACHABLE = 8  # judgments in a row without a connection, or refused, after which the endpoint counts as gone
REPLY_TOKENS = 350  # estimate for a judgment with its explanation, unless the limit is lower
OPTIONAL = ("response_format", "seed", "temperature", "system")  # what a judge's server may do without
_SMALLEST = 16  # tokens of a reply that are worth asking for
_LONGEST = 100_000  # characters of a reply that are read and kept
_FATAL = {  # reason → what stops the whole judging
    "denied": "the judge's endpoint refuses requests",
    "unpaid": "the judge's account has no credit left",
    "rate_limited": f"the judge's endpoint asks to wait longer than {PATIENCE / 60:.0f} minutes",
}
_CONTEXT = re.compile(r"(?:context (?:length|window|size)|max_model_len)[^.]{0,40}?(\d{3,})", re.IGNORECASE)
_PROMPT = re.compile(r"(\d+)\s+(?:tokens? )?(?:in|of|from) the (?:messages|prompt|input)|(\d+) (?:input|prompt) tokens|"
                     r"(?:prompt|messages|input)[^.\d]{0,40}?(\d+) tokens", re.IGNORECASE)  # fmt: skip
_TOTAL = re.compile(r"(?:requested|resulted in)[^.\d]{0,20}(\d+)", re.IGNORECASE)

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
        keys: judge → API key of its endpoint.
        max_cost: the budget, in the currency of ``price``.
        retry_failed: repeat the judgments that the endpoint failed to make.
    """

    concurrency: int = 16
    per_minute: float | None = None
    timeout: float = 120.0
    attempts: int = 6
    keys: Mapping[str, str | None] = field(default_factory=dict)
    price: Price | None = None
    max_cost: float | None = None
    retry_failed: bool = False

    @classmethod
    def of(cls, job: JudgeJobRequest) -> Settings:
        """Return the settings of a request, with the keys from the environment."""
        return cls(
            job.concurrency, job.rate, job.timeout, job.attempts, _keys(job.config.judges, job.judge_key_env),
            parse_price(job.price) if job.price else None, job.max_cost, job.retry_failed,
        )  # fmt: skip


def _keys(judges: Sequence[JudgeSpec], variables: Sequence[str]) -> dict[str, str | None]:
    """Return the key of every judge at an address: of its own variable, or of the common one if there is one server.

    Raises:
        MoemixError: a variable is not set, or several servers would get the same key.
    """
    addressed = [judge for judge in judges if judge.url]
    if variables:
        if len(variables) not in (1, len(addressed)):
            message = f"{len(variables)} --judge-key-env for {len(addressed)} judges with an address"
            raise MoemixError(message, hint="give one for each judge; `-` for a judge without a key")
        names = list(variables) * (len(addressed) if len(variables) == 1 else 1)
        if absent := [name for name in names if name != "-" and not api_key([name])]:
            raise MoemixError(f"the environment variable {absent[0]} is not set", where="--judge-key-env")
        keys = {judge.name: api_key([name]) for judge, name in zip(addressed, names, strict=True)}
        guarded = [judge for judge, name in zip(addressed, names, strict=True) if name != "-"]
        common = len(variables) == 1
    else:
        key = api_key(KEY_VARIABLES)
        guarded = [judge for judge in addressed if not is_loopback(str(judge.url))] if key else []
        guarded = guarded or (addressed if key else [])
        keys, common = {judge.name: key for judge in guarded}, True
    servers = {urlsplit(str(judge.url)).netloc for judge in guarded}
    if common and len(servers) > 1:
        raise MoemixError(f"one key would be sent to {len(servers)} servers: {', '.join(sorted(servers))}",
                          hint="give --judge-key-env NAME for each judge; `-` for a judge without a key")  # fmt: skip
    return keys


class Judge:
    """A judge at an endpoint.

    Args:
        client: of the endpoint.
        model: the judge's name there.
        engine: description of the engine, if we serve the judge.
        context: tokens of prompt and reply together, if they are known.
    """

    def __init__(
        self, client: Client, model: str, engine: Mapping[str, object] | None = None, context: int | None = None
    ) -> None:
        self.client, self.model, self.engine, self.context = client, model, engine, context

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
        limit = int(task.params["max_tokens"])
        prompt = len((task.prompt.system + task.prompt.user).encode("utf-8", "replace")) // 4  # tokens, about
        if self.context and limit + prompt > self.context:
            payload = _fitted(payload, max(self.context - prompt, _SMALLEST))
        billed, attempts, seconds, error = Usage(), 0, 0.0, None
        for _ in range(3):
            try:
                completion = self.client.complete("/chat/completions", payload, check=_useless, stop=stop)
            except RequestError as failed:
                error = failed
                billed, attempts, seconds = billed + error.billed, attempts + error.attempts, seconds + error.seconds
                asked = int(str(payload["max_tokens"]))
                room = _room(error.text, asked, prompt) if error.reason == "rejected" else None
                if room is None:
                    break
                payload = _fitted(payload, room)
                continue
            refusal = _refusal(completion)
            usage = billed + completion.billed
            return Reply(
                judgment=_shortened(refusal if isinstance(refusal, str) else completion.text),
                reason="refused" if refusal else None if completion.text.strip() else "cut_off",
                finish_reason=completion.finish_reason,
                prompt_tokens=usage.prompt_tokens,
                reply_tokens=usage.completion_tokens,
                attempts=attempts + completion.attempts,
                seconds=seconds + completion.seconds,
                structured="response_format" in completion.sent,
                omitted=completion.omitted,
                token_limit=int(str(payload["max_tokens"])),
            )
        assert error is not None
        if error.reason in _FATAL and not error.passing:
            hint = f"check the address, the name and the key, which is read from {' or '.join(KEY_VARIABLES)} or the "
            hint = f"{hint}variable in --judge-key-env" if error.reason == "denied" else RESUME_HINT
            where = f"{self.client.url} {self.model}"
            raise StageError(f"{_FATAL[error.reason]} ({error.detail})", where=where, hint=hint) from None
        return Reply(
            reason=error.reason, detail=error.detail, attempts=attempts, seconds=seconds, omitted=error.omitted,
            prompt_tokens=billed.prompt_tokens, reply_tokens=billed.completion_tokens,
        )  # fmt: skip


def _shortened(text: str) -> str:
    """Cut the middle out of a reply that no limit of its tokens explains; verdicts are at the end, or at the beginning.

    Reading millions of characters takes minutes, and every judgment is written to a file and to a page.
    """
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"


def _room(refusal: str, asked: int, usual: int) -> int | None:
    """Return how many tokens a reply may have by a refusal that names the context's length; None where it does not.

    ``asked`` were asked for, and the prompt has about ``usual``, for a refusal that does not say how many.
    """
    context = _CONTEXT.search(refusal)
    if context is None:
        return None
    if match := _PROMPT.search(refusal):
        prompt = int(next(number for number in match.groups() if number))
    elif match := _TOTAL.search(refusal):
        prompt = int(match.group(1)) - asked
    elif int(context.group(1)) < asked:
        prompt = min(usual, int(context.group(1)) - _SMALLEST - 1)
    else:
        return None
    room = int(context.group(1)) - prompt - 1
    return room if _SMALLEST <= room < asked else None


def _fitted(payload: Mapping[str, object], room: int) -> dict[str, object]:
    """Return a request with a shorter reply, and a schema whose explanation leaves room for the verdict."""
    fitted = {**payload, "max_tokens": room}
    if isinstance(asked := payload.get("response_format"), dict):
        named = asked["json_schema"]
        schema = named["schema"]
        explanation = {**schema["properties"]["explanation"], "maxLength": explanation_length(room)}
        properties = {**schema["properties"], "explanation": explanation}
        fitted["response_format"] = {**asked, "json_schema": {**named, "schema": {**schema, "properties": properties}}}
    return fitted


def _refusal(completion: Completion) -> object:
    """Return the text of a refusal, true for a reply stopped by a content filter, and a false value otherwise."""
    message = completion.choice.get("message")
    stated = message.get("refusal") if isinstance(message, Mapping) else None
    return stated or completion.finish_reason == "content_filter"


def _useless(completion: Completion) -> tuple[Reason, str] | None:
    if not isinstance(completion.choice.get("message"), Mapping) and "text" not in completion.choice:
        return "bad_reply", "a reply without a message"
    if completion.text.strip() or _refusal(completion) or completion.finish_reason == "length":
        return None  # a reply of thoughts alone that ended at its limit ends there again
    return "empty", "a reply without text"


@contextmanager
def open_judge(
    judge: JudgeSpec, request: JudgeSettings, out: Path, settings: Settings, budget: Budget | None = None
) -> Iterator[Judge]:
    """Open a judge: at its address, or, if it is a checkpoint, served with vLLM until the block ends.

    A checkpoint is served with the precision and the seed of the request; the server's log is in ``out``.
    """
    pace = Pace(settings.per_minute)
    if judge.url is not None:
        client = Client(
            judge.url, key=settings.keys.get(judge.name), timeout=settings.timeout, attempts=settings.attempts,
            pace=pace, optional=OPTIONAL, meter=budget,
        )  # fmt: skip
        yield Judge(client, judge.name)
        return
    from evals.engines.vllm_server import VllmEngine

    folder = out / f"serve-{safe_name(judge.name)}"
    with VllmEngine(Path(str(judge.checkpoint)), dtype=request.dtype, seed=request.seed, folder=folder) as engine:
        client = Client(f"{engine.server.url}/v1", timeout=SERVED_SECONDS, attempts=settings.attempts, pace=pace)
        yield Judge(client, engine.server.model, engine.describe(), engine.max_length)


def judge_address(url: str) -> str:
    """Return a judge's address in the form in which records keep it: up to the version, with its query.

    Raises:
        MoemixError: it is not an http(s) address, or it contains credentials.
    """
    address, query = base_url(url)
    return f"{address}?{query}" if query else address


def ask_all(works: Iterator[Work], journal: Journal, bar: Progress, *, concurrency: int) -> None:
    """Make judgments, at most ``concurrency`` at once, and write each line as soon as it is there.

    A line without a connection, or one that the endpoint forbids, is written only once another judgment was made, so
    that an endpoint that is gone does not appear as a hundred failed judgments. When this ends early, the judgments in
    progress are waited for and kept, since their replies are paid for.

    Raises:
        StageError: the endpoint is gone or refuses all requests, or the budget is used up.
    """
    held: list[Line] = []
    made = 0

    def make(work: Work, stop: threading.Event) -> Line:
        line = work(stop)
        if line["reason"] not in ("connection", "forbidden"):
            journal.add(line)
        return line

    with as_answered(works, make, concurrency=concurrency, finish=True) as answered:
        for _, future in answered:
            line = future.result()
            if line["reason"] in ("connection", "forbidden"):
                held.append(line)
            else:
                made += 1
                while held:
                    journal.add(held.pop(0))
            if len(held) >= UNREACHABLE:
                break
            bar.advance(note=f"{journal.failures} failed" if journal.failures else "")
    if held and (len(held) >= UNREACHABLE or not made):
        verb = "cannot be reached" if held[-1]["reason"] == "connection" else "refuses requests"
        raise StageError(f"the judge's endpoint {verb}: {held[-1]['detail']}", hint=RESUME_HINT)
    for line in held:
        journal.add(line)


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
        self.prompt_tokens += tokens_of(task.prompt.system + task.prompt.user) + 8
        self.reply_tokens += min(REPLY_TOKENS, task.params["max_tokens"])

    def as_text(self, price: Price | None) -> str:
        """Return the estimate as text, with the cost if there is a price."""
        text = f"{self.requests:,} requests, about {self.prompt_tokens:,} prompt and {self.reply_tokens:,} reply tokens"
        return f"{text}: about {price.of(self.prompt_tokens, self.reply_tokens):.2f}" if price else text


class Budget:
    """A limit on the cost of all requests.

    What a request may cost at most is set aside before it is sent: its prompt by its length, its reply by its limit.
    What it did cost, as the server counts it, takes that place. A server that counts more than was set aside is
    believed, and more is set aside from then on.

    Attributes:
        spent: what all replies have cost.
    """

    def __init__(self, limit: float, price: Price, spent: float = 0.0) -> None:
        self.limit, self.price, self.spent = limit, price, spent
        self._reserved, self._excess = 0.0, 1.0
        self._changed = threading.Condition()

    def check(self, estimate: Estimate) -> None:
        """Raise an error before anything is sent if the estimate exceeds the budget."""
        needed = self.spent + self.price.of(estimate.prompt_tokens, estimate.reply_tokens)
        if needed > self.limit:
            message = f"judging would cost about {needed:.4g}, and the budget is {self.limit:g}"
            hint = f"{estimate.as_text(self.price)}; raise the budget, or judge fewer questions (--limit)"
            raise MoemixError(message, where="--max-cost", hint=hint)

    @contextmanager
    def reserve(self, most: Usage, stop: threading.Event) -> Iterator[Callable[[Usage], None]]:
        """Set aside what a request may cost at most; wait for requests in progress where the rest depends on them.

        Raises:
            StageError: the budget does not have that much.
            RequestCancelledError: ``stop`` was set meanwhile.
        """
        expected = self.price.of(most.prompt_tokens, most.completion_tokens)
        with self._changed:
            while True:
                if stop.is_set():
                    raise RequestCancelledError
                amount = self._excess * expected
                if self.spent + self._reserved + amount <= self.limit:
                    break
                if not self._reserved:
                    message = f"the budget of {self.limit:g} does not cover another request (about {amount:.4g}): "
                    hint = "finished judgments are kept: run again with a larger budget"
                    raise StageError(f"{message}{self.spent:.4g} spent", where="--max-cost", hint=hint)
                self._changed.wait(0.5)
            self._reserved += amount
        used = Usage()

        def settle(usage: Usage) -> None:
            nonlocal used
            used = usage

        try:
            yield settle
        finally:
            with self._changed:
                cost = self.price.of(used.prompt_tokens, used.completion_tokens)
                self.spent += cost
                self._reserved = max(0.0, self._reserved - amount)
                if self._reserved < amount * 1e-9:
                    self._reserved = 0.0
                if expected:  # not relative to `amount`: requests in progress together would multiply their excesses
                    self._excess = max(self._excess, cost / expected)
                self._changed.notify_all()


def cost_of(line: Line, price: Price) -> float:
    """Return the cost of all requests of a judgment."""
    return price.of(line["prompt_tokens"], line["reply_tokens"])
