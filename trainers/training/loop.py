"""The training loop: draw, forward, backward, step, and from time to time new weights for the mixture.

Nothing that decides what comes next is stored where it can be derived: draws follow from the seed, the history of
weights and the draw's number; the learning rate from the step; dropout and gate noise from (seed, step). What cannot be
derived is in a state on disk, so a run that is killed at any moment resumes to the same bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.errors import StageError
from harness.files import append_jsonl
from harness.progress import Progress, progress
from harness.recipe import Mixing, Training
from harness.records import HeldOutLosses, MixtureUpdate, StepMetrics, TrainResult
from trainers.data import Draws, SourceExhaustedError, TokenSource
from trainers.data.batches import GlobalBatch, Layout, Tally, pad_id
from trainers.mixing import MixingStrategy, Reference, Sources
from trainers.models.compiled import compile_parts
from trainers.models.loss import TargetLosses
from trainers.models.packing import check_rows, prepare_packing
from trainers.models.trainable import (
    BaseName,
    add_adapters,
    checkpoint_activations,
    fixed_biases,
    freeze,
    gate_halves,
    merge_adapters,
    save_adapters,
    set_gate_noise,
)
from trainers.parallel import parallel
from trainers.signals import Resources, SignalContext, make_signals, sights
from trainers.tracking import Tracker
from trainers.training.held_out import FILE as HELD_OUT
from trainers.training.held_out import HeldOut, held_out_sets
from trainers.training.mixture import Mixture
from trainers.training.runtime import Interrupts, deterministic, peak_memory, seed_forward
from trainers.training.state import State, States, below, prefixed, writing
from trainers.training.trial import Trials
from trainers.training.unused import find_unused

METRICS, TRACE = "metrics.jsonl", "mixture.jsonl"
WRITTEN = (METRICS, TRACE, HELD_OUT)  # files that grow, and are cut back to a state's size when it is resumed
logger = logging.getLogger("moemix.training")


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What to train, on what, and how.

    Attributes:
        model: a causal LM in float32, trained in place.
        sources: the sources, sorted by name.
        seed: seeds draws, dropout, gate noise and held-out examples.
        folder: gets ``state/``, ``metrics.jsonl``, ``mixture.jsonl`` and, on request, ``adapter/``. The caller removes
            the states once the trained model is safe (:meth:`trainers.training.state.States.clear`).
        title: names the run in progress and errors.
        reference: the result of the finished run that the strategy needs.
        resources: what signals may need beside the model.
        tracker: gets every record; only on the first process.
        held_out: further sets of held-out examples, beside those of the sources; strategies may aim at them.
        held_out_every: steps between measurements of held-out losses; None for one at the end.
        base: the name of the model, for adapters that are kept.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sources: Sequence[TokenSource]
    strategy: MixingStrategy
    training: Training
    mixing: Mixing
    seed: int
    folder: Path
    title: str
    reference: Reference | None = None
    resources: Resources | None = None
    tracker: Tracker | None = None
    held_out: Sequence[TokenSource] = ()
    held_out_every: int | None = None
    base: BaseName | None = None


def fit(request: FitRequest) -> TrainResult:
    """Train a model in place, and resume if an earlier attempt left a state in the folder.

    Raises:
        MoemixError: model, sources and strategy do not fit together.
        StageError: the loss is no longer a number, or the disk is full; the last good state is kept.
        KeyboardInterrupt: training was interrupted; a state was written first.
    """
    with deterministic() if request.training.deterministic else nullcontext():
        return _Loop(request).run()


class _Found(NamedTuple):
    """What the forward passes of a step found, while the device may still compute.

    Attributes:
        each_N: f32[N], the loss of each target of this rank.
        balance: the balance loss, weighted by tokens.
        source_N: i64[N], the source of each target, on the host.
    """

    each_N: Tensor
    balance: Tensor
    source_N: NDArray[np.int64]


class _Loop:
    """One run of :func:`fit`."""

    def __init__(self, request: FitRequest) -> None:
        training, strategy, model, sources = request.training, request.strategy, request.model, request.sources
        self.training, self.seed, self.folder, self.title = training, request.seed, request.folder, request.title
        self.sources, self.names = sources, tuple(source.name for source in sources)
        self.model, self.tracker, self.scales = model, request.tracker, strategy.scales
        self.base = request.base
        self.parallel = parallel(training)
        self.ranks, self.device = self.parallel.ranks, self.parallel.device
        self.draws = Draws(np.array([len(source.train) for source in sources]), self.seed, training.exhausted)
        rows, tokens = training.rows_per_forward, training.tokens_per_forward
        self.layout = Layout(training.max_length, training.pack, rows, pad_id(request.tokenizer), tokens)

        self.parallel.check_signals(sights(strategy.signals | strategy.at_start))
        _prepare(model, training, self.seed, self.device)
        losses = TargetLosses(model, bfloat16=training.dtype == "bfloat16", balance=training.balance_loss)
        resources = request.resources or Resources(request.tokenizer)
        targets = held_out_sets((), request.held_out)
        context = SignalContext(
            losses,
            sources,
            request.mixing,
            self.layout,
            self.seed,
            self.ranks,
            resources,
            targets,
            lambda *given: self.trials(*given),
        )
        # Nothing has been trained on before the first step, so the model's gate load can only be probed.
        probing = replace(context, mixing=request.mixing.model_copy(update={"gate_load": "probe"}))
        at_start = partial(make_signals, strategy.at_start, probing)
        sizes = np.array([source.size for source in sources], dtype=np.int64)
        facts = Sources(self.names, sizes, training.steps, self.seed, request.reference, tuple(targets))
        if self.ranks.first and (advice := strategy.advice(facts)):
            logger.warning("warning: %s", advice)
        signals = make_signals(strategy.signals, context)
        self.mixture = Mixture(strategy, facts, signals, at_start, request.mixing.interval, self.ranks)
        sets = held_out_sets(sources, request.held_out)
        self.held_out = HeldOut(losses, sets, self.layout, self.ranks, request.tokenizer)
        self.held_out_every = request.held_out_every

        self.states = States(self.folder / "state", training.keep_states)
        self.step = 0
        self.seconds = 0.0
        self.seen = Tally.empty(len(sources))  # since training began
        self.window = Tally.empty(len(sources))  # since the last line of metrics
        self.window_loss = float("nan")  # over the last finished window
        self.source_loss = np.full(len(sources), np.nan)  # last known
        if fixed := fixed_biases(model):
            self._note(f"{len(fixed)} router biases stay as they are, since no gradient moves them: {fixed[0]}, …")
        if training.pack:
            with suppress(SourceExhaustedError):
                check_rows(model, *self._draw().sample_rows())
        if self.ranks.count > 1:
            with suppress(SourceExhaustedError):
                real = next(iter(self._draw().forwards(0, 1, self.device)))
                lacking, reached = find_unused(losses, model, real, self.layout.padding(self.device))
                if lacking:
                    self.parallel.expect_unused(reached)
                    self._note(
                        f"{len(lacking)} parameters got no gradient in a trial, so ranks look for them: {lacking[0]}, …"
                    )
        self.parallel.partly_frozen = gate_halves(model, training.freeze)
        self.losses, self.optimizer = self.parallel.prepare(losses, model, training)
        if training.compile:  # after all trials in float32, for which it would compile too
            compile_parts(model)
        rate = partial(learning_rate, training)
        self.trials = Trials(
            self.losses, self.optimizer, self.parallel, self.layout, rate, training.max_grad_norm, self.seed
        )

    # --- the whole run -------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        """Train to the end, or until an interrupt."""
        self._resume()
        self.losses.train()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        bar = progress(self.title, self.training.steps, self.step) if self.ranks.first else nullcontext()
        with Interrupts() as interrupts, bar as shown:
            while self.step < self.training.steps:
                try:
                    stop = self._advance(interrupts, shown)
                except SourceExhaustedError as end:
                    self._note(
                        f"source {self.names[end.source]} is used up after {self.step} of {self.training.steps} steps;"
                        " training ends here (training.exhausted=stop)"
                    )
                    break
                if stop and self.step < self.training.steps:
                    if self.step % self.training.save_every:
                        self._save()
                    raise KeyboardInterrupt
        self._measure_held_out()
        if self.tracker is not None:
            self.tracker.end_step()
        self.parallel.release(self.model)
        if (lora := self.training.lora) is not None and self.ranks.first:
            if lora.keep:
                with writing(self.folder):
                    save_adapters(self.model, lora, self.base, self.folder / "adapter")
            merge_adapters(self.model)
        return self._result()

    def _advance(self, interrupts: Interrupts, shown: Progress | None) -> bool:
        """Do one step, and what is due after it. Return whether any rank was interrupted."""
        started = time.perf_counter()
        batch = self._draw()
        rate = learning_rate(self.training, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        found = self._forward_backward(batch)
        tally, balance, norm, stop = self._fetch(batch, found, self._learn(), interrupts)
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
        if not last and self.held_out_every and self.step % self.held_out_every == 0:
            self._measure_held_out()
        if last or self.step % self.training.log_every == 0:
            self._log(batch, balance, rate, norm, seconds)
        if self.tracker is not None:
            self.tracker.end_step()
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

    def _forward_backward(self, batch: GlobalBatch) -> _Found:
        """Compute the gradients of the mean loss over the global batch's targets.

        Where the mixture scales the loss, it is the weighted mean with each source's scale as its targets' weight.
        Ranks average their gradients, hence the factor that turns this into a sum. The host prepares a forward pass
        while the device computes those before it.
        """
        scale_K = self.mixture.loss_scale
        targets = float(batch.tally.targets.sum() if scale_K is None else batch.tally.targets @ scale_K)
        tokens = int(batch.tally.tokens.sum())
        losses, sources, balances = [], [], []
        count = math.ceil(len(batch.all_forwards) / self.ranks.count)
        for i, forward in enumerate(batch.forwards(self.ranks.index, self.ranks.count, self.device)):
            seed_forward(self.seed, self.step, i * self.ranks.count + self.ranks.index)
            with self.parallel.accumulate(self.losses, last=i + 1 == count):
                with self.mixture.watch(forward.source_RT):
                    found = self.losses(forward, scale_K)
                balance = found.balance * (forward.tokens / tokens)
                loss = found.total / targets + balance
                self.parallel.backward(loss * self.ranks.count)
            losses.append(found.each_N)
            balances.append(balance.detach())
            sources.append(forward.target_source_N)
        return _Found(torch.cat(losses), torch.stack(balances).sum(), np.concatenate(sources))

    def _fetch(
        self, batch: GlobalBatch, found: _Found, norm_on_device: Tensor, interrupts: Interrupts
    ) -> tuple[Tally, float | None, float, bool]:
        """Wait for the device, once a step.

        Returns:
            sums over sources and all ranks; the balance loss, if there is one; the gradient's norm before clipping;
            whether any rank was interrupted.
        """
        scalars = [found.balance.float()[None], norm_on_device.float().to(found.each_N.device)[None]]
        fetched = torch.cat([found.each_N, *scalars]).cpu().double().numpy()
        each, balance, norm, source = fetched[:-2], fetched[-2], float(fetched[-1]), found.source_N
        further = [balance, float(interrupts.pending)]
        sums = self.ranks.sum(np.append(np.bincount(source, each, len(self.names)), further))
        batch.tally.losses += sums[:-2]
        if not np.isfinite(batch.tally.losses).all():
            broken = self.ranks.sum(np.bincount(source, ~np.isfinite(each), len(self.names)))
            raise self._diverged("the loss", int(broken.argmax()))
        if not math.isfinite(norm):
            raise self._diverged("the gradient", int(np.nanargmax(batch.tally.source_loss)))
        balance_loss = None if self.training.balance_loss == "none" else float(sums[-2])
        return batch.tally, balance_loss, norm, bool(sums[-1])

    def _learn(self) -> Tensor:
        """Clip and step. Return the gradient's norm before clipping, on the device."""
        return self.parallel.step(self.losses, self.optimizer, self.training.max_grad_norm)

    def _diverged(self, what: str, source: int) -> StageError:
        states = self.states.steps()
        kept = f"the state of step {states[-1]} is kept" if states else "no state had been written yet"
        return StageError(
            f"{what} of step {self.step + 1} is not a finite number; worst source: {self.names[source]}",
            where=self.title,
            hint=f"{kept}; a lower training.learning_rate or max_grad_norm may help",
        )

    # --- what is written -----------------------------------------------------------------------------

    def _measure_held_out(self) -> None:
        for record in self.held_out.measure(self.step):
            self._append(HELD_OUT, record)
        for module in self.losses.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after a forward pass without a backward one, the whole weights would stay

    def _append(self, name: str, record: StepMetrics | MixtureUpdate | HeldOutLosses) -> None:
        if self.ranks.first:
            with writing(self.folder):
                append_jsonl(self.folder / name, record.model_dump(mode="json"))
        if self.tracker is not None:
            self.tracker.add(record)

    def _log(self, batch: GlobalBatch, balance: float | None, rate: float, norm: float, seconds: float) -> None:
        known, tally = self.window.targets > 0, batch.tally
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
            logger.info("%s: %s", self.title, text)

    def _by_source(self, values: np.ndarray) -> dict[str, float | None]:
        """Return values by the sources' names, with None for nan."""
        return {n: None if v != v else v for n, v in zip(self.names, values.tolist(), strict=True)}

    def _save(self) -> None:
        arrays = {
            **prefixed("mixture", self.mixture.arrays()),
            **prefixed("seen", self.seen.arrays()),
            **prefixed("window", self.window.arrays()),
            "source_loss": self.source_loss,
            "window_loss": np.array(self.window_loss),
        }
        weights, moments = self.parallel.tensors(self.model), self.parallel.moments(self.model, self.optimizer)
        if not self.ranks.first:
            return
        facts = {
            "mixture": self.mixture.facts(),
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
            "files": {name: (self.folder / name).stat().st_size for name in WRITTEN},
        }
        self.states.save(State(self.step, weights, moments, arrays, facts))

    def _resume(self) -> None:
        """Load the newest valid state, or begin."""
        state = self.states.newest() if self.ranks.first else None
        self.ranks.wait()
        state = state if self.ranks.first else self.states.newest()
        sizes = state.facts["files"] if state else dict.fromkeys(WRITTEN, 0)
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
            raise StageError("the state does not belong to these sources", where=str(self.states.folder))
        exact = "" if self.training.deterministic else ", not to the same bits (training.deterministic=false)"
        self._note(f"resuming from step {self.step}{exact}")
        if state.facts["threads"] != torch.get_num_threads():  # sums are split over threads: another count, other bits
            self._note(f"using {state.facts['threads']} threads, as at the start, not {torch.get_num_threads()}")
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


def _prepare(model: PreTrainedModel, training: Training, seed: int, device: torch.device) -> None:
    """Move a model to its device, and change it as the recipe says."""
    cast("nn.Module", model).to(device)
    freeze(model, training.freeze, training.weight_decay)
    if training.gate_noise is not None:
        set_gate_noise(model, training.gate_noise)
    if training.lora is not None:
        add_adapters(model, training.lora, training.freeze, seed)
    if training.pack:
        prepare_packing(model, training.max_length)
    if training.gradient_checkpointing:
        checkpoint_activations(model)


def learning_rate(training: Training, step: int) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then the schedule down to 0 at the end."""
    warmup = math.ceil(training.warmup * training.steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    done = (step - warmup) / max(1, training.steps - warmup)
    left = 1.0 - done if training.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return training.learning_rate * left
