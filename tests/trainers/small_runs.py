"""Small real things to train with: an MoE of two layers, sources of random tokens, and whole runs in a store."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import harness.store
import trainers.models  # noqa: F401  (registers this project's architectures)
from harness.recipe import Mixing, Part, Source, Strategy, Training
from harness.records import RunConfig
from harness.requests import TrainJobRequest
from harness.sources import fingerprint
from harness.store import Run, Store
from trainers.data import TokenSource, TokenSplit
from trainers.data.tokens import TokenTable, TokenWriter

VOCABULARY = 96
TOKENIZER = SimpleNamespace(pad_token_id=0, eos_token_id=0, decode=lambda ids, **_: " ".join(map(str, ids)))


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


def fit_request(model: Any, sources: Any, strategy: Any, folder: Path, **changes: Any) -> Any:
    """A request to train on small sources."""
    from trainers.training.loop import FitRequest

    fields = {"tokenizer": TOKENIZER, "training": training(), "mixing": mixing(), "seed": 0, "title": "test run"}
    return FitRequest(model=model, sources=sources, strategy=strategy, folder=folder, **fields | changes)


def lines(path: Path, *, without: str) -> list[dict[str, Any]]:
    """The records of a JSONL file without the field that holds timing."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record.pop(without)
    return records


CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> Any:
    """One token per byte, with markers for turns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


def create_run(
    store: Path,
    strategy: str = "dynamic",
    *,
    changes: dict[str, Any] | None = None,
    reference: Run | None = None,
    **mix: Any,
) -> Run:
    """A run in a store, with its base checkpoint and three sources of conversations in files of their own."""
    base, data = store / "_models" / "small" / "checkpoint", store.parent / "data"
    if not base.is_dir():
        tokenizer = byte_tokenizer()
        small_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id).save_pretrained(base)
        tokenizer.save_pretrained(base)
    data.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for name, letters in (("adding", "0123456789"), ("chat", "aeioulmn"), ("code", "xyz()=+:")):
        with open(data / f"{name}.jsonl", "w") as file:
            for _ in range(40):
                question, answer = (
                    "".join(random.choice(list(letters), int(random.integers(4, 20)))) for _ in range(2)
                )
                turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                file.write(json.dumps({"messages": turns}) + "\n")
    sources = tuple(
        Source(name=name, parts=(Part(adapter="messages", files=(f"{name}.jsonl",)),), probe_examples=8)
        for name in ("adding", "chat", "code")
    )
    config = RunConfig(
        model_id="small",
        strategy=Strategy(name=strategy),
        seed=0,
        sources=sources,
        data_seed=0,
        fingerprints={source.name: fingerprint(source, data) for source in sources},
        training=training(**changes or {}),
        mixing=mixing(**mix),
        reference=reference.manifest.run_id if reference else None,
    )
    folder = Store(store).run("small", config).folder
    return harness.store.create_run(
        TrainJobRequest(
            config=config,
            recipe="small",
            out=folder,
            base_checkpoint=base,
            reference_run=reference.folder if reference else None,
            data_root=data,
        )
    )


def request_of(run: Run) -> TrainJobRequest:
    """The request of a run that was created."""
    manifest = run.manifest
    return TrainJobRequest(
        config=manifest.config,
        recipe=manifest.recipe,
        out=run.folder,
        base_checkpoint=run.store / manifest.base_checkpoint,
        data_root=manifest.data_root,
    )


def wait_until(condition: Callable[[], Any], seconds: float = 300.0, *, pause: float = 0.005) -> None:
    """Return as soon as ``condition()`` is true. Looking more often takes a core, and hits shorter moments."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(pause)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of ``size`` at ``folder``; gives a function that changes its size."""
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield lambda size: subprocess.run(("mount", "-o", f"remount,size={size}", str(folder)), check=True)  # type: ignore
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)  # what a stopped process still holds goes later
