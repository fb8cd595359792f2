"""Search training data for evaluation questions: the sources of a recipe or a run, or the rows of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import stages
from harness.errors import MoemixError
from harness.files import hash_file, hash_tree
from harness.plan import make_world
from harness.recipe import Part, Source
from harness.recipe_file import load_recipe
from harness.records import Contamination
from harness.sources import fingerprint, is_data
from harness.store import Run, Store, data_root, store_root
from trainers.data.cells import parsed
from trainers.data.conversation import MalformedRowError, UnusableRowError
from trainers.data.parts import open_part
from trainers.data.reading import read_part

Texts = tuple[str, Sequence[str]]
"""The location of a row, and its messages or its one text."""


@dataclass(frozen=True)
class _Target:
    """The sources to search and the suites to search for; ``store`` is None if results are not stored."""

    sources: tuple[Source, ...]
    suites: tuple[str, ...]
    root: Path | None
    store: Store | None


def check_target(
    target: str, suite: str | None, only: Sequence[str], root: str | None, store: str | None
) -> list[Contamination]:
    """Search the rows of a recipe, a run folder or a data file for a suite's questions, source by source.

    The suites of the recipe are searched if none is named. Results for a selection ``only`` of its tasks are not
    stored.

    Raises:
        MoemixError: no suite is named, or a source cannot be read.
    """
    found = _target(target, root, store)
    suites = (suite,) if suite else found.suites
    if not suites:
        raise MoemixError("no suite is named", where=target, hint="give --suite NAME|FILE, see `moemix suites`")
    records = []
    for name in suites:
        checker = stages.evaluation().contamination_checker(name, only, found.root)
        for source in found.sources:
            if found.store is None:
                file = Path(source.parts[0].files[0])
                file_hash = hash_tree(file) if file.is_dir() else hash_file(file)
                records.append(checker.check(source.name, file_hash, *_file_texts(source)))
                continue
            source_hash = fingerprint(source, found.root)
            record = checker.check(source.name, source_hash, *source_texts(source, found.root))
            if not only:
                record.write(found.store.contamination_path(record.suite_hash, source_hash))
            records.append(record)
    return records


def source_texts(source: Source, root: Path | None) -> tuple[int, Iterator[Texts]]:
    """Return the number of a source's rows, and the texts of those that training can use, as its adapters read them."""
    opened = [open_part(part, root=root, source=source.name) for part in source.parts]

    def texts() -> Iterator[Texts]:
        for part in opened:
            for row, location in part.rows:
                try:
                    content = part.adapter.read(row)
                except (MalformedRowError, UnusableRowError):
                    continue  # training does not use such a row
                if content is not None:
                    yield location, [content] if isinstance(content, str) else [turn["content"] for turn in content]

    return sum(part.rows.count for part in opened), texts()


def _target(target: str, root: str | None, store: str | None) -> _Target:
    path = Path(target)
    if is_data(path):
        part = Part(adapter="text", files=(str(path.resolve()),))
        return _Target((Source(name=path.name, parts=(part,)),), (), data_root(root), None)
    if (path / "run.json").is_file():
        run = Run(path.resolve())
        manifest = run.manifest
        run_store = Store(store_root(store or str(run.store)))
        return _Target(manifest.config.sources, (), data_root(root or manifest.data_root), run_store)
    recipe, run_store = load_recipe(target, ()), Store(store_root(store))
    folder = make_world(recipe, run_store) if recipe.data.world else data_root(root)
    return _Target(recipe.data.sources, recipe.evaluation.suites, folder, run_store)


def _file_texts(source: Source) -> tuple[int, Iterator[Texts]]:
    rows = read_part(source.parts[0], root=None, source=source.name)
    return rows.count, ((where, list(_strings(row))) for row, where in rows)


def _strings(value: object) -> Iterator[str]:
    """Yield every text in a row, whatever its format, also those in a text that is JSON."""
    value = parsed(value)
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
