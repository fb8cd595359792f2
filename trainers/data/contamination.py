"""Training data as texts to be searched for evaluation questions: a recipe's sources, a run's, or a file's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import stages
from harness.errors import MoemixError
from harness.files import hash_file
from harness.plan import make_world
from harness.recipe import Part, Source
from harness.recipe_file import load_recipe
from harness.records import Contamination
from harness.sources import fingerprint
from harness.store import Run, Store, data_root, store_root
from trainers.data.adapters import MalformedRowError, UnusableRowError
from trainers.data.reading import read_part
from trainers.data.tokenise import PartAdapter

Texts = tuple[str, Sequence[str]]
"""Where a row is, and its messages or its one text."""

_FILES = (".json", ".jsonl", ".parquet", ".gz")


@dataclass(frozen=True)
class _Searched:
    """What is compared with which suites; ``store`` is None where nothing is kept."""

    sources: tuple[Source, ...]
    suites: tuple[str, ...]
    root: Path | None
    store: Store | None


def check_target(
    target: str, suite: str | None, only: Sequence[str], root: str | None, store: str | None
) -> list[Contamination]:
    """Compare a recipe's, a run's or a file's rows with a suite's questions, source by source.

    Args:
        suite: None for the suites of the recipe.
        only: a selection of the suite's tasks; the result is then not kept.
    """
    searched = _searched(target, root, store)
    suites = (suite,) if suite else searched.suites
    if not suites:
        raise MoemixError(
            "say which questions to look for", where=target, hint="--suite NAME|FILE, see `moemix suites`"
        )
    found = []
    for name in suites:
        checker = stages.evaluation().contamination_checker(name, only, searched.root)
        for source in searched.sources:
            if searched.store is None:
                (file,) = source.parts[0].files
                record = checker.check(source.name, hash_file(Path(file)), *_file_texts(source))
            else:
                mark = fingerprint(source, searched.root)
                record = checker.check(source.name, mark, *source_texts(source, searched.root))
                if not only:
                    record.write(searched.store.contamination_path(record.suite_hash, mark))
            found.append(record)
    return found


def source_texts(source: Source, root: Path | None) -> tuple[int, Iterator[Texts]]:
    """How many rows a source has, and of those that training can use the texts, as its adapters read them."""
    readings = [
        (PartAdapter(part, f"source {source.name}"), *read_part(part, root=root, source=source.name))
        for part in source.parts
    ]

    def texts() -> Iterator[Texts]:
        for adapter, _, rows in readings:
            for row, where in rows:
                if not adapter.wants(row):
                    continue
                try:
                    made = adapter.adapt(row)
                except (MalformedRowError, UnusableRowError):
                    continue  # training stops at the one and leaves out the other: neither is learnt from
                yield where, [made] if isinstance(made, str) else [turn["content"] for turn in made]

    return sum(count for _, count, _ in readings), texts()


def _searched(target: str, root: str | None, store: str | None) -> _Searched:
    path = Path(target)
    if path.is_file() and path.suffix in _FILES:
        part = Part(adapter="text", files=(str(path.resolve()),))
        return _Searched((Source(name=path.name, parts=(part,)),), (), data_root(root), None)
    if (path / "run.json").is_file():
        run = Run(path.resolve())
        manifest = run.manifest
        return _Searched(
            manifest.config.sources,
            (),
            data_root(root or manifest.data_root),
            Store(store_root(store or str(run.store))),
        )
    recipe = load_recipe(target, ())
    found = Store(store_root(store))
    folder = make_world(recipe, found) if recipe.data.world else data_root(root)
    return _Searched(recipe.data.sources, recipe.evaluation.suites, folder, found)


def _file_texts(source: Source) -> tuple[int, Iterator[Texts]]:
    count, rows = read_part(source.parts[0], root=None, source=source.name)
    return count, ((where, list(_strings(row))) for row, where in rows)


def _strings(value: Any) -> Iterator[str]:
    """Every text in a row of whatever format."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for item in inner:
            yield from _strings(item)
