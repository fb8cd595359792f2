"""Convert rows to tokens: read, select, adapt, render, tokenise in batches, and count what became of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from harness.errors import MoemixError, unknown
from harness.progress import progress
from harness.recipe import Part, Source
from trainers.data.adapters import Conversation, MalformedRowError, Row, UnusableRowError, load_adapter
from trainers.data.reading import Located, read_part
from trainers.data.template import Encoder, Rendered
from trainers.data.tokens import SourceReport, TokenWriter

_BATCH = 512


def prepare(source: Source, encoder: Encoder, max_length: int, root: Path | None) -> Callable[[], TokenWriter]:
    """Check a source's options now, and return the function that reads and tokenises its files."""
    parts = [PartAdapter(part, f"source {source.name}") for part in source.parts]
    return lambda: _tokenise(source.name, parts, encoder, max_length, root)


class PartAdapter:
    """A part's adapter, and the selection of its rows.

    ``select``, an option of every adapter, keeps the rows whose columns have the given values:
    ``select: {label: true, task_id: {min: 601, max: 974}}``.
    """

    def __init__(self, part: Part, where: str) -> None:
        options: dict[str, object] = dict(part.options)
        select = options.pop("select", {})
        if not isinstance(select, Mapping):
            raise MoemixError("`select` should be a mapping of columns to values", where=where)
        for column, wanted in select.items():
            for bound in wanted if isinstance(wanted, Mapping) else ():
                if bound not in ("min", "max"):
                    raise unknown(f"bound of `select.{column}`:", bound, ("min", "max"), where=where)
        self.part, self._select = part, select
        self._adapter: Callable[[Row], object] = load_adapter(part.adapter, options, where=where)

    def wants(self, row: Row) -> bool:
        """Return whether ``select`` keeps the row.

        Raises:
            MalformedRowError: a column is missing or cannot be compared.
        """
        return all(self._matches(row, column, wanted) for column, wanted in self._select.items())

    def adapt(self, row: Row) -> str | Conversation:
        """Return the row as raw text that is not blank, or as a list of turns.

        Raises:
            MalformedRowError: the row does not have the format.
            UnusableRowError: the row has nothing to train on.
        """
        try:
            result = self._adapter(row)
        except (MalformedRowError, UnusableRowError, MoemixError):
            raise
        except Exception as error:  # a user's adapter may raise anything
            raise MalformedRowError(f"the adapter failed with {error!r}") from error
        if isinstance(result, str):
            if not result.strip():
                raise UnusableRowError("empty text")
            return result
        if not isinstance(result, list) or not all(_is_message(turn) for turn in result):
            raise MalformedRowError("the adapter should return text or a list of {role, content}")
        return result

    def render(self, row: Row, encoder: Encoder) -> Rendered:
        """Return the row as text to tokenise, without a blank system turn."""
        result = self.adapt(row)
        if isinstance(result, str):
            return Rendered(result)
        return encoder.render([turn for turn in result if turn["role"] != "system" or turn["content"].strip()])

    @staticmethod
    def _matches(row: Row, column: str, wanted: object) -> bool:
        if column not in row:
            raise MalformedRowError(f"the column `{column}` of `select` is missing")
        value = row[column]
        if not isinstance(wanted, Mapping):
            return bool(value == wanted)
        try:
            return bool(wanted.get("min", value) <= value <= wanted.get("max", value))
        except TypeError:
            raise MalformedRowError(f"`{column}` cannot be compared with the bounds in `select`: {value!r}") from None


def _is_message(turn: object) -> bool:
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
    report = writer.report
    if not report.examples and not report.bad:
        raise MoemixError("`select` leaves no row", where=f"source {name}")
    if not report.examples:
        commonest = max(report.bad, key=lambda reason: report.bad[reason])
        message = f"no row of source {name} can be trained on: {report.describe_bad()}"
        raise MoemixError(message, where=report.bad_at[commonest][0])
    return writer


def _render_rows(
    part: PartAdapter, rows: Iterator[Located], encoder: Encoder, report: SourceReport
) -> Iterator[tuple[Rendered | None, str]]:
    """Yield each row as text, or None if it was left out; count it in either case."""
    for row, where in rows:
        report.rows += 1
        rendered = None
        try:
            if part.wants(row):
                rendered = part.render(row, encoder)
            else:
                report.not_selected += 1
        except UnusableRowError as reason:
            report.count_bad(str(reason), where)
        except MalformedRowError as reason:
            raise MoemixError(f"the row is not in the format `{part.part.adapter}`: {reason}", where=where) from reason
        yield rendered, where


def _encode(waiting: list[tuple[Rendered, str]], encoder: Encoder, max_length: int, writer: TokenWriter) -> None:
    encoded = encoder.encode([rendered for rendered, _ in waiting])
    for result, (_, where) in zip(encoded, waiting, strict=True):
        if isinstance(result, UnusableRowError):
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
