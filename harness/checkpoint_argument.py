"""Checkpoints on the command line: a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from harness.errors import MoemixError

# Weights, configuration, tokenizer and its template; never pickled weights, never a repository's own code.
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
_OTHERS = ["consolidated*", "original/*", "onnx/*"]  # the same weights once more, in other layouts
_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


class CheckpointArgument(click.ParamType[Path]):
    """A folder, or ``organisation/name`` or ``organisation/name@revision`` of the hub, which is downloaded.

    If there is a folder of that name, it is taken. Downloads go to the hub's own cache.
    """

    name = "folder|hub id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the folder of the checkpoint.

        Raises:
            MoemixError: there is neither such a folder nor such a repository.
        """
        folder = Path(str(value))
        if folder.is_dir():
            if (folder / "config.json").is_file():  # some commands take the folder of a run too
                check_files(folder)
            return folder
        named = _HUB_ID.fullmatch(str(value))
        if named is None:
            raise MoemixError(
                "there is no such folder", where=str(value), hint="expected a checkpoint's folder or a hub id: ORG/NAME"
            )
        return fetch(**named.groupdict())


def fetch(repository: str, revision: str | None = None) -> Path:
    """Download the checkpoint of a hub repository, unless the hub's cache has it, and return its folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES, ignore_patterns=_OTHERS))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MoemixError(
            f"there is no such folder, and the hub did not return it ({type(error).__name__}: {reason})",
            where=repository if revision is None else f"{repository}@{revision}",
            hint="check the name, the connection to the hub, and whether it needs a login (`hf auth login`)",
        ) from None
    if not any(folder.glob("*.safetensors")):
        raise MoemixError("the repository has no safetensors weights", where=repository)
    return folder


def check_files(folder: Path) -> None:
    """Check that a folder is a checkpoint whose weights are whole; they are not read.

    Raises:
        MoemixError: the configuration is missing or damaged, or weights are missing, pickled or cut off.
    """
    from harness.files import read_json

    if not (folder / "config.json").is_file():
        inside = folder / "checkpoint"
        hint = f"did you mean {inside}?" if inside.is_dir() else "expected a folder that `save_pretrained` wrote"
        raise MoemixError("not a checkpoint: there is no config.json", where=str(folder), hint=hint)
    config = read_json(folder / "config.json")
    if not (isinstance(config, dict) and config.get("model_type")):
        raise MoemixError("the configuration names no `model_type`", where=str(folder / "config.json"))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = " (pickled weights are not loaded)" if any(folder.glob("*.bin")) else ""
        hint = "save it again with `save_pretrained`, which writes safetensors"
        raise MoemixError(f"there are no safetensors weights in the folder{pickled}", where=str(folder), hint=hint)
    for file in files:
        with open(file, "rb") as weights:
            length = int.from_bytes(weights.read(8), "little")
            head = weights.read(length) if length < file.stat().st_size else b""
        try:
            tensors = json.loads(head)
            end = max(
                (entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"), default=0
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            end = -1
        if end < 0 or 8 + length + end != file.stat().st_size:
            hint = "copy or download it again"
            raise MoemixError(
                "the file is not whole safetensors, it was cut off or damaged", where=str(file), hint=hint
            )


def checkpoint_name(folder: Path) -> str:
    """Return a name for a checkpoint: of its folder, of the run or model it belongs to, or ``org--name``."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--")
    return folder.parent.name if folder.name == "checkpoint" else folder.name
