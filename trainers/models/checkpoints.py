"""A checkpoint by reference: a local folder, a hub id, or ``package:NAME`` for the weights in a Python package."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import trainers.models  # noqa: F401  (registers this project's architectures with transformers)
from harness.errors import MoemixError

_PACKAGE = "package:"
_KEYS_NAMED = 5  # of each kind that is wrong


def load_checkpoint(reference: str, revision: str | None = None, *, dtype: str = "float32") -> tuple[Any, Any]:
    """A causal language model and its tokenizer. No code that comes with a checkpoint is ever run.

    Args:
        reference: a checkpoint folder, a hub id, or ``package:NAME`` for a package that carries a GGUF file.
        revision: commit or tag of a hub id.
        dtype: of the weights, ``auto`` for that of the files.

    Returns:
        ``(PreTrainedModel, PreTrainedTokenizerFast)``, the model in evaluation mode.

    Raises:
        MoemixError: there is no such checkpoint, or it cannot be loaded.
    """
    location: dict[str, Any]
    if reference.startswith(_PACKAGE):
        file = packaged_gguf(reference.removeprefix(_PACKAGE))
        name, location = str(file.parent), {"gguf_file": file.name, "local_files_only": True}
    elif Path(reference).is_dir():
        if not (Path(reference) / "config.json").is_file():
            raise MoemixError("not a checkpoint: there is no config.json", where=reference)
        name, location = reference, {"local_files_only": True}
    elif reference.startswith((".", "/", "~")) or reference.count("/") > 1:
        raise MoemixError("the checkpoint folder does not exist", where=reference)
    else:
        name, location = reference, {"revision": revision}
    return _load(reference, name, location, dtype)


def packaged_gguf(package: str) -> Path:
    """The one GGUF file among an installed package's files; the package itself is not imported."""
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


def load_model(name: str, *, where: str, dtype: Any, **location: Any) -> Any:
    """A causal LM with exactly the parameters of its checkpoint; left to itself transformers fills gaps at random.

    Args:
        where: what to call the checkpoint in errors.
        location: what else ``from_pretrained`` takes.

    Raises:
        MoemixError: the configuration makes no sense, or parameters are missing, of no use to the architecture or of
            another shape; they are named.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **location
        )
    except StrictDataclassError as error:
        raise MoemixError(f"config.json: {error.__cause__ or error}", where=where) from error
    wrong = {
        "missing": sorted(found["missing_keys"]),
        "of no use to it": sorted(found["unexpected_keys"]),
        "of another shape": sorted(
            f"{key} {tuple(stored)} where {tuple(own)} is expected" for key, stored, own in found["mismatched_keys"]
        ),
    }
    told = [
        f"{what}: {', '.join(keys[:_KEYS_NAMED])}{f' and {len(keys) - _KEYS_NAMED} more' * (len(keys) > _KEYS_NAMED)}"
        for what, keys in wrong.items()
        if keys
    ]
    if told:
        raise MoemixError(
            f"the parameters are not those of the architecture in config.json ({'; '.join(told)})", where=where
        )
    return model


def _load(reference: str, name: str, location: dict[str, Any], dtype: str) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    try:
        model = load_model(name, where=reference, dtype=dtype, **location)
        tokenizer = AutoTokenizer.from_pretrained(name, **location)
    except ImportError as error:
        hint = "pip install moemix[gguf]" if "gguf_file" in location else None
        raise MoemixError(f"the checkpoint cannot be loaded: {error}", where=reference, hint=hint) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = "is it a hub id, and is the hub reachable?" if "revision" in location else None
        raise MoemixError(f"the checkpoint cannot be loaded: {error}", where=reference, hint=hint) from error
    if hasattr(model.config, "quantization_config"):  # GGUF: the weights have been dequantised
        del model.config.quantization_config
        model.hf_quantizer = None  # else transformers refuses to save it
    return model.eval(), tokenizer
