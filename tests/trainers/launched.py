"""Small models trained on several processes, one case after another, each left where ``test_parallel.py`` looks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from forked import run_ranks
from safetensors.torch import save_file
from small_runs import fit_request, mixing, small_model, small_sources, training

from harness.launch import WANTED, is_first
from trainers.mixing import load_strategy
from trainers.parallel.base import stored_tensors
from trainers.training import loop

Case = dict[str, Any]


class StoppedError(Exception):
    """A case that ends early, as if the machine had gone."""


def run_case(folder: Path, sources: Any, case: Case) -> None:
    """Train one case in ``folder/<name>``, going on from a state that is there. Leaves its records, the weights it
    ends with, and how many of the parameters' numbers this process held while it trained."""
    case = dict(case)
    here = folder / case.pop("name")
    here.mkdir(exist_ok=True)
    model = small_model(**case.pop("model", {}))
    strategy, mix, stop = case.pop("strategy", "dynamic"), case.pop("mix", {}), case.pop("stop_after", None)
    plan = training(**{"learning_rate": 1e-3, **({"save_every": stop} if stop else {}), **case})
    with watched(here, stop):
        try:
            loop.fit(fit_request(model, sources, load_strategy(strategy), here, training=plan, mixing=mixing(**mix)))
        except StoppedError:
            return
    if is_first():
        save_file({name: p.contiguous() for name, p in stored_tensors(model).items()}, here / "weights.safetensors")


@contextmanager
def watched(here: Path, stop: int | None) -> Iterator[None]:
    """While active, what a process holds is written down after each step, and training may break off after a state."""
    learn, save = loop._Loop._learn, loop._Loop._save

    def noting_learn(one: Any) -> torch.Tensor:
        held = sum(getattr(p, "_local_tensor", p).numel() for p in one.model.parameters())
        moments = sum(
            getattr(tensor, "_local_tensor", tensor).numel()
            for state in one.optimizer.state.values()
            for tensor in state.values()
            if torch.is_tensor(tensor)
        )
        (here / f"held-{one.ranks.index}.json").write_text(json.dumps({"weights": held, "moments": moments}))
        return learn(one)

    def breaking_save(one: Any) -> None:
        save(one)
        if stop is not None:
            raise StoppedError

    loop._Loop._learn, loop._Loop._save = noting_learn, breaking_save  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop._Loop._learn, loop._Loop._save = learn, save  # type: ignore[method-assign]


def run_cases(folder: Path, cases: Sequence[Case]) -> None:
    """Every case, on the same three sources."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        sources = small_sources(Path(scratch))
        for case in cases:
            run_case(folder, sources, case)


def launch(folder: Path, cases: Sequence[Case], strategy: str, processes: int = 2) -> None:
    """Run the cases on several processes, in one launch."""
    run_ranks(run_cases, folder, cases, processes=processes, **WANTED[strategy])
