"""The cost of judging: prices, an estimate before anything is sent, and a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evals.judge.records import Line, Params, Prompt
from harness.errors import MoemixError, StageFailed

CHARACTERS_PER_TOKEN = 3.5  # English has 4 and more with current tokenizers, so estimates are rather too high
REPLY_TOKENS = 350  # of a judgment with its explanation, unless the limit is lower


@dataclass(frozen=True)
class Price:
    """The price of a million tokens, in any one currency."""

    prompt: float
    reply: float

    def of(self, prompt_tokens: float, reply_tokens: float) -> float:
        """Return the cost of so many tokens."""
        return (self.prompt * prompt_tokens + self.reply * reply_tokens) / 1e6


@dataclass
class Estimate:
    """Requests still to be sent and their tokens, without retries."""

    requests: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0

    def add(self, prompt: Prompt, params: Params) -> None:
        """Count a request."""
        self.requests += 1
        self.prompt_tokens += round(len(prompt.system + prompt.user) / CHARACTERS_PER_TOKEN) + 8
        self.reply_tokens += min(REPLY_TOKENS, params["max_tokens"])

    def as_text(self, price: Price | None) -> str:
        """Return the estimate as text, with the cost if there is a price."""
        text = f"{self.requests:,} requests, about {self.prompt_tokens:,} prompt and {self.reply_tokens:,} reply tokens"
        return f"{text}: about {price.of(self.prompt_tokens, self.reply_tokens):.2f}" if price else text


def parse_price(text: str) -> Price:
    """Parse ``IN,OUT``, the prices of a million prompt and a million reply tokens.

    Raises:
        MoemixError: the text is not two numbers, or one of them is negative.
    """
    try:
        prompt, reply = (float(part) for part in text.split(","))
        valid = 0 <= prompt < math.inf and 0 <= reply < math.inf
    except ValueError:
        valid = False
    if not valid:
        raise MoemixError(
            f"{text!r} is not a price",
            where="--price",
            hint="expected IN,OUT, the prices of a million prompt and a million reply tokens, such as 2.5,10",
        )
    return Price(prompt, reply)


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
            raise MoemixError(
                f"judging would cost about {needed:.4g}, and the budget is {self.limit:g}",
                where="--max-cost",
                hint=f"{estimate.as_text(self.price)}; raise the budget, or judge fewer questions (--limit)",
            )

    def spend(self, line: Line) -> None:
        """Add the cost of a judgment.

        Raises:
            StageFailed: the budget is used up.
        """
        self.spent += cost_of(line, self.price)
        if self.spent > self.limit:
            raise StageFailed(
                f"the budget of {self.limit:g} is used up (about {self.spent:.4g} spent)",
                where="--max-cost",
                hint="finished judgments are kept: run the same command again with a larger budget",
            )


def cost_of(line: Line, price: Price) -> float:
    """Return the cost of a judgment; requests that got no reply are not counted."""
    if not line.get("attempts"):
        return 0.0
    prompt = line["prompt_tokens"] or len(line["system_prompt"] + line["user_prompt"]) / CHARACTERS_PER_TOKEN
    reply = line["reply_tokens"] or len(line["judgment"]) / CHARACTERS_PER_TOKEN
    return price.of(round(prompt), round(reply))
