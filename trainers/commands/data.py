"""``moemix data``: make and inspect training data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.options import data_root_option, format_option, store_option

if TYPE_CHECKING:
    from harness.records import Contamination


@click.group()
def data() -> None:
    """Make and inspect training data."""


@data.command()
@click.argument("world")
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def make(world: str, out: Path, seed: int) -> None:
    """Generate WORLD (quickstart) as a data root in DIR: training files, raw text, held-out questions."""
    from trainers.data.world import make_world

    make_world(world, out, seed)
    click.echo(out)


@data.command()
@click.argument("recipe")
@click.option("--data-root", metavar="DIR", help="Where the files go. [env: MOEMIX_DATA_ROOT; default: data/]")
@click.option("--site", metavar="URL", help="A mirror of GitHub with the same paths.")
@click.option("--list", "only_list", is_flag=True, help="Only list them: place, source, licence, size, hash or commit.")
def fetch(recipe: str, data_root: str | None, site: str | None, only_list: bool) -> None:
    """Get the public files and hub data sets that RECIPE, its suites and its benches read, into a data root.

    What is there already is kept; an interrupted download goes on. Without a network it says which files to bring.
    """
    import os

    from harness.errors import MoemixError, raise_all
    from harness.fetch import SITE, fetch, fetch_hub, files_of, hub_licences, hub_parts
    from harness.recipe import CheckpointModel, FromDense
    from harness.recipe_file import load_recipe

    tree = load_recipe(recipe)
    files, root = files_of(tree), Path(data_root or os.environ.get("MOEMIX_DATA_ROOT") or "data").resolve()
    parts, licences = hub_parts(tree), hub_licences()
    if tree.data.world:
        click.echo(f"{recipe} generates its data ({tree.data.world}); nothing has to be fetched", err=True)
    if only_list:
        for file in files:
            click.echo(f"{file.place}\t{file.url(site or SITE)}\t{file.licence}\t{file.size}\t{file.sha256}")
        for part in parts:
            click.echo(f"{part.hub}\thub\t{licences.get(str(part.hub), '?')}\t\t{part.revision or 'main'}")
        for model in tree.models:
            if isinstance(model, CheckpointModel | FromDense):
                licence = licences.get(model.source, "?")
                click.echo(f"{model.source}\tmodel\t{licence}\t\t{model.revision or ''}")
        return
    problems, got, sets = [], [], []
    try:
        got = fetch(files, root, site or SITE)
    except MoemixError as error:
        problems.append(error)
    try:
        sets = fetch_hub(parts, root)
    except MoemixError as error:
        problems.append(error)
    raise_all(problems)
    size = sum(file.size for file in files) / 1e6
    click.echo(f"{root}: {len(files)} files of {recipe}, {size:.1f} MB, {len(got)} of them fetched now")
    if parts:
        click.echo(f"{root}: {len(parts)} data sets of the hub, {len(sets)} of them fetched now")


@data.command()
@click.argument("target", metavar="RECIPE|RUN_FOLDER|FILE")
@click.option("--suite", metavar="NAME|FILE", help="The evaluation questions.  [default: the recipe's suites]")
@click.option("--tasks", metavar="A,B", default="", help="Only these tasks or columns of the suite.")
@data_root_option
@store_option
@format_option
def check(target: str, suite: str | None, tasks: str, data_root: str | None, store: str | None, style: str) -> None:
    """Search the training data of a recipe, a run or a file for evaluation questions.

    Reports how many questions it contains word by word or reworded, with examples. Results for the sources of a recipe
    or a run are stored in the run store, and tables add a footnote to the columns concerned.
    """
    import json

    from trainers.data.contamination import check_target

    only = tuple(name.strip() for name in tasks.split(",") if name.strip())
    found = check_target(target, suite, only, data_root, store)
    if style == "json":
        click.echo(json.dumps([record.model_dump(mode="json") for record in found], indent=1, ensure_ascii=False))
        return
    for record in found:
        click.echo("\n".join(_report(record)))


@data.command()
@click.argument("target", metavar="RECIPE|FILE")
@click.option("--adapter", metavar="NAME", help="How the rows of a file are read.  [default: as their columns say]")
@click.option("--tokenizer", metavar="FOLDER|ID", help="A checkpoint.  [default: the recipe's first model]")
@click.option("--chat-template", metavar="NAME|FILE|JINJA", help="Another chat template than the tokenizer's.")
@click.option("--rows", type=click.IntRange(min=1), default=10_000, show_default=True, help="Rows of a source to read.")
@data_root_option
@store_option
@format_option
@click.option("--out", metavar="HTML", type=click.Path(path_type=Path, dir_okay=False), help="Write a page here.")
def preview(
    target: str,
    adapter: str | None,
    tokenizer: str | None,
    chat_template: str | None,
    rows: int,
    data_root: str | None,
    store: str | None,
    style: str,
    out: Path | None,
) -> None:
    """Show what training would see of a recipe's sources or a file, before anything is trained.

    For each source: rows read and left out with the reasons, lengths, the share of tokens that are learnt, duplicates,
    and a few examples with these tokens marked.
    """
    import json

    from harness.files import write_text
    from trainers.making import preview as module

    found = module.preview(
        target, adapter=adapter, tokenizer=tokenizer, template=chat_template, root=data_root, store=store, rows=rows
    )
    if out is not None:
        write_text(out, module.page(found))
        click.echo(out)
    elif style == "json":
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(module.lines(found, sys.stdout.isatty())))


def _report(record: Contamination) -> list[str]:
    """Return the findings of one source as lines."""
    lines = [f"{record.source} × {record.suite}: {record.rows:,} rows, {len(record.tasks)} tasks"]
    for task, hits in record.tasks.items():
        if not hits.rows:
            continue
        count = len(hits.exact) + len(hits.near)
        words = f"{len(hits.exact)} word by word, {len(hits.near)} reworded"
        lines.append(f"  {task}: {count} of {hits.questions:,} questions ({words}) in {hits.rows:,} rows")
        for example in hits.examples:
            lines.append(
                f"    {example.where} contains question {example.doc_id} ({example.kind}, {example.share:.0%})"
            )
            lines.append(f"      question: {_short(example.question)}")
            lines.append(f"      training: {_short(example.text)}")
    if len(lines) == 1:
        lines.append("  none of the questions was found")
    return lines + [f"  {task}: not compared: {why}" for task, why in record.unchecked.items()]


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 160 else f"{line[:159]}…"
