"""The training loop: draw, forward, backward, step, and now and then new weights for the mixture.

Nothing that decides what comes next is remembered where it can be derived: draws follow from the seed, the history of
weights and the draw's number, the learning rate from the step, dropout and gate noise from (seed, step). What cannot
be derived is in a state on disk, so a run killed at any moment goes on to the same bits.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import StageFailed
from harness.files import append_jsonl
from harness.progress import Progress, progress
from harness.recipe import Mixing, Training
from harness.records import MixtureUpdate, StepMetrics, TrainResult
from trainers.data import Draws, SourceExhausted, TokenSource
from trainers.mixing import MixingStrategy, Reference, Sources
from trainers.parallel import parallel
from trainers.signals import Resources, make_signals
from trainers.tracking import Tracker
from trainers.training.balance import set_gate_noise
from trainers.training.batches import GlobalBatch, Layout
from trainers.training.lora import add_adapters, merge_adapters
from trainers.training.loss import TargetLosses
from trainers.training.mixture import Mixture
from trainers.training.optimizer import freeze, learning_rate
from trainers.training.packing_check import prepare_packing
from trainers.training.runtime import Interrupts, deterministic, peak_memory, seed_forward
from trainers.training.state import State, States, below, prefixed, writing
from trainers.training.tally import Tally

METRICS, TRACE = "metrics.jsonl", "mixture.jsonl"


def fit(
    model: Any,
    tokenizer: Any,
    sources: Sequence[TokenSource],
    strategy: MixingStrategy,
    training: Training,
    mixing: Mixing,
    seed: int,
    folder: Path,
    title: str,
    *,
    reference: Reference | None = None,
    resources: Resources | None = None,
    tracker: Tracker | None = None,
) -> TrainResult:
    """Train ``model`` in place, resuming from ``folder`` if an earlier attempt left a state there.

    Args:
        model: a transformers causal LM in float32.
        sources: sorted by name.
        folder: gets ``state/``, ``metrics.jsonl`` and ``mixture.jsonl``. The states are the caller's to remove, once
            the trained model is safe (:meth:`trainers.training.state.States.clear`).
        title: what progress is called.
        reference: of the finished run that the strategy needs.
        resources: what signals may want beside the model.
        tracker: is told every record; only on the first process.

    Raises:
        MoemixError: model, sources and strategy do not go together.
        StageFailed: the loss is no longer a number, or the disk is full; the last good state is kept.
        KeyboardInterrupt: asked to stop; a state was written first.
    """
    with deterministic():
        course = model, tokenizer, sources, strategy, training, mixing, seed, folder, title
        return _Loop(*course, reference, resources, tracker).run()


class _Loop:
    """One run of :func:`fit`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sources: Sequence[TokenSource],
        strategy: MixingStrategy,
        training: Training,
        mixing: Mixing,
        seed: int,
        folder: Path,
        title: str,
        reference: Reference | None = None,
        resources: Resources | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.parallel = parallel(training)
        self.ranks, self.device = self.parallel.ranks, self.parallel.device
        self.training, self.seed, self.folder, self.title = training, seed, folder, title
        self.sources, self.names = sources, tuple(source.name for source in sources)
        self.draws = Draws(np.array([len(source.train) for source in sources]), seed, training.exhausted)
        self.layout = Layout(training.max_length, training.pack, training.rows_per_forward, pad_id(tokenizer))

        model.to(self.device)
        freeze(model, training.freeze)
        if training.gate_noise is not None:
            set_gate_noise(model, training.gate_noise)
        if training.lora is not None:
            add_adapters(model, training.lora, training.freeze, seed)
        if training.pack:
            prepare_packing(model)
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.parallel.check_signals(strategy.signals | strategy.at_start)
        self.model = model
        losses = TargetLosses(model, bfloat16=training.dtype == "bfloat16", balance=training.balance_loss)
        signals = partial(
            make_signals,
            losses=losses,
            sources=sources,
            layout=self.layout,
            seed=seed,
            ranks=self.ranks,
            resources=resources or Resources(tokenizer),
        )
        # Nothing has been trained on before the first step, so the model's gate load can only be probed.
        at_start = partial(signals, strategy.at_start, mixing=mixing.model_copy(update={"gate_load": "probe"}))
        sizes = np.array([source.size for source in sources], dtype=np.int64)
        facts = Sources(self.names, sizes, training.steps, seed, reference)
        if self.ranks.first and (advice := strategy.advice(facts)):
            print(f"warning: {advice}", file=sys.stderr, flush=True)
        observed = signals(strategy.signals, mixing=mixing)
        self.mixture = Mixture(strategy, facts, observed, at_start, mixing.interval, self.ranks)
        self.scales = strategy.scales
        self.losses, self.optimizer = self.parallel.prepare(losses, model, training)

        self.tracker = tracker
        self.states = States(folder / "state", training.keep_states)
        self.step = 0
        self.seconds = 0.0
        self.seen = Tally.empty(len(sources))  # since training began
        self.window = Tally.empty(len(sources))  # since the last line of metrics
        self.window_loss = float("nan")  # over the last finished window
        self.source_loss = np.full(len(sources), np.nan)  # last known

    # --- the course of a run -----------------------------------------------------------------------

    def run(self) -> TrainResult:
        self._resume()
        self.losses.train()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        bar = progress(self.title, self.training.steps, self.step) if self.ranks.first else nullcontext()
        with Interrupts() as interrupts, bar as shown:
            while self.step < self.training.steps:
                try:
                    stop = self._advance(interrupts, shown)
                except SourceExhausted as end:
                    self._note(
                        f"source {self.names[end.source]} is used up after {self.step} of {self.training.steps} steps;"
                        " training ends here (training.exhausted=stop)"
                    )
                    break
                if stop and self.step < self.training.steps:
                    if self.step % self.training.save_every:
                        self._save()
                    raise KeyboardInterrupt
        self.parallel.release(self.model)
        if self.training.lora is not None and self.ranks.first:
            merge_adapters(self.model)
        return self._result()

    def _advance(self, interrupts: Interrupts, shown: Progress | None) -> bool:
        """One step, and what is due after it. Says whether any rank was asked to stop."""
        started = time.perf_counter()
        batch = self._draw()
        rate = self._set_learning_rate()
        tally, balance, stop = self._forward_backward(batch, interrupts)
        norm = self._learn(tally)
        self.step += 1
        self.seen.add(tally)
        self.window.add(tally)
        self.mixture.add(tally)
        last = self.step == self.training.steps
        if not last and self.mixture.due(self.step):
            update = self.mixture.update(self.step, self.step * self.training.batch_examples, self.seen)
            self._append(TRACE, update)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if last or self.step % self.training.log_every == 0:
            self._log(batch, tally, balance, rate, norm, seconds)
        if self.tracker is not None:
            self.tracker.tell()
        if not last and self.step % self.training.save_every == 0:
            self._save()
        if shown is not None:
            shown.advance(note=f"loss {tally.loss:.3f}, {tally.tokens.sum() / seconds:,.0f} tokens/s")
        return stop

    # --- one step ------------------------------------------------------------------------------------

    def _draw(self) -> GlobalBatch:
        count = self.training.batch_examples
        source_ids, indices = self.draws.take(self.step * count, count, self.mixture.draw_weights, self.seen.examples)
        return GlobalBatch.of(self.sources, source_ids, indices, self.layout)

    def _set_learning_rate(self) -> float:
        rate = learning_rate(self.training, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _forward_backward(self, batch: GlobalBatch, interrupts: Interrupts) -> tuple[Tally, float | None, bool]:
        """Gradients of the mean loss over the global batch's targets; sums over sources and all ranks, the balance
        loss if there is one, and whether any rank was asked to stop.

        Where the mixture scales the loss, it is the weighted mean with each source's scale as its targets' weight.
        Ranks average their gradients, hence the factor that turns this into a sum.
        """
        scale_K = self.mixture.loss_scale
        targets = float(batch.tally.targets.sum() if scale_K is None else batch.tally.targets @ scale_K)
        tokens = int(batch.tally.tokens.sum())
        losses, sources, balances = [], [], []
        forwards = list(batch.forwards(self.ranks.index, self.ranks.count, self.device))
        for i, forward in enumerate(forwards):
            seed_forward(self.seed, self.step, i * self.ranks.count + self.ranks.index)
            with self.parallel.accumulate(self.losses, last=i + 1 == len(forwards)):
                with self.mixture.watch(forward.source_RT):
                    found = self.losses(forward, scale_K)
                balance = found.balance * (forward.tokens / tokens)
                loss = found.total / targets + balance
                self.parallel.backward(loss * self.ranks.count)
            losses.append(found.each_N)
            balances.append(balance.detach())
            sources.append(forward.target_source_N)
        each, source = torch.cat(losses).cpu().double().numpy(), np.concatenate(sources)
        further = [float(torch.stack(balances).sum()), float(interrupts.pending)]
        sums = self.ranks.sum(np.append(np.bincount(source, each, len(self.names)), further))
        batch.tally.losses += sums[:-2]
        if not np.isfinite(batch.tally.losses).all():
            broken = self.ranks.sum(np.bincount(source, ~np.isfinite(each), len(self.names)))
            raise self._diverged("the loss", int(broken.argmax()))
        balance_loss = None if self.training.balance_loss == "none" else float(sums[-2])
        return batch.tally, balance_loss, bool(sums[-1])

    def _learn(self, tally: Tally) -> float:
        """Clip and step; the gradient's norm before clipping."""
        norm = self.parallel.learn(self.losses, self.optimizer, self.training.max_grad_norm)
        if not math.isfinite(norm):
            raise self._diverged("the gradient", int(np.nanargmax(tally.source_loss)))
        return norm

    def _diverged(self, what: str, source: int) -> StageFailed:
        states = self.states.steps()
        kept = f"the state of step {states[-1]} is kept" if states else "no state had been written yet"
        return StageFailed(
            f"{what} of step {self.step + 1} is not a finite number; worst source: {self.names[source]}",
            where=self.title,
            hint=f"{kept}; a lower training.learning_rate or max_grad_norm may help",
        )

    # --- what is written -----------------------------------------------------------------------------

    def _append(self, name: str, record: StepMetrics | MixtureUpdate) -> None:
        if self.ranks.first:
            with writing(self.folder):
                append_jsonl(self.folder / name, record.model_dump(mode="json"))
        if self.tracker is not None:
            self.tracker.add(record)

    def _log(
        self, batch: GlobalBatch, tally: Tally, balance: float | None, rate: float, norm: float, seconds: float
    ) -> None:
        known = self.window.targets > 0
        self.source_loss[known] = self.window.source_loss[known]
        self.window_loss = self.window.loss
        self.window.clear()
        metrics = StepMetrics(
            step=self.step,
            loss=tally.loss,
            balance_loss=balance,
            source_loss=self._by_source(tally.source_loss),
            examples=int(tally.examples.sum()),
            tokens=int(tally.tokens.sum()),
            target_tokens=int(tally.targets.sum()),
            computed_tokens=batch.computed_tokens,
            learning_rate=rate,
            grad_norm=norm,
            seconds=seconds,
        )
        self._append(METRICS, metrics)

    def _note(self, text: str) -> None:
        if self.ranks.first:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def _by_source(self, values: np.ndarray) -> dict[str, Any]:
        """By name, with None for nan."""
        return {n: None if v != v else v for n, v in zip(self.names, values.tolist(), strict=True)}

    def _save(self) -> None:
        arrays = {
            **prefixed("mixture", self.mixture.arrays()),
            **prefixed("seen", self.seen.arrays()),
            **prefixed("window", self.window.arrays()),
            "source_loss": self.source_loss,
            "window_loss": np.array(self.window_loss),
        }
        weights, learnt = self.parallel.tensors(self.model), self.parallel.moments(self.model, self.optimizer)
        if not self.ranks.first:
            return
        facts = {
            "mixture": self.mixture.facts(),
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
            "files": {name: (self.folder / name).stat().st_size for name in (METRICS, TRACE)},
        }
        self.states.save(State(self.step, weights, learnt, arrays, facts))

    def _resume(self) -> None:
        """Take up the newest valid state, or begin."""
        state = self.states.newest() if self.ranks.first else None
        self.ranks.wait()
        state = state if self.ranks.first else self.states.newest()
        sizes = state.facts["files"] if state else dict.fromkeys((METRICS, TRACE), 0)
        if self.ranks.first:
            for name, size in sizes.items():
                with open(self.folder / name, "ab") as file:
                    file.truncate(size)
        if self.tracker is not None:
            self.tracker.begin()
        if state is None:
            started = time.perf_counter()
            self._append(TRACE, self.mixture.begin(self.seen))
            self.seconds = time.perf_counter() - started
            return
        self.step, self.seconds = state.step, state.facts["seconds"]
        self.parallel.restore(self.model, self.optimizer, state.model, state.optimizer)
        self.mixture.restore(below("mixture", state.arrays), state.facts["mixture"])
        self.seen, self.window = (Tally(**below(part, state.arrays)) for part in ("seen", "window"))
        self.source_loss, self.window_loss = state.arrays["source_loss"], float(state.arrays["window_loss"])
        drawn = self.draws.replay(self.mixture.history, self.step * self.training.batch_examples)
        if not np.array_equal(drawn, self.seen.examples):
            raise StageFailed("the state does not belong to these sources", where=str(self.states.folder))
        self._note(f"going on from step {self.step}")
        if state.facts["threads"] != torch.get_num_threads():  # sums are split over threads: another count, other bits
            self._note(f"with {state.facts['threads']} threads, as begun, not {torch.get_num_threads()}")
            torch.set_num_threads(state.facts["threads"])

    def _result(self) -> TrainResult:
        sizes = np.array([len(source.train) for source in self.sources])
        average = self.mixture.average
        return TrainResult(
            steps=self.step,
            examples=int(self.seen.examples.sum()),
            tokens=int(self.seen.tokens.sum()),
            target_tokens=int(self.seen.targets.sum()),
            seconds=self.seconds,
            mixing_seconds=self.mixture.seconds,
            final_loss=None if math.isnan(self.window_loss) else self.window_loss,
            final_weights=self._by_source(self.mixture.weights),
            average_weights=None if average is None else self._by_source(average),
            scales=self.scales,
            realised_examples=self._by_source(self.seen.examples),
            realised_tokens=self._by_source(self.seen.tokens),
            source_losses=self._by_source(self.source_loss),
            epochs=self._by_source(self.seen.examples / sizes),
            peak_memory_bytes=peak_memory(self.device),
            processes=self.ranks.count,
            parallel=self.parallel.name,
        )


def pad_id(tokenizer: Any) -> int:
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
