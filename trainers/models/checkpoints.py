"""Load a checkpoint by reference: a local folder, a hub id, or ``package:NAME`` for the weights in a Python package."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

import trainers.models  # noqa: F401  (registers this project's architectures with transformers)
from harness.errors import MoemixError

_PACKAGE = "package:"
_KEYS_NAMED = 5  # of each kind of wrong parameter, how many an error names


def load_checkpoint(
    reference: str, revision: str | None = None, *, dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, in evaluation mode, and its tokenizer. Code in a checkpoint is never run.

    The reference is a checkpoint folder, a hub id (with a revision: commit or tag), or ``package:NAME`` for a package
    that carries a GGUF file. The dtype of the weights may be ``auto``: that of the files.

    Raises:
        MoemixError: there is no such checkpoint, or it cannot be loaded.
    """
    name, location = _locate(reference, revision)
    transformers_logging.disable_progress_bar()  # commands show progress of their own
    try:
        model = _load_model(name, reference, dtype, location)
        tokenizer = AutoTokenizer.from_pretrained(name, **location)
    except (ImportError, OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = None
        if isinstance(error, ImportError):
            hint = "pip install moemix[gguf]" if "gguf_file" in location else None
        elif "revision" in location:
            hint = "check that this is a hub id and that the hub is reachable"
        raise MoemixError(f"the checkpoint cannot be loaded: {error}", where=reference, hint=hint) from error
    if hasattr(model.config, "quantization_config"):  # GGUF: the weights have been dequantised
        del model.config.quantization_config
        vars(model)["hf_quantizer"] = None  # otherwise transformers refuses to save the model
    return model.eval(), tokenizer


def load_tokenizer(reference: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint without its weights; the arguments are those of :func:`load_checkpoint`."""
    name, location = _locate(reference, revision)
    try:
        return AutoTokenizer.from_pretrained(name, **location)
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise MoemixError(f"the tokenizer cannot be loaded: {error}", where=reference) from error


def check_configuration(folder: Path) -> None:
    """Check that transformers knows the architecture of a checkpoint and can build it; its weights are not read.

    Raises:
        MoemixError: it cannot.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)
    except Exception as error:  # each architecture checks its fields in its own way
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise MoemixError(f"the model cannot be built: {reason}", where=str(folder / "config.json")) from error


def packaged_gguf(package: str) -> Path:
    """Return the one GGUF file among an installed package's files, without importing the package."""
    where = f"{_PACKAGE}{package}"
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise MoemixError("the package is not installed", where=where, hint=f"pip install {package}") from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        names = ", ".join(sorted(file.name for file in found)) or "none"
        raise MoemixError(f"the package should carry one GGUF file; found: {names}", where=where)
    return found[0]


def _locate(reference: str, revision: str | None) -> tuple[str, dict[str, object]]:
    """Return the name and the further arguments with which ``from_pretrained`` finds a checkpoint."""
    if reference.startswith(_PACKAGE):
        file = packaged_gguf(reference.removeprefix(_PACKAGE))
        return str(file.parent), {"gguf_file": file.name, "local_files_only": True}
    if Path(reference).is_dir():
        if not (Path(reference) / "config.json").is_file():
            raise MoemixError("not a checkpoint: there is no config.json", where=reference)
        return reference, {"local_files_only": True}
    if reference.startswith((".", "/", "~")) or reference.count("/") > 1:
        raise MoemixError("the checkpoint folder does not exist", where=reference)
    return reference, {"revision": revision}


def _load_model(name: str, where: str, dtype: str, location: dict[str, object]) -> PreTrainedModel:
    """Load a causal LM with exactly the parameters of its checkpoint; transformers would fill gaps at random.

    Raises:
        MoemixError: the configuration is not valid, or parameters are missing, unexpected or of another shape; the
            error names them.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True,
            use_safetensors=None if "gguf_file" in location else True, **location,
        )  # fmt: skip
    except StrictDataclassError as error:
        raise MoemixError(f"config.json: {error.__cause__ or error}", where=where) from error
    model: PreTrainedModel = loaded[0]
    found: dict[str, list[Any]] = loaded[1]
    wrong = {
        "missing": sorted(found["missing_keys"]),
        "unexpected": sorted(found["unexpected_keys"]),
        "of another shape": sorted(
            f"{key} {tuple(stored)} instead of {tuple(own)}" for key, stored, own in found["mismatched_keys"]
        ),
    }
    faults = [
        f"{what}: {', '.join(keys[:_KEYS_NAMED])}{f' and {len(keys) - _KEYS_NAMED} more' * (len(keys) > _KEYS_NAMED)}"
        for what, keys in wrong.items()
        if keys
    ]
    if faults:
        raise MoemixError(
            f"the parameters do not fit the architecture in config.json ({'; '.join(faults)})", where=where
        )
    return model
