"""What training would see of its sources: counts, lengths, duplicates, and examples with their targets marked."""

from __future__ import annotations

import html
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from harness.chat_templates import chat_template
from harness.errors import MoemixError
from harness.plan import make_world
from harness.recipe import Part, Recipe, Source, TinyModel
from harness.recipe_file import load_recipe
from harness.sources import is_data
from harness.stages import Finding
from harness.store import Store, data_root, store_root
from trainers.data.encoder import Encoder, Tokens
from trainers.data.parts import open_part
from trainers.data.rows import NOT_IN_FORMAT, tokenised
from trainers.data.sources import most_malformed
from trainers.data.tokens import SourceReport, key_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS = 10_000  # rows of a source that are tokenised, evenly spread
_EXAMPLES = 3
_SHOWN = 2_000  # characters of an example
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}
"""What stands for characters that would control the terminal."""


class Segment(TypedDict):
    """A piece of an example, and whether the model learns to write it."""

    text: str
    target: bool


class Shown(TypedDict):
    """An example as training sees it, before it is cut."""

    where: str
    tokens: int
    truncated: bool
    segments: list[Segment]


class SourcePreview(TypedDict):
    """What training would see of a source.

    ``rows`` are those of the files, of which ``looked_at`` were tokenised; all other numbers are of these. Lengths are
    tokens: the median, the 90th percentile and the largest.
    """

    name: str
    adapter: str
    rows: int
    looked_at: int
    kept: int
    left_out: dict[str, int]
    places: dict[str, list[str]]
    not_selected: int
    changed: dict[str, int]
    truncated: int
    max_length: int
    lengths: list[int]
    lengths_cut: list[int]
    target_share: float
    duplicates: int
    in_other_sources: int
    control_strings: dict[str, int]
    examples: list[Shown]


class Preview(TypedDict):
    """The sources, and the tokenizer and template that rendered them."""

    tokenizer: str
    sources: list[SourcePreview]


def preview(  # noqa: PLR0913  (keywords, each with a default)
    target: str,
    *,
    adapter: str | None = None,
    options: Mapping[str, object] | None = None,
    tokenizer: str | None = None,
    template: str | None = None,
    max_length: int | None = None,
    root: str | None = None,
    store: str | None = None,
    rows: int = _ROWS,
) -> Preview:
    """Read the sources of a recipe, or a data file, as training would.

    Args:
        target: a recipe or a data file.
        adapter: the adapter of a data file; by default the one that its rows ask for.
        options: the adapter's options.
        tokenizer: a checkpoint whose tokenizer and chat template are used; by default the recipe's first model.
        template: another chat template: the name of a shipped one, a file, or Jinja.
        max_length: the length to which examples are cut; by default the recipe's.
        root: the data root.
        store: the run store.
        rows: the rows of each source that are tokenised, evenly spread over it.

    Raises:
        MoemixError: a source cannot be read, or the tokenizer cannot be loaded.
    """
    if is_data(Path(target)):
        part = Part(adapter=adapter or "auto", files=(str(Path(target).resolve()),), options=dict(options or {}))
        sources: Sequence[Source] = (Source(name=Path(target).name, parts=(part,)),)
        length, folder = max_length or 2048, data_root(root)
        label, made = _tokenizer(None, tokenizer)
    else:
        if adapter:
            raise MoemixError("a recipe names its adapters itself", where=target, hint="leave out --adapter")
        recipe = load_recipe(target, ())
        sources, length = recipe.data.sources, max_length or recipe.training.max_length
        folder = make_world(recipe, Store(store_root(store))) if recipe.data.world else data_root(root)
        label, made = _tokenizer(recipe, tokenizer)
    if template is not None:
        made.chat_template = chat_template(template)
    encoder = Encoder(made)
    keys: dict[str, Counter[int]] = {}
    previews = [_source(source, encoder, length, folder, rows, keys) for source in sources]
    for one in previews:
        others = set().union(*(counts for other, counts in keys.items() if other != one["name"]))
        one["in_other_sources"] = sum(count for key, count in keys[one["name"]].items() if key in others)
    return {"tokenizer": label, "sources": previews}


def examine(name: str, root: str | None, store: str | None) -> Iterator[Finding]:
    """Yield a finding for each source of a recipe; what would stop training is not all right."""
    recipe = load_recipe(name, ())
    try:
        encoder = Encoder(_tokenizer(recipe, None)[1])
        folder = make_world(recipe, Store(store_root(store))) if recipe.data.world else data_root(root)
    except MoemixError as error:
        yield f"recipe {name}", False, str(error)
        return
    for source in recipe.data.sources:
        try:
            found = _source(source, encoder, recipe.training.max_length, folder, _ROWS, {})
        except MoemixError as error:
            yield f"  {source.name}", False, str(error)
            continue
        title, *rest = (line.strip() for line in facts(found))
        malformed = sum(count for reason, count in found["left_out"].items() if reason.startswith(NOT_IN_FORMAT))
        allowed = most_malformed(source.bad_rows_limit, found["looked_at"]) if source.bad_rows == "skip" else 0
        yield f"  {source.name}", found["kept"] > 0 and malformed <= allowed, "; ".join([title, *rest])


def _tokenizer(recipe: Recipe | None, given: str | None) -> tuple[str, PreTrainedTokenizerBase]:
    """Return the name and the tokenizer of a checkpoint, or of a recipe's first model."""
    from trainers.making.tokenizer import train_tokenizer
    from trainers.models.checkpoints import load_tokenizer

    if given:
        return given, load_tokenizer(given)
    model = recipe.models[0] if recipe else None
    if model is None or isinstance(model, TinyModel):
        return "one byte a token, ChatML (moemix's own)", train_tokenizer((), vocab_size=0, max_length=0)
    loaded = load_tokenizer(model.source, model.revision)
    if model.chat_template is not None:
        loaded.chat_template = chat_template(model.chat_template)
    return model.source, loaded


def _source(
    source: Source, encoder: Encoder, max_length: int, root: Path | None, limit: int, keys: dict[str, Counter[int]]
) -> SourcePreview:
    """Tokenise rows of a source, and count what became of them."""
    report, mine = SourceReport(), keys.setdefault(source.name, Counter())
    opened = [open_part(part, root=root, source=source.name) for part in source.parts]
    report.rows = sum(part.rows.count for part in opened)
    step = max(1, -(-report.rows // limit))
    lengths: list[int] = []
    controls: Counter[str] = Counter()
    examples: list[Shown] = []
    looked_at = 0
    for part in opened:
        chosen = np.arange(part.rows.count) % step == 0
        shown = len(examples) + _EXAMPLES
        for outcome in tokenised(part, part.rows.chosen(chosen), int(chosen.sum()), encoder, keep_text=True):
            looked_at += 1
            report.not_selected += outcome.skipped
            if reason := outcome.reason_left_out(part.adapter.part.adapter, max_length):
                report.count_bad(reason, outcome.where)
            if outcome.tokens is None or reason:
                continue
            input_ids = outcome.tokens[0]
            lengths.append(len(input_ids))
            mine[key_of(input_ids[:max_length])] += 1
            report.add(outcome.tokens, max_length, outcome.notes)
            if (rendered := outcome.rendered) is not None:
                raw = encoder.control_strings(rendered.text) if rendered.spans is None else ()
                controls.update(rendered.control or raw)
            if len(examples) < shown:
                examples.append(
                    {
                        "where": outcome.where,
                        "tokens": len(input_ids),
                        "truncated": len(input_ids) > max_length,
                        "segments": _segments(encoder, outcome.tokens),
                    }
                )
    return {
        "name": source.name,
        "adapter": ", ".join(dict.fromkeys(part.adapter.part.adapter for part in opened)),
        "rows": report.rows,
        "looked_at": looked_at,
        "kept": report.examples,
        "left_out": report.bad,
        "places": report.bad_at,
        "not_selected": report.not_selected,
        "changed": report.notes,
        "truncated": report.truncated,
        "max_length": max_length,
        "lengths": _spread(lengths),
        "lengths_cut": _spread([min(length, max_length) for length in lengths]),
        "target_share": report.target_tokens / report.tokens if report.tokens else 0.0,
        "duplicates": report.examples - len(mine),
        "in_other_sources": 0,
        "control_strings": dict(controls.most_common()),
        "examples": examples,
    }


def _spread(lengths: list[int]) -> list[int]:
    """Return the median, the 90th percentile and the largest of some lengths."""
    return [int(np.percentile(lengths, q, method="higher")) for q in (50, 90, 100)] if lengths else [0, 0, 0]


def _segments(encoder: Encoder, tokens: Tokens) -> list[Segment]:
    """Return the text of an example, in pieces that are learnt or not; a long one is cut in the middle of a piece."""
    segments: list[Segment] = []
    room = _SHOWN
    for target, group in itertools.groupby(
        zip(*(array.tolist() for array in tokens), strict=True), lambda pair: pair[1]
    ):
        text = str(encoder.tokenizer.decode([token for token, _ in group], skip_special_tokens=False))
        segments.append({"text": text if len(text) <= room else f"{text[:room]}…", "target": bool(target)})
        room -= len(text)
        if room <= 0:
            break
    return segments


# --- for people -------------------------------------------------------------------------------------


def lines(found: Preview, colour: bool) -> Iterator[str]:
    """Yield a preview as text; targets are coloured, or stand between ⟦ and ⟧."""
    opening, closing = ("\x1b[32m", "\x1b[0m") if colour else ("⟦", "⟧")
    yield f"tokenizer and chat template: {found['tokenizer']}"
    for source in found["sources"]:
        yield ""
        yield from facts(source)
        for example in source["examples"]:
            cut = f", cut to {source['max_length']}" if example["truncated"] else ""
            yield f"  --- {example['where']} ({example['tokens']} tokens{cut})"
            pieces = ((piece["text"].translate(_VISIBLE), piece["target"]) for piece in example["segments"])
            text = "".join(f"{opening}{text}{closing}" if target else text for text, target in pieces)
            yield from (f"  {line}" for line in text.rstrip("\n").split("\n"))


def facts(source: SourcePreview) -> Iterator[str]:
    """Yield what is counted of a source, one fact a line."""
    some = "" if source["looked_at"] == source["rows"] else f", {source['looked_at']:,} of them read, evenly spread"
    left_out = sum(source["left_out"].values())
    yield f"{source['name']} (adapter {source['adapter']}): {source['rows']:,} rows{some}"
    more = f", {source['not_selected']:,} not selected" if source["not_selected"] else ""
    yield f"  {source['kept']:,} kept, {left_out:,} left out{more}"
    for reason, count in sorted(source["left_out"].items(), key=lambda item: -item[1]):
        yield f"    {count:,} × {reason} ({', '.join(source['places'][reason])})"
    for note, count in source["changed"].items():
        yield f"  changed: {count:,} × {note}"
    if not source["kept"]:
        return
    spread = "half up to {:,}, 90% up to {:,}, the longest {:,} tokens".format
    yield f"  lengths: {spread(*source['lengths'])}"
    if source["truncated"]:
        yield f"  {source['truncated']:,} cut to {source['max_length']:,} tokens: {spread(*source['lengths_cut'])}"
    yield f"  targets: {source['target_share']:.1%} of the tokens"
    if source["duplicates"] or source["in_other_sources"]:
        twice, elsewhere = source["duplicates"], source["in_other_sources"]
        yield f"  duplicates: {twice:,} within the source, {elsewhere:,} in other sources"
    if source["control_strings"]:
        listed = ", ".join(f"{text} {count:,}" for text, count in source["control_strings"].items())
        yield f"  control strings in contents: {listed}"


def page(found: Preview) -> str:
    """Return a preview as an HTML page on which targets are marked."""
    body = [f"<p>Tokenizer and chat template: {html.escape(found['tokenizer'])}. Targets are marked.</p>"]
    for source in found["sources"]:
        title, *rest = facts(source)
        body += [f"<h2>{html.escape(title)}</h2>", f"<pre>{html.escape(chr(10).join(rest))}</pre>"]
        for example in source["examples"]:
            pieces = (
                f"<mark>{html.escape(piece['text'])}</mark>" if piece["target"] else html.escape(piece["text"])
                for piece in example["segments"]
            )
            body.append(f"<h3>{html.escape(example['where'])}, {example['tokens']} tokens</h3>")
            body.append(f"<pre>{''.join(pieces)}</pre>")
    style = "body{font:16px sans-serif;max-width:60em;margin:2em auto}pre{white-space:pre-wrap}mark{background:#bfe5bf}"
    head = f'<meta charset="utf-8"><title>Data preview</title><style>{style}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{chr(10).join(body)}\n</body></html>\n'
