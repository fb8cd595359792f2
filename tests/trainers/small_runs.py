"""Small real things to train with: an MoE of two layers, sources of random tokens, and whole runs in a store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.recipe import Mixing, Training
from trainers.data import TokenSource, TokenSplit
from trainers.data.tokens import TokenTable, TokenWriter

VOCABULARY = 96
TOKENIZER = SimpleNamespace(pad_token_id=0, eos_token_id=0)


def small_model(model_type: str = "mixtral", seed: int = 0, **changes: Any) -> Any:
    """A random MoE of two layers, width 32; large enough weights that routing differs between tokens."""
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    torch.manual_seed(seed)
    attention = changes.pop("attn_implementation", "sdpa")
    config = AutoConfig.for_model(model_type, **fields | changes)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)


def small_source(folder: Path, name: str, tokens: range, train: int = 40, probe: int = 8, seed: int = 0) -> TokenSource:
    """Examples of 5 to 40 random tokens from a range; the second half of each is learnt."""
    random = np.random.default_rng((seed, *name.encode()))
    writer = TokenWriter()
    for _ in range(train + probe):
        length = int(random.integers(5, 41))
        ids = random.integers(tokens.start, tokens.stop, length).astype(np.int32)
        writer.add(ids, np.arange(length) >= length // 2)
    path = folder / name
    path.mkdir(parents=True)
    writer.write(path)
    table = TokenTable(path, writer.report)
    order = np.arange(train + probe)
    return TokenSource(name, train, TokenSplit(table, order[probe:]), TokenSplit(table, order[:probe]), writer.report)


def small_sources(folder: Path) -> tuple[TokenSource, ...]:
    """Three sources over different tokens, ``b`` and ``c`` overlapping."""
    return (
        small_source(folder, "a", range(1, 30)),
        small_source(folder, "b", range(30, 70)),
        small_source(folder, "c", range(40, 90), train=11),
    )


def training(**changes: Any) -> Training:
    fields: dict[str, Any] = {"steps": 6, "batch_examples": 8, "max_length": 64, "learning_rate": 1e-2, "log_every": 1}
    return Training(**fields | changes)


def mixing(**changes: Any) -> Mixing:
    return Mixing(**{"interval": 2, "min_tokens": 1, "probe_batches": 1} | changes)


def lines(path: Path, *, without: str) -> list[dict[str, Any]]:
    """The records of a JSONL file without the field that holds timing."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record.pop(without)
    return records


def moemix(*arguments: str, wait: bool = True, **environment: str) -> Any:
    """Run the command line in a process of its own."""
    command = (sys.executable, "-m", "harness.cli", *arguments)
    options: dict[str, Any] = {
        "env": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    return subprocess.run(command, check=False, **options) if wait else subprocess.Popen(command, **options)
