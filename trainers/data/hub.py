"""Read datasets of the hub through `datasets`: the files that are asked for, at one commit."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from harness.errors import MoemixError, unknown
from harness.recipe import Part
from harness.sources import hub_folder
from trainers.data.located import Chosen, Located, Rows

if TYPE_CHECKING:
    from datasets import Dataset

_TABLES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
_SPLIT_NAME = re.compile(r"(^|[-_./])(train|test|valid|validation|val|dev|eval)([-_.0-9/]|$)")
_SHARD = re.compile(r"(?<![vV\d.])(?!(19|20)\d\d\.)\d+(-of-\d+)?(?=\.)")  # not a version (v2) or a year


def dataset_rows(dataset: Dataset, place: str) -> Rows:
    """Return the rows of a dataset of `datasets`."""

    def chosen(wanted: Chosen) -> Iterator[Located]:
        numbers = np.flatnonzero(wanted)
        rows = dataset if len(numbers) == len(dataset) else dataset.select(numbers)
        for number, row in zip(numbers.tolist(), rows, strict=True):
            yield cast("dict[str, object]", row), f"{place}:row {number}"

    return Rows(len(dataset), chosen)


def read_hub(part: Part, root: Path | None, source: str) -> Rows | list[Path]:
    """Open a hub dataset, or the folder below the data root that has its name.

    It returns the rows, or the files of the split where `datasets` cannot read a row in them.
    """
    import datasets

    where = f"source {source}: hub dataset {part.hub}"
    place = hub_folder(part, root)
    asked = {
        "name": part.subset,
        "revision": None if place else part.revision,
        "data_files": {part.split.partition("[")[0]: list(part.data_files)} if part.data_files else None,
    }
    try:
        _check_files(part, place, where)
        try:
            dataset = datasets.load_dataset(str(place or part.hub), split=part.split, **asked)
        except (datasets.exceptions.DatasetsError, ValueError) as error:  # a row in it, or what was asked for
            files = datasets.load_dataset_builder(str(place or part.hub), **asked).config.data_files or {}
            if part.split not in files:
                raise ValueError(error.__cause__ or error) from error
            return [_local(file) for file in files[part.split]]
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise MoemixError(f"the dataset cannot be loaded: {error}", where=where) from error
    if len(dataset) == 0:
        raise MoemixError("the dataset has no rows", where=where)
    return dataset_rows(dataset, f"{part.hub}[{part.split}]")


def _local(file: str) -> Path:
    """Return the path of a file as `datasets` names it: a path, or ``hf://datasets/ORGANISATION/NAME@COMMIT/FILE``."""
    from huggingface_hub import HfFileSystem, hf_hub_download

    if not file.startswith("hf://"):
        return Path(file)
    found = cast("Any", HfFileSystem().resolve_path(file))  # of a repository
    return Path(hf_hub_download(found.repo_id, found.path_in_repo, repo_type="dataset", revision=found.revision))


def _check_files(part: Part, place: Path | None, where: str) -> None:
    """Check that ``data_files`` exist; ask for them where a repository has several tables that are not one dataset."""
    import datasets
    from huggingface_hub import HfApi, hf_hub_download

    if part.subset and not part.data_files:
        return
    if place is not None:
        files = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    elif datasets.config.HF_HUB_OFFLINE:
        return  # `datasets` has it in its cache, or fails
    else:
        files = HfApi().list_repo_files(str(part.hub), repo_type="dataset", revision=part.revision)
    for pattern in part.data_files:
        if not fnmatch.filter(files, pattern) and "://" not in pattern:
            raise unknown("file of the repository", pattern, files, where=where)
    tables = [file for file in files if any(suffix in _TABLES for suffix in Path(file).suffixes[-2:])]
    kinds = {_SHARD.sub("", file) for file in tables if not _SPLIT_NAME.search(file)}
    if part.data_files or len(kinds) < 2:
        return
    if "README.md" in files:
        card = place / "README.md" if place else None
        path = card or hf_hub_download(str(part.hub), "README.md", repo_type="dataset", revision=part.revision)
        if re.match(r"---\n(?:(?!---\n).*\n)*?configs:", Path(path).read_text(encoding="utf-8")):
            return  # the card says which files are a dataset
    raise MoemixError(
        f"the repository has several files, which are not splits of one dataset: {', '.join(tables)}",
        where=where,
        hint="choose with `data_files`",
    )


def pinned(part: Part, root: Path | None) -> Part:
    """Return a part whose hub revision is a commit; unchanged if it is one, or the hub cannot be asked."""
    import datasets

    if part.hub is None or hub_folder(part, root) or re.fullmatch("[0-9a-f]{40}", part.revision or ""):
        return part
    if datasets.config.HF_HUB_OFFLINE:
        return part
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = HfApi().dataset_info(part.hub, revision=part.revision, timeout=10).sha
    except (HfHubHTTPError, HTTPError, OSError, ValueError):
        return part  # loading it says what is wrong
    return part.model_copy(update={"revision": found}) if found else part
