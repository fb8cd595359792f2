"""What judging will cost, told before it starts, and a limit that it does not pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evals.judge.prompts import Prompt
from harness.errors import MoemixError, StageFailed

CHARACTERS_PER_TOKEN = 3.5  # English under today's tokenizers has 4 and more: an estimate on the high side
REPLY_TOKENS = 350  # of a judgment with its explanation, unless the limit is lower


@dataclass(frozen=True)
class Price:
    """In any one currency, per million tokens."""

    prompt: float
    reply: float

    def of(self, prompt_tokens: int, reply_tokens: int) -> float:
        return (self.prompt * prompt_tokens + self.reply * reply_tokens) / 1e6


@dataclass
class Estimate:
    """Requests still to be sent and what they come to, without retries."""

    requests: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0

    def add(self, prompt: Prompt, params: Mapping[str, Any]) -> None:
        self.requests += 1
        self.prompt_tokens += round(len(prompt.system + prompt.user) / CHARACTERS_PER_TOKEN) + 8
        self.reply_tokens += min(REPLY_TOKENS, params["max_tokens"])

    def words(self, price: Price | None) -> str:
        text = f"{self.requests:,} requests, about {self.prompt_tokens:,} prompt and {self.reply_tokens:,} reply tokens"
        return f"{text}: about {price.of(self.prompt_tokens, self.reply_tokens):.2f}" if price else text


def parse_price(text: str) -> Price:
    """``IN,OUT`` per million tokens."""
    try:
        prompt, reply = (float(part) for part in text.split(","))
    except ValueError:
        raise MoemixError(
            f"{text!r} is not a price",
            where="--price",
            hint="expected IN,OUT, for a million prompt and a million reply tokens: 2.5,10",
        ) from None
    if prompt < 0 or reply < 0:
        raise MoemixError("a price is not negative", where="--price")
    return Price(prompt, reply)


@dataclass
class Budget:
    """A limit in money. Spending is counted from what the endpoint says it used, else from the estimate."""

    limit: float
    price: Price
    spent: float = 0.0

    def check(self, estimate: Estimate) -> None:
        """Refuse to start what will not fit."""
        needed = self.spent + self.price.of(estimate.prompt_tokens, estimate.reply_tokens)
        if needed > self.limit:
            raise MoemixError(
                f"judging would cost about {needed:.4g}, and the budget is {self.limit:g}",
                where="--max-cost",
                hint=f"{estimate.words(self.price)}; raise the budget, or judge fewer questions (--limit)",
            )

    def spend(self, line: Mapping[str, Any]) -> None:
        """Count a judgment, and stop before the next ones could pass the limit."""
        self.spent += cost([line], self.price)
        if self.spent > self.limit:
            raise StageFailed(
                f"the budget of {self.limit:g} is used up (about {self.spent:.4g} spent)",
                where="--max-cost",
                hint="what was judged is kept: run again with a larger budget",
            )


def cost(lines: Iterable[Mapping[str, Any]], price: Price) -> float:
    """What judgments cost. Failed attempts are billed nowhere that we know of, and not counted."""
    total = 0.0
    for line in lines:
        if line.get("attempts"):
            prompt = line["prompt_tokens"] or len(line["system_prompt"] + line["user_prompt"]) / CHARACTERS_PER_TOKEN
            reply = line["reply_tokens"] or len(line["judgment"]) / CHARACTERS_PER_TOKEN
            total += price.of(round(prompt), round(reply))
    return total
