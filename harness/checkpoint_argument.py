"""A checkpoint as the command line takes it: a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from harness.errors import MoemixError

# Weights, configuration, tokenizer and its template; never pickled weights, never a repository's own code.
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
_OTHERS = ["consolidated*", "original/*", "onnx/*"]  # the same weights once more, in other layouts
_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


class CheckpointArgument(click.ParamType):
    """A folder, or ``organisation/name``, ``organisation/name@revision`` of the hub: always a folder in the end.

    A folder of that name goes before a repository. What is fetched lies in the hub's own cache.

    Raises:
        MoemixError: neither is there, or the hub cannot give it.
    """

    name = "folder|hub id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if Path(value).is_dir():
            return Path(value)
        named = _HUB_ID.fullmatch(str(value))
        if named is None:
            raise MoemixError(
                "there is no such folder", where=str(value), hint="expected a checkpoint's folder or a hub id: ORG/NAME"
            )
        return fetch(**named.groupdict())


def fetch(repository: str, revision: str | None = None) -> Path:
    """The folder of a hub repository's checkpoint, fetched unless the hub's cache holds it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES, ignore_patterns=_OTHERS))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MoemixError(
            f"neither a folder, nor to be had from the hub ({type(error).__name__}: {reason})",
            where=repository if revision is None else f"{repository}@{revision}",
            hint="is the name right, is the hub reachable, does it need a login (`hf auth login`)?",
        ) from None
    if not any(folder.glob("*.safetensors")):
        raise MoemixError("the repository holds no safetensors weights", where=repository)
    return folder


def checkpoint_name(folder: Path) -> str:
    """What to call a checkpoint: its folder's name, that of the run or model it belongs to, or ``org--name``."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--")
    return folder.parent.name if folder.name == "checkpoint" else folder.name
