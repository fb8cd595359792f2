"""Rows to tokens: read, select, adapt, render, tokenise in batches, and count what became of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import MoemixError, unknown
from harness.progress import progress
from harness.recipe import Part, Source
from trainers.data.adapters import Adapter, load_adapter
from trainers.data.conversation import Conversation, Malformed, Unusable
from trainers.data.reading import Located, read_part
from trainers.data.template import Encoder, Rendered
from trainers.data.tokens import SourceReport, TokenWriter

_BATCH = 512


def prepare(source: Source, encoder: Encoder, max_length: int, root: Path | None) -> Callable[[], TokenWriter]:
    """The work of tokenising a source, its options checked at once, its files read when it is called."""
    parts = [PartAdapter(part, f"source {source.name}") for part in source.parts]
    return lambda: _tokenise(source.name, parts, encoder, max_length, root)


class PartAdapter:
    """A part's adapter, and the rows it is for.

    ``select``, an option of every adapter, keeps the rows whose columns have the values given:
    ``select: {label: true, task_id: {min: 601, max: 974}}``.
    """

    def __init__(self, part: Part, where: str) -> None:
        options = dict(part.options)
        self.part = part
        self._select = options.pop("select", {})
        if not isinstance(self._select, Mapping):
            raise MoemixError("`select` should be a mapping of columns to values", where=where)
        for column, wanted in self._select.items():
            for bound in wanted if isinstance(wanted, Mapping) else ():
                if bound not in ("min", "max"):
                    raise unknown(f"bound of `select.{column}`:", bound, ("min", "max"), where=where)
        self._adapter: Adapter = load_adapter(part.adapter, options, where=where)

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Whether ``select`` keeps the row."""
        return all(self._matches(row, column, wanted) for column, wanted in self._select.items())

    def adapt(self, row: Mapping[str, Any]) -> str | Conversation:
        """The row as the adapter reads it: raw text that is not blank, or turns."""
        try:
            made: Any = self._adapter(row)
        except (Malformed, Unusable, MoemixError):
            raise
        except Exception as error:  # an adapter of one's own may raise anything
            raise Malformed(f"the adapter failed with {error!r}") from error
        if isinstance(made, str):
            if not made.strip():
                raise Unusable("empty text")
            return made
        if not isinstance(made, list) or not all(_is_message(turn) for turn in made):
            raise Malformed("the adapter should return text or a list of {role, content}")
        return made

    def render(self, row: Mapping[str, Any], encoder: Encoder) -> Rendered:
        """The row as text to tokenise. A blank system turn says nothing and is left out."""
        made = self.adapt(row)
        if isinstance(made, str):
            return Rendered(made)
        return encoder.render([turn for turn in made if turn["role"] != "system" or turn["content"].strip()])

    @staticmethod
    def _matches(row: Mapping[str, Any], column: str, wanted: Any) -> bool:
        if column not in row:
            raise Malformed(f"`{column}`, which `select` asks for, is missing")
        value = row[column]
        if not isinstance(wanted, Mapping):
            return bool(value == wanted)
        try:
            return bool(wanted.get("min", value) <= value <= wanted.get("max", value))
        except TypeError:
            raise Malformed(f"`{column}` cannot be compared with the bounds in `select`: {value!r}") from None


def _is_message(turn: Any) -> bool:
    return isinstance(turn, Mapping) and all(isinstance(turn.get(key), str) for key in ("role", "content"))


def _tokenise(
    name: str, parts: Iterable[PartAdapter], encoder: Encoder, max_length: int, root: Path | None
) -> TokenWriter:
    writer = TokenWriter()
    readings = [(part, *read_part(part.part, root=root, source=name)) for part in parts]
    with progress(f"tokenising {name}", sum(count for _, count, _ in readings)) as bar:
        for part, _, rows in readings:
            waiting: list[tuple[Rendered, str]] = []
            for rendered, where in _render_rows(part, rows, encoder, writer.report):
                if rendered is not None:
                    waiting.append((rendered, where))
                if len(waiting) == _BATCH:
                    _encode(waiting, encoder, max_length, writer)
                    waiting = []
                bar.advance()
            _encode(waiting, encoder, max_length, writer)
    if not writer.report.examples:
        raise _nothing_usable(name, writer.report)
    return writer


def _render_rows(
    part: PartAdapter, rows: Iterator[Located], encoder: Encoder, report: SourceReport
) -> Iterator[tuple[Rendered | None, str]]:
    """Each row as text, or none where it was left out; counted either way."""
    for row, where in rows:
        report.rows += 1
        rendered = None
        try:
            if part.wants(row):
                rendered = part.render(row, encoder)
            else:
                report.not_selected += 1
        except Unusable as reason:
            report.count_bad(str(reason), where)
        except Malformed as reason:
            raise MoemixError(f"not in the format `{part.part.adapter}`: {reason}", where=where) from reason
        yield rendered, where


def _encode(waiting: list[tuple[Rendered, str]], encoder: Encoder, max_length: int, writer: TokenWriter) -> None:
    encoded = encoder.encode([rendered for rendered, _ in waiting])
    for result, (_, where) in zip(encoded, waiting, strict=True):
        if isinstance(result, Unusable):
            writer.report.count_bad(str(result), where)
            continue
        input_ids, is_target = result
        if is_target[:max_length].any():
            writer.report.truncated += len(input_ids) > max_length
            writer.add(input_ids[:max_length], is_target[:max_length])
        elif is_target.any():
            writer.report.count_bad(f"no answer within {max_length} tokens", where)
        else:
            writer.report.count_bad("a single token", where)


def _nothing_usable(name: str, report: SourceReport) -> MoemixError:
    if not report.bad:
        return MoemixError("`select` leaves no row", where=f"source {name}")
    commonest = max(report.bad, key=lambda reason: report.bad[reason])
    return MoemixError(
        f"no row of source {name} can be trained on: {report.describe_bad()}", where=report.bad_at[commonest][0]
    )
