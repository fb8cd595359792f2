"""Tiny models of the paper's two architectures: as published code computes them, and random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ARCHITECTURES = {"llama_moe": "LlamaMoEForCausalLM", "moduleformer": "ModuleFormerForCausalLM"}


class Published:
    """A fixture: parameters under their published names, configuration, and what the published code computed.

    Attributes:
        config: as in ``config.json``.
        weights: by published name, buffers included.
        ids, mask, logits, gate_load: of two examples, the second padded; evaluation mode, all tokens counted.
        balance: the balance loss of the same pass, where it was kept.
    """

    def __init__(self, file: Path) -> None:
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            self.config: dict[str, Any] = json.loads(opened.metadata()["config"])
        self.config["architectures"] = [ARCHITECTURES[self.config["model_type"]]]
        self.ids, self.mask, self.logits = (tensors.pop(f"__{name}") for name in ("ids", "mask", "logits"))
        self.gate_load, self.balance = tensors.pop("__gate_load_last"), tensors.pop("__balance", None)
        self.weights = tensors

    def write(self, folder: Path, *, shards: int = 1, **changes: Any) -> Path:
        """A checkpoint folder in the published form; ``changes`` to the configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config | changes))
        write_weights(self.weights, folder, shards)
        return folder


def write_weights(weights: dict[str, torch.Tensor], folder: Path, shards: int = 1) -> None:
    """Safetensors files, with an index where there are several."""
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, where = sorted(weights), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}  # a layer's experts lie in several files
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
