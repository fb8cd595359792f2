"""Where a source's files lie, and the fingerprint that says what is in them."""

from __future__ import annotations

import glob
from pathlib import Path

from harness.errors import MoemixError, nearest
from harness.files import hash_file, hash_tree, hash_value
from harness.plugins import code_hash
from harness.recipe import Part, Source


def part_files(part: Part, root: Path | None, *, where: str) -> list[Path]:
    """The local files of a part, globs expanded, in the order of their names.

    Args:
        root: the data root that relative paths start from.
        where: the source's name, for errors.
    """
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
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not matches:
            siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
            raise MoemixError(f"no file matches {path}", where=f"source {where}", hint=nearest(path.name, siblings))
        found.extend(matches)
    return found


def hub_folder(part: Part, root: Path | None) -> Path | None:
    """The local folder that stands for a part's hub id, if there is one below the data root."""
    if part.hub is None or root is None or not (root / part.hub).is_dir():
        return None
    return root / part.hub


def fingerprint(source: Source, root: Path | None) -> str:
    """What a source is made of: the bytes of its files, its hub ids with revisions, and adapters of the user's own.

    A hub id that is a folder below the data root is read from there, so it is known by what is in it.
    """
    contents = []
    for part in source.parts:
        entry = part.model_dump(mode="json", exclude={"files"})
        entry["contents"] = [hash_file(path) for path in part_files(part, root, where=source.name)]
        entry["adapter_code"] = code_hash(part.adapter)
        stand_in = hub_folder(part, root)
        entry["stand_in"] = hash_tree(stand_in) if stand_in else None
        contents.append(entry)
    return hash_value(contents)
