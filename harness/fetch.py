"""Getting the public files of a recipe into a data root: known by repository, commit, licence, size and hash."""

from __future__ import annotations

import fnmatch
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import stages
from harness.errors import MoemixError, StageError
from harness.files import hash_file, read_yaml
from harness.progress import progress
from harness.recipe import Part, Recipe
from harness.sources import hub_folder

SITE = "https://github.com"
_LIST = Path(__file__).parent / "data_files.yaml"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PublicFile:
    """A file of a public repository.

    Attributes:
        place: where it is below the data root.
        licence: as its repository states it, or its upstream data set.
    """

    place: str
    repository: str
    commit: str
    path: str
    licence: str
    size: int
    sha256: str

    def url(self, site: str = SITE) -> str:
        """Return its address on GitHub, or on a mirror with the same paths."""
        return f"{site}/{self.repository}/raw/{self.commit}/{self.path}"

    def complete(self, root: Path) -> bool:
        """Return whether the data root has it, with the bytes that it should have."""
        file = root / self.place
        return file.is_file() and file.stat().st_size == self.size and hash_file(file) == self.sha256


def public_files() -> list[PublicFile]:
    """Return every file that is known."""
    return [
        PublicFile(place, entry["repository"], entry["commit"], path, entry["licence"], size, sha256)
        for entry in read_yaml(_LIST)["files"]
        for place, (path, size, sha256) in entry["files"].items()
    ]


def hub_licences() -> dict[str, str]:
    """Return hub id → licence of the data sets and models of the built-in recipes."""
    licences: dict[str, str] = read_yaml(_LIST)["hub"]
    return licences


def files_of(recipe: Recipe) -> list[PublicFile]:
    """Return the files that a recipe reads: its sources', and those of its suites and benches."""
    patterns = [pattern for part in _parts(recipe) for pattern in part.files]
    folders = {folder for suite in recipe.evaluation.suites for folder in stages.evaluation().suite_folders(suite)}
    patterns += [f"{folder}/*" for folder in (*folders, *recipe.judging.benches)]
    return [file for file in public_files() if any(fnmatch.fnmatch(file.place, pattern) for pattern in patterns)]


def hub_parts(recipe: Recipe) -> list[Part]:
    """Return the parts that come from the hub."""
    return [part for part in _parts(recipe) if part.hub]


def _parts(recipe: Recipe) -> Iterator[Part]:
    return (part for source in recipe.data.sources for part in source.parts)


def fetch(files: list[PublicFile], root: Path, site: str = SITE) -> list[PublicFile]:
    """Get the files that the data root lacks, and return those that were fetched.

    An interrupted download goes on where it stopped. A file counts only once its hash is right.

    Raises:
        StageError: files could not be got; the message names each with its address, hash and place.
    """
    missing = [file for file in files if not file.complete(root)]
    failed: dict[PublicFile, str] = {}
    with progress("fetching", len(missing)) as bar:
        for file in missing:
            try:
                _download(file, root, site)
            except (OSError, MoemixError) as error:
                failed[file] = str(getattr(error, "reason", error))
            bar.advance()
    if failed:
        lines = [f"  {file.url(site)}\n    → {root / file.place}, SHA-256 {file.sha256}" for file in failed]
        reason = next(iter(failed.values()))
        raise StageError(
            f"{len(failed)} of {len(files)} files could not be fetched ({reason})",
            where=str(root),
            hint="run the same command where there is a network, or bring these files:\n" + "\n".join(lines),
        )
    return missing


def fetch_hub(parts: list[Part], root: Path, endpoint: str | None = None) -> list[str]:
    """Get the hub data sets that the data root lacks, at their commits, and return the ids of those that were fetched.

    Each gets a folder of the name of its id, which is read in place of the hub from then on. An interrupted download
    goes on where it stopped.

    Raises:
        StageError: data sets could not be got; the message names each with its commit and place.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, snapshot_download

    missing = {str(part.hub): part for part in parts if hub_folder(part, root) is None}
    failed: dict[str, str] = {}
    for name, part in missing.items():
        target = root / name
        partial = target.with_name(f".{target.name}.part")
        files = ["README.md", *part.data_files] if part.data_files else None
        try:
            # Without a network, `snapshot_download` would take a part of the files for all of them.
            HfApi(endpoint).dataset_info(name, revision=part.revision, timeout=30)
            snapshot_download(
                name, repo_type="dataset", revision=part.revision, allow_patterns=files, local_dir=partial,
                endpoint=endpoint,
            )  # fmt: skip
            shutil.rmtree(partial / ".cache", ignore_errors=True)  # how far the download was
            partial.replace(target)
        except (HTTPError, OSError, ValueError) as error:
            failed[name] = str(error).partition("\n")[0]
    if failed:
        lines = [
            f"  hf download {name} --repo-type dataset --revision {missing[name].revision or 'main'}"
            f" --local-dir {root / name}"
            for name in failed
        ]
        raise StageError(
            f"{len(failed)} of {len(parts)} data sets of the hub could not be fetched ({next(iter(failed.values()))})",
            where=str(root),
            hint="run the same command where there is a network, or bring these folders:\n" + "\n".join(lines),
        )
    return list(missing)


def _download(file: PublicFile, root: Path, site: str) -> None:
    target = root / file.place
    partial = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.is_file() else 0
    if have < file.size:
        request = urllib.request.Request(file.url(site), headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=60) as answer, open(partial, "ab") as out:
            if answer.status != 206:  # the whole file comes again
                out.truncate(0)
            shutil.copyfileobj(answer, out, _CHUNK)
    if partial.stat().st_size < file.size:
        raise StageError("the connection ended before the file did; run the same command", where=file.url(site))
    if hash_file(partial) != file.sha256:
        partial.unlink()
        raise StageError("the file has another hash than it should", where=file.url(site))
    partial.replace(target)
