"""Rows become tokens: adapted, rendered and tokenised in batches, by several processes where there are many."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

from harness.recipe import Part
from trainers.data.answers import Rendered
from trainers.data.conversation import MalformedRowError, UnusableRowError
from trainers.data.encoder import Encoder, Tokens
from trainers.data.located import Located
from trainers.data.parts import OpenPart, PartAdapter

_BATCH = 512  # rows tokenised at once
_WORTH_PROCESSES = 20_000  # rows; starting a process takes as long as a few thousand
PROCESSES = "MOEMIX_TOKENISING_PROCESSES"
NOT_IN_FORMAT = "not in the format"
"""How the reasons of rows that break their format begin."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: tokens, or why there are none.

    Attributes:
        tokens: ids and targets, before they are cut to a length.
        reason: why it is left out, and ``malformed``, whether it breaks its format.
        skipped: whether ``select`` leaves it out.
        notes: what was changed in it.
        rendered: its text and spans, if the caller asked for them.
    """

    where: str
    tokens: Tokens | None = None
    reason: str = ""
    malformed: bool = False
    skipped: bool = False
    notes: tuple[str, ...] = ()
    rendered: Rendered | None = None

    def reason_left_out(self, adapter: str, max_length: int) -> str:
        """Return why the row is left out when examples are cut to ``max_length`` tokens; empty if it is not."""
        if self.malformed:
            return f"{NOT_IN_FORMAT} `{adapter}`: {self.reason}"
        if self.tokens is None:
            return self.reason
        is_target = self.tokens[1]
        if not is_target.any():
            return "a single token"
        return "" if is_target[:max_length].any() else f"no answer within {max_length} tokens"


def tokenised(
    part: OpenPart, rows: Iterable[Located], count: int, encoder: Encoder, *, keep_text: bool = False
) -> Iterator[Outcome]:
    """Yield what became of each of about ``count`` rows of a part, in their order."""
    source = iter(rows)
    batches = iter(lambda: list(itertools.islice(source, _BATCH)), [])
    processes = _processes() if count >= _WORTH_PROCESSES else 1
    if processes < 2:
        for batch in batches:
            yield from _tokenise(batch, part.adapter, encoder, keep_text)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch and tokenizers half-way
    start = (part.adapter.part, encoder)
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin, initargs=start) as pool:
        waiting: deque[Future[list[Outcome]]] = deque()
        for batch in batches:
            waiting.append(pool.submit(_work, batch, keep_text))
            if len(waiting) > 2 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _processes() -> int:
    """Return the processes for tokenising: as many as this job has cores."""
    given = os.environ.get(PROCESSES) or os.environ.get("OMP_NUM_THREADS")
    return int(given) if given and given.isdigit() else min(16, len(os.sched_getaffinity(0)))


_here: list[tuple[PartAdapter, Encoder]] = []


def _begin(part: Part, encoder: Encoder) -> None:
    """Begin a process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _here.append((PartAdapter(part, ""), encoder))


def _work(batch: Sequence[Located], keep_text: bool) -> list[Outcome]:
    return _tokenise(batch, *_here[0], keep_text)


def _tokenise(batch: Sequence[Located], adapter: PartAdapter, encoder: Encoder, keep_text: bool) -> list[Outcome]:
    outcomes: list[Outcome | Rendered] = []
    for row, where in batch:
        try:
            if (content := adapter.read(row)) is None:
                outcomes.append(Outcome(where, skipped=True))
            else:
                part = adapter.part
                outcomes.append(encoder.render(content, control=part.control_strings, system=part.system))
        except UnusableRowError as reason:
            outcomes.append(Outcome(where, reason=str(reason)))
        except MalformedRowError as reason:
            outcomes.append(Outcome(where, reason=str(reason), malformed=True))
    rendered = [outcome for outcome in outcomes if isinstance(outcome, Rendered)]
    encoded = iter(encoder.encode(rendered))
    finished = []
    for outcome, (_, where) in zip(outcomes, batch, strict=True):
        if isinstance(outcome, Rendered):
            result = next(encoded)
            text = outcome if keep_text else None
            if isinstance(result, UnusableRowError):
                outcome = Outcome(where, reason=str(result), rendered=text)
            else:
                outcome = Outcome(where, result, notes=outcome.notes, rendered=text)
        finished.append(outcome)
    return finished
