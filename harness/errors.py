"""Errors that a user can correct: what is wrong, where, what is accepted, and the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_SHOWN = 30  # problems in one message


class MoemixError(Exception):
    """A mistake in the input or the environment, described for the person who can correct it.

    The command line prints it without a traceback and exits with ``exit_code``.

    Args:
        message: what is wrong, in one sentence.
        where: the file, line or key it concerns (``data/chat.jsonl:17``, ``training.steps``).
        hint: what was expected, or what to do next.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text


class ProblemsError(MoemixError):
    """Several mistakes, reported together; each keeps its place and remedy."""

    def __init__(self, problems: Sequence[MoemixError]) -> None:
        self.problems = tuple(problems)
        more = [f"… and {len(self.problems) - _SHOWN} more"] if len(self.problems) > _SHOWN else []
        super().__init__("\n".join([f"{len(self.problems)} problems", *map(str, self.problems[:_SHOWN]), *more]))


def raise_all(problems: Sequence[MoemixError]) -> None:
    """Raise the problems together, each once; do nothing if there is none."""
    distinct = list({str(problem): problem for problem in problems}.values())
    if distinct:
        raise distinct[0] if len(distinct) == 1 else ProblemsError(distinct)


class StageError(MoemixError):
    """The input was valid and the work still failed (a server died, a loss became NaN, a disk filled)."""

    exit_code = 1


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a sentence that names the closest valid choice, then all of them: for ``hint=``.

    >>> nearest("unifrom", ["uniform", "dynamic"])
    "did you mean 'uniform'? valid: dynamic, uniform"
    """
    ordered = sorted(choices)
    close = difflib.get_close_matches(name, ordered, n=1, cutoff=0.5)
    listing = f"valid: {', '.join(ordered)}" if ordered else "there are none"
    return f"did you mean {close[0]!r}? {listing}" if close else listing


def unknown(kind: str, name: str, choices: Iterable[str], *, where: str | None = None) -> MoemixError:
    """Return the error for a name that does not exist, with its nearest neighbour."""
    return MoemixError(f"unknown {kind} {name!r}", where=where, hint=nearest(name, choices))
