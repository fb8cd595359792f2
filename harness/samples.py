"""Read lm-evaluation-harness's samples files, ``samples_<task>.jsonl``: one line per question and answer filter.

A line is a JSON object with the question (``doc``), its right answer (``target``), the requests (``arguments``), the
model's responses before and after the filter, hashes, and each metric's value under the metric's own name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError

FIELDS = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "doc_hash", "target_hash")
"""The fields that lm-eval always writes. ``prompt_hash`` and ``metrics`` came with later versions."""


@dataclass(slots=True)
class Sample:
    """A question and how it was answered, after one answer filter.

    Attributes:
        where: file and line, for error messages.
        doc_id: the question's number in its task.
        filter: name of the answer filter.
        record: the whole line as it was read.
    """

    where: str
    doc_id: int
    filter: str
    record: Mapping[str, object]

    @property
    def doc(self) -> object:
        """The question as the data set has it."""
        return self.field("doc")

    @property
    def doc_hash(self) -> str:
        """The hash of the question."""
        return self._text("doc_hash")

    @property
    def target(self) -> object:
        """The right answer."""
        return self.field("target")

    @property
    def target_hash(self) -> str:
        """The hash of the right answer."""
        return self._text("target_hash")

    @property
    def prompt_hash(self) -> str:
        """The hash of the prompt."""
        return self._text("prompt_hash")

    @property
    def responses(self) -> object:
        """The model's responses: for each request a list with one item per repeat."""
        return self.field("resps")

    @property
    def filtered(self) -> object:
        """The responses after the filter."""
        return self.field("filtered_resps")

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that the line holds; empty where lm-eval did not list them."""
        names = self.record.get("metrics", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise MoemixError("`metrics` must be a list of names", where=self.where)
        return names

    @property
    def requests(self) -> list[list[object]]:
        """The arguments of each request: prompt and continuation, or prompt and generation options."""
        named = self.field("arguments")
        try:
            parts = [named[f"gen_args_{i}"] for i in range(len(named))]  # type: ignore[index, arg-type]
            return [[part[f"arg_{j}"] for j in range(len(part))] for part in parts]
        except (KeyError, TypeError):
            raise MoemixError(
                "`arguments` do not have lm-eval's form (gen_args_0, arg_0, …)", where=self.where
            ) from None

    @property
    def choices(self) -> list[str]:
        """The continuations whose log-likelihoods were asked for; none of a generated answer."""
        return [request[1] for request in self.requests if len(request) > 1 and isinstance(request[1], str)]

    @property
    def likelihoods(self) -> list[float]:
        """The log-likelihoods of the choices; none of a generated answer."""
        responses = self.responses if isinstance(self.responses, list) else []
        pairs = [reply[0] for reply in responses if isinstance(reply, list) and reply]
        return [float(str(pair[0])) for pair in pairs if isinstance(pair, list) and pair]

    @property
    def right(self) -> object:
        """The right answer: of choices that are named by their numbers, the text."""
        choices, target = self.choices, str(self.target)
        return choices[int(target)] if target.isdecimal() and int(target) < len(choices) else self.target

    @property
    def chosen(self) -> str | None:
        """The choice with the highest log-likelihood; None where there are not several."""
        choices, values = self.choices, self.likelihoods
        return choices[values.index(max(values))] if 1 < len(choices) == len(values) else None

    def score(self, metric: str, *, allow_booleans: bool = True) -> float:
        """Return the value of a metric; ``true`` and ``false``, which some metrics of lm-eval write, are 1 and 0.

        Raises:
            MoemixError: the metric is missing, or its value is not a finite number.
        """
        value = self.field(metric)
        if (
            not isinstance(value, int | float)
            or not math.isfinite(value)
            or (isinstance(value, bool) and not allow_booleans)
        ):
            shown = str(value)[:60]
            raise MoemixError(f"`{metric}` of question {self.doc_id} is not a number: {shown}", where=self.where)
        return float(value)

    def field(self, name: str) -> object:
        """Return a field of the line.

        Raises:
            MoemixError: the line has no such field.
        """
        if name not in self.record:
            raise MoemixError(f"`{name}` is missing", where=self.where)
        return self.record[name]

    def _text(self, name: str) -> str:
        value = self.field(name)
        if not isinstance(value, str):
            raise MoemixError(f"`{name}` must be a text", where=self.where)
        return value


def read_samples(path: Path) -> Iterator[Sample]:
    """Read a samples file of our own line by line.

    Use :func:`parse_samples` with a reader that has limits for a file that somebody else wrote.

    Raises:
        MoemixError: the file does not exist, or a line is not a sample, with file and line.
    """
    return parse_samples(_lines(path))


def parse_samples(lines: Iterable[tuple[str, object]], *, required: Iterable[str] = ()) -> Iterator[Sample]:
    """Make samples of parsed lines, each with its place (``file:line``).

    ``required`` are fields that each line must have, besides ``doc_id`` and ``filter``; :data:`FIELDS` for all.

    Raises:
        MoemixError: a line is not an object, lacks a field, or repeats a question after the same filter.
    """
    needed = {"doc_id", "filter", *required}
    seen: dict[str, set[int]] = {}
    for where, record in lines:
        if not isinstance(record, dict):
            raise MoemixError("a sample is a JSON object", where=where)
        if not needed <= record.keys():
            raise MoemixError(f"`{min(needed - record.keys())}` is missing", where=where)
        doc_id, filter_name = record["doc_id"], record["filter"]
        if type(doc_id) is not int or not isinstance(filter_name, str):
            raise MoemixError("`doc_id` must be a whole number and `filter` a text", where=where)
        numbers = seen.setdefault(filter_name, set())
        if doc_id in numbers:
            raise MoemixError(f"question {doc_id} comes twice", where=where)
        numbers.add(doc_id)
        yield Sample(where, doc_id, filter_name, record)


def _lines(path: Path) -> Iterator[tuple[str, object]]:
    """Yield place and value of every line that is not empty."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed below)
    except FileNotFoundError:
        raise MoemixError("the samples of an evaluated task are missing", where=str(path)) from None
    with file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise MoemixError(f"not valid JSON: {error}", where=f"{path}:{number}") from None
                yield f"{path}:{number}", value
