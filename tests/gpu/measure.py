"""Compare a GPU with the CPU, and measure training at LLaMA-MoE-3.5B's shape with random weights. Prints JSON.

Lengths of examples are drawn as instruction data have them: a log-normal of median 300, mean about 410, at most 2,048.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from harness.recipe import Mixing, Training
from trainers.data import TokenSource
from trainers.data.batches import Forward
from trainers.data.packing import PackedBatch
from trainers.data.sources import SourceReport
from trainers.data.tokens import Example
from trainers.mixing import load_strategy
from trainers.models import architectures, packed
from trainers.models.loss import TargetLosses
from trainers.models.packing import prepare_packing
from trainers.models.routers import RouterObserver
from trainers.models.trainable import freeze
from trainers.training.loop import FitRequest, _Loop, fit

KINDS = ("llama_moe", "mixtral", "olmoe", "deepseek_v3", "moduleformer")
PEAK_FLOPS = 989e12  # bf16 of an H100 or H200, dense
TOKENIZER: Any = SimpleNamespace(pad_token_id=0, eos_token_id=0, decode=lambda ids, **_: "")
SHAPES = {
    "whole": {"size_experts": [[1376] * 8] * 32},  # LLaMA-MoE-3.5B (2/8)
    "middle": {"size_experts": [[344] * 8] * 8, "num_hidden_layers": 8, "hidden_size": 1024, "num_attention_heads": 8},
    "small": {"size_experts": [[16] * 8] * 2, "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4},
}


def make_model(shape: str, device: torch.device, **changes: Any) -> Any:
    """A LLaMA-MoE with random weights, made on the device."""
    heads = SHAPES[shape].get("num_attention_heads", 32)
    fields = {"num_experts": 8, "num_selects": 2, "num_key_value_heads": heads, **SHAPES[shape], **changes}
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama_moe", **fields), dtype=torch.float32)


def make_sources(each: int, vocabulary: int, longest: int) -> list[TokenSource]:
    """Four sources of examples of random tokens, each from a quarter of the vocabulary; half of each is learnt."""
    sources = []
    for k, name in enumerate(("chat", "code", "instructions", "math")):
        random = np.random.default_rng(k)
        lengths = random.lognormal(np.log(300), 0.8, each).clip(16, longest).astype(int)
        low, high = 3 + k * (vocabulary - 3) // 4, 3 + (k + 1) * (vocabulary - 3) // 4
        examples = [
            Example(random.integers(low, high, n).astype(np.int32), np.arange(n) >= n // 2) for n in lengths.tolist()
        ]
        sources.append(TokenSource(name, each, cast("Any", examples), cast("Any", []), SourceReport()))
    return sources


def active_parameters(model: Any) -> float:
    """The matrix parameters that one token is multiplied with."""
    share = model.config.num_selects / model.config.num_experts
    return sum(
        parameter.numel() * (share if ".experts." in name else 1.0)
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and "embed_tokens" not in name
    )


def batch(lengths: list[int], vocabulary: int, device: torch.device) -> Forward:
    """One row of random examples, all of whose tokens but the first are targets."""
    ids = torch.randint(3, vocabulary, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    owners = torch.cat([torch.full((length,), i) for i, length in enumerate(lengths)])[None]
    labels = ids.where(positions > 0, -100)
    return Forward.of(PackedBatch(ids, positions, labels, owners, owners % 2), device)


def relative(found: Tensor, expected: Tensor) -> float:
    """The distance of two tensors as a part of the second."""
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


# --- correctness ----------------------------------------------------------------------------------


def results(kind: str, device: torch.device, *, bfloat16: bool = False) -> dict[str, Any]:
    """Loss, gradients and gate loads of a small model."""
    model = architectures.small_model(kind).to(device)
    prepare_packing(model, 128)
    losses, observer = TargetLosses(model, bfloat16=bfloat16), RouterObserver(model)
    forward = batch([50, 7, 40, 31], 96, device)
    with observer.count(forward.source_RT, 2):
        found = losses(forward)
    found.total.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": found.total.item(), "gradients": gradients, "gate_load": observer.take()}


def correctness(device: torch.device, shape: str, folder: Path) -> dict[str, Any]:
    """How far the GPU's results are from the CPU's, in float32 and in bfloat16."""
    report: dict[str, Any] = {}
    for kind in KINDS:
        host, other = results(kind, torch.device("cpu")), results(kind, device)
        rough = results(kind, device, bfloat16=True)
        report[kind] = {
            "loss": abs(other["loss"] / host["loss"] - 1),
            "gradients": max(relative(other["gradients"][name], g) for name, g in host["gradients"].items()),
            "gate_load_equal": bool(np.array_equal(host["gate_load"], other["gate_load"])),
            "bfloat16_loss": abs(rough["loss"] / host["loss"] - 1),
        }
    return report


def kernel(device: torch.device, shape: str, folder: Path) -> dict[str, Any]:
    """How far the kernel for packed rows is from its definition, forward and backward, with fewer heads of keys."""
    if device.type != "cuda":
        return {}
    ends = torch.tensor([0, 50, 57, 128], dtype=torch.int32, device=device)
    states = [
        torch.randn(128, heads, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for heads in (8, 2, 2)
    ]
    ways: list[Callable[..., Any]] = [
        partial(varlen_attn, **packed._GROUPED_HEADS),
        partial(packed.varlen_by_example, enable_gqa=True),
    ]
    report = {}
    for window in (-1, 15):
        found = []
        for way in ways:
            output = way(*states, ends, ends, 71, 71, window_size=(window, 0))
            found.append([output, *torch.autograd.grad(output.float().square().sum(), states)])
        report[f"window {window}"] = [relative(*pair) for pair in zip(*found, strict=True)]
    return report


def request(model: Any, folder: Path, sources: list[TokenSource], changes: dict[str, Any], rule: str) -> FitRequest:
    """A training of the model."""
    training = {"freeze": "paper", "log_every": 1, "save_every": 10**6, "gate_noise": False, **changes}
    return FitRequest(
        model=model,
        tokenizer=TOKENIZER,
        sources=sources,
        strategy=load_strategy(rule),
        training=Training(**training),
        mixing=Mixing(interval=50 if training["steps"] == 200 else 4),
        seed=0,
        folder=folder,
        title="gpu",
    )


def resume(device: torch.device, shape: str, folder: Path) -> dict[str, Any]:
    """Whether a run that broke off and went on ends with the same bits, and whether one that ran twice does."""
    report = {}
    learn = _Loop._learn
    for dtype in ("float32", "bfloat16"):
        ends = []
        for name in ("whole", "again", "broken"):
            place = folder / f"{dtype}-{name}"
            place.mkdir()
            changes = {"steps": 12, "save_every": 5, "batch_examples": 8, "max_length": 128, "dtype": dtype}
            for fall in (8, None) if name == "broken" else (None,):

                def breaking(self: _Loop, fall: int | None = fall) -> Tensor:
                    if self.step == fall:
                        raise RuntimeError
                    return learn(self)

                model = make_model("small", device, vocab_size=96)
                _Loop._learn = breaking  # type: ignore[method-assign]
                try:
                    fit(request(model, place, make_sources(40, 96, 128), changes, "dynamic"))
                except RuntimeError:
                    if fall is None:
                        raise
                finally:
                    _Loop._learn = learn  # type: ignore[method-assign]
            ends.append(model)
        for name, other in zip(("again", "resumed"), ends[1:], strict=True):
            report[f"{dtype} {name} equal"] = all(
                torch.equal(a, b) for a, b in zip(ends[0].parameters(), other.parameters(), strict=True)
            )
    return report


# --- speed ----------------------------------------------------------------------------------------


def fit_speed(device: torch.device, shape: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Whole steps of training with ``dynamic``: drawing, forward and backward passes, AdamW, updates of the weights."""
    model = make_model(shape, device)
    active, longest = active_parameters(model), 2048 if shape == "whole" else 128
    plan = {"steps": 7, "batch_examples": 128 if shape == "whole" else 16, "max_length": longest, "dtype": "bfloat16"}
    plan |= {"deterministic": False, "tokens_per_forward": 4 * longest, **changes}
    counts: dict[str, int] = {}
    advance = _Loop._advance

    def watched(self: _Loop, *args: Any) -> bool:
        if self.step != 5 or device.type != "cuda" or not changes.get("compile"):
            return advance(self, *args)
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profile:
            stop = advance(self, *args)
        for event in profile.events():
            name = event.name
            if "Synchronize" in name or "Memcpy DtoH" in name or name == "aten::_local_scalar_dense":
                counts[name] = counts.get(name, 0) + 1
        return stop

    folder = Path(tempfile.mkdtemp(dir=folder))
    _Loop._advance = watched  # type: ignore[method-assign]
    try:
        fit(request(model, folder, make_sources(512, model.config.vocab_size, longest), plan, "dynamic"))
    finally:
        _Loop._advance = advance  # type: ignore[method-assign]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line["step"] in (3, 4, 5, 7)]  # compiling comes first, and 6 is profiled
    rate = float(np.median([line["tokens"] / line["seconds"] for line in measured]))
    return {
        "tokens_per_second": rate,
        "mfu": 6 * active * rate / PEAK_FLOPS,
        "step_seconds": [line["seconds"] for line in lines],
        "padding": 1 - sum(line["tokens"] for line in lines) / sum(line["computed_tokens"] for line in lines),
        "waits": counts,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0,
        "losses": [line["loss"] for line in lines],
    }


def counting(device: torch.device, shape: str, folder: Path) -> dict[str, Any]:
    """What it costs to count the gate load of each forward pass, measured in turns."""
    model = make_model(shape, device)
    freeze(model, "paper")
    length = 2048 if shape == "whole" else 64
    prepare_packing(model, length)
    losses = TargetLosses(model.bfloat16(), bfloat16=True).train()
    observer, forward = RouterObserver(model), batch([length // 2] * 8, model.config.vocab_size, device)

    def seconds(count: bool, passes: int = 2) -> float:
        started = time.perf_counter()
        for _ in range(passes):
            if count:
                with observer.count(forward.source_RT, 2):
                    losses(forward).total.backward()
            else:
                losses(forward).total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / passes

    seconds(True), seconds(False)
    ratios = [seconds(True) / seconds(False) - 1 for _ in range(9)]
    return {"cost": float(np.median(ratios)), "of_each_turn": ratios}


def trainer_speed(device: torch.device, shape: str, folder: Path, attention: str, packing: bool) -> dict[str, Any]:
    """Tokens a second of transformers' Trainer: examples padded to the longest, or one after another in a row."""
    model = make_model(shape, device)
    freeze(model, "paper")
    model.set_attn_implementation(attention)
    longest = 2048 if shape == "whole" else 128
    examples = [e for source in make_sources(16, model.config.vocab_size, longest) for e in source.train]  # type: ignore[attr-defined]
    rows = [
        {"input_ids": e.input_ids.tolist(), "labels": np.where(e.is_target, e.input_ids, -100).tolist()}
        for e in (examples[i] for i in np.random.default_rng(0).permutation(len(examples)))
    ]
    tokens = sum(len(row["input_ids"]) for row in rows)

    def pad(features: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        width = max(len(f["input_ids"]) for f in features)

        def padded(key: str, fill: int) -> Tensor:
            return torch.tensor([f[key] + [fill] * (width - len(f[key])) for f in features])

        mask = [[1] * len(f["input_ids"]) + [0] * (width - len(f["input_ids"])) for f in features]
        return {
            "input_ids": padded("input_ids", 0),
            "labels": padded("labels", -100),
            "attention_mask": torch.tensor(mask),
        }

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=8 if packing else 2,
        gradient_accumulation_steps=8 if packing else 32,
        num_train_epochs=3,
        bf16=True,
        optim="adamw_torch_fused",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
    )
    collate = DataCollatorWithFlattening(return_position_ids=True) if packing else pad
    times: list[float] = []

    class Timed(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            if device.type == "cuda" and self.accelerator.sync_gradients:
                torch.cuda.synchronize()
                times.append(time.perf_counter())
            return super().training_step(*args, **kwargs)

    trainer = Timed(model=model, args=arguments, train_dataset=rows, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if len(times) < 3:
        return {"tokens": tokens}
    return {
        "tokens_per_second": tokens / (times[-1] - times[-2]),
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def long_run(device: torch.device, shape: str, folder: Path) -> dict[str, Any]:
    """Two hundred steps of ``dynamic`` in bfloat16 with compiled parts, at a smaller shape."""
    middle, longest = ("middle", 1024) if shape == "whole" else ("small", 64)
    changes = {"steps": 200 if shape == "whole" else 8, "batch_examples": 16, "max_length": longest}
    changes |= {
        "dtype": "bfloat16",
        "tokens_per_forward": 8 * longest,
        "learning_rate": 3e-4,
        "compile": device.type == "cuda",
    }
    started = time.perf_counter()
    sources = make_sources(400, 4000, longest)
    fit(request(make_model(middle, device, vocab_size=4000), folder, sources, changes, "dynamic"))
    trace = [json.loads(line) for line in (folder / "mixture.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": time.perf_counter() - started,
        "loss": [lines[0]["loss"], lines[-1]["loss"]],
        "weights": [line["after"] for line in trace],
    }


SECTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "kernel": kernel,
    "correctness": correctness,
    "resume": resume,
    "training, compiled": partial(fit_speed, compile=True),
    "training": fit_speed,
    "training, compiled, deterministic": partial(fit_speed, compile=True, deterministic=True),
    "counting": counting,
    "200 steps": long_run,
    "Trainer, padded": partial(trainer_speed, attention="sdpa", packing=False),
    "Trainer, packed, sdpa": partial(trainer_speed, attention="sdpa", packing=True),
    "Trainer, packed, flex_attention": partial(trainer_speed, attention="flex_attention", packing=True),
}


def main() -> int:
    """Print what was measured, as JSON; a part that fails is an error in it, and the exit status says so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true", help="a dry run on the CPU, with small shapes")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS), help="some parts")
    given = parser.parse_args()
    logging.disable()
    device, shape = (torch.device("cpu"), "small") if given.cpu else (torch.device("cuda"), "whole")
    name = "CPU" if given.cpu else torch.cuda.get_device_name()
    report: dict[str, Any] = {"device": name, "torch": torch.__version__}
    failed = False
    for section in given.only:
        started = time.perf_counter()
        gc.collect()  # models have hooks that refer to them
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            try:
                report[section] = SECTIONS[section](device, shape, Path(folder))
            except Exception as error:
                report[section], failed = {"error": repr(error)[:500]}, True
                traceback.print_exc()
        report[section]["took"] = round(time.perf_counter() - started, 1)
        print(f"{section}: {json.dumps(report[section])}", file=sys.stderr, flush=True)
    print(json.dumps(report, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
