"""The files of a source, and the fingerprint of their contents."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from harness.errors import MoemixError, nearest
from harness.files import hash_file, hash_tree, hash_value
from harness.plugins import code_hash
from harness.recipe import Part, Source

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
PACKED = (".gz", ".bz2", ".xz", ".zst")
FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", *PACKED)
"""How the names of files with rows end."""


def part_files(part: Part, root: Path | None, *, where: str) -> list[Path]:
    """Return the local files of a part of the source ``where``, globs expanded, in the order of their names."""
    found: list[Path] = []
    for pattern in part.files:
        path = Path(pattern)
        if not path.is_absolute():
            if root is None:
                raise MoemixError(
                    f"{pattern} is relative, and there is no data root",
                    where=f"source {where}",
                    hint="give --data-root DIR or set MOEMIX_DATA_ROOT",
                )
            path = root / pattern
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if _is_readable(Path(match)))
        if not matches:
            raise _nothing(path, pattern, where)
        if again := sorted(set(found) & set(matches)):
            raise MoemixError(
                f"{again[0]} is matched twice by `files`", where=f"source {where}", hint="name each file once"
            )
        found.extend(matches)
    return found


def _nothing(path: Path, pattern: str, source: str) -> MoemixError:
    """Return the error for a pattern without files: a folder, a folder that is missing, or a name beside others."""
    folder = path
    while not folder.is_dir():
        folder = folder.parent
    if "://" in pattern:
        hint = "an address is not read: download the file, or name a data set of the hub with `hub: ORGANISATION/NAME`"
        return MoemixError(f"{pattern} is not a file", where=f"source {source}", hint=hint)
    if folder == path:
        hint = f"name its files, such as {path.name}/*.jsonl"
        return MoemixError(
            f"{path} is a folder, and not one that `save_to_disk` wrote", where=f"source {source}", hint=hint
        )
    if pattern.startswith("~"):
        hint = "`~` does not stand for your home folder here: write the whole path"
    elif folder != path.parent and not glob.has_magic(str(path.parent)):
        hint = f"the folder {path.relative_to(folder).parts[0]} is missing in {folder}"
    else:
        hint = nearest(path.name, [file.name for file in folder.iterdir() if file.is_file()])
    return MoemixError(f"no file matches {path}", where=f"source {source}", hint=hint)


def is_data(path: Path) -> bool:
    """Return whether a path is a file with rows, by its name, or a folder that ``save_to_disk`` of `datasets` wrote."""
    return _is_readable(path) and (path.is_dir() or path.suffix.lower() in FILES)


def _is_readable(path: Path) -> bool:
    return path.is_file() or any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def hub_folder(part: Part, root: Path | None) -> Path | None:
    """Return the local folder in place of a part's hub id, if there is one below the data root."""
    if part.hub is None or root is None or not (root / part.hub).is_dir():
        return None
    return root / part.hub


def fingerprint(source: Source, root: Path | None) -> str:
    """Return the hash of what a source is made of: files, hub ids with revisions, and the user's own adapters.

    A hub id that is a folder below the data root is read from there, so the contents of the folder count.
    """
    contents = []
    for part in source.parts:
        entry = part.model_dump(mode="json", exclude={"files"})
        paths = part_files(part, root, where=source.name)
        entry["contents"] = [hash_tree(path) if path.is_dir() else hash_file(path) for path in paths]
        entry["adapter_code"] = code_hash(part.adapter, "moemix.adapters")
        stand_in = hub_folder(part, root)
        entry["stand_in"] = hash_tree(stand_in) if stand_in else None
        contents.append(entry)
    return hash_value(contents)
