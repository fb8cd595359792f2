"""The ``transformers`` engine: lm-eval's own model class, in this process. Slow to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from evals.engines.chat import ChatReply, Keep, Prompt
from evals.engines.engine import Engine, context_length
from harness.errors import MoemixError
from harness.files import read_json, yaml_value
from harness.plugins import register_architectures

# lm-eval keeps the logits of a whole batch. So many sequence × vocabulary elements of 512-token questions fit into
# half a gigabyte of float32, and a batch of more than 64 sequences is no quicker.
_BATCH_LOGITS = 1 << 28
_MAX_BATCH = 64


class InProcessEngine(Engine):
    """A checkpoint loaded with transformers, on the GPU if there is one.

    Args:
        checkpoint: folder of the checkpoint.
        dtype: type of the weights.
        arguments: further arguments of lm-eval's model, such as ``attn_implementation`` or ``parallelize``.
        instead_of_vllm: why vLLM, which was asked for, does not answer.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        dtype: str,
        arguments: Mapping[str, str] | None = None,
        instead_of_vllm: str | None = None,
    ) -> None:
        self.extra = {name: yaml_value(value, where=name) for name, value in (arguments or {}).items()}
        self.checkpoint, self.dtype, self.instead_of_vllm = checkpoint, dtype, instead_of_vllm
        self.max_length = context_length(checkpoint)
        vocabulary = read_json(checkpoint / "config.json").get("vocab_size", 1 << 16)
        self.batch_size = max(1, min(_MAX_BATCH, _BATCH_LOGITS // (512 * vocabulary)))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._lm: SeededHFLM | None = None

    def start(self) -> None:
        """Load the checkpoint."""
        register_architectures()
        try:
            self._lm = SeededHFLM(
                pretrained=str(self.checkpoint),
                dtype=self.dtype,
                device=self.device,
                batch_size=self.batch_size,
                max_length=self.max_length,
                **self.extra,
            )
        except (OSError, ValueError, KeyError) as error:  # what transformers raises for a checkpoint it cannot load
            raise MoemixError(f"transformers cannot load this: {error}", where=str(self.checkpoint)) from error

    def stop(self) -> None:
        """Forget the model."""
        self._lm = None

    def describe(self) -> dict[str, object]:
        """Return what determines the answers."""
        description: dict[str, object] = {
            "name": "transformers",
            "version": transformers.__version__,
            "dtype": self.dtype,
            "args": {"device": self.device, "batch_size": self.batch_size, "max_length": self.max_length, **self.extra},
        }
        return description | ({"instead_of_vllm": self.instead_of_vllm} if self.instead_of_vllm else {})

    def lm(self) -> SeededHFLM:
        """Return lm-eval's model."""
        assert self._lm is not None, "the engine is not running"
        return self._lm


class SeededHFLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's transformers model. A seed decides what is sampled, and it can answer conversations too."""

    def _model_generate(self, *arguments: object, seed: int | None = None, **options: object) -> torch.Tensor:
        """Draw from the seed that the request carries, not from whatever ran before."""
        if seed is not None:
            torch.manual_seed(seed)
        output: torch.Tensor = super()._model_generate(*arguments, **options)
        return output

    def answer_prompts(self, prompts: Sequence[Prompt], keep: Keep) -> None:
        """Answer in batches of similar length: the padding is short, and so is the wait for the longest answer."""
        size = int(self.batch_size)
        ordered = sorted(prompts, key=lambda prompt: (prompt.max_tokens, len(prompt.tokens)))
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            for prompt, reply in zip(batch, self._generate_batch(batch), strict=True):
                keep(prompt.request, reply)

    def _generate_batch(self, batch: Sequence[Prompt]) -> list[ChatReply]:
        model, tokenizer = self.model, self.tokenizer
        longest = max(len(prompt.tokens) for prompt in batch)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eot_token_id
        ids = torch.full((len(batch), longest), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(batch):
            ids[row, longest - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
            mask[row, longest - len(prompt.tokens) :] = 1
        ends = model.generation_config.eos_token_id
        ends = {self.eot_token_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])}
        limits = RowLimits(
            tokenizer, longest, [prompt.max_tokens for prompt in batch], [prompt.request.stop for prompt in batch]
        )
        sampler = RowSampler(
            [prompt.request.temperature for prompt in batch], [prompt.request.seed for prompt in batch]
        )
        # Whatever the checkpoint's own generation settings say, the request's temperature alone decides.
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, num_beams=1, repetition_penalty=1.0, pad_token_id=pad, eos_token_id=sorted(ends),
            max_new_tokens=max(prompt.max_tokens for prompt in batch),
        )  # fmt: skip
        with torch.inference_mode():
            output = model.generate(
                ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([limits]),
            )
        replies = []
        for row, prompt in enumerate(batch):
            new = output[row, longest:].tolist()[: prompt.max_tokens]
            end = next((i for i, token in enumerate(new) if token in ends), None)
            stopped = limits.stopped_at[row]
            finish = "length" if end is None and stopped is None else "stop"
            length = min(i for i in (end, stopped, len(new)) if i is not None)
            text = tokenizer.decode(new[:length], skip_special_tokens=True)
            text = postprocess_generated_text(text, list(prompt.request.stop), None)
            replies.append(ChatReply(text, finish, len(prompt.tokens), length, prompt.cut))
        return replies


class RowSampler(LogitsProcessor):
    """Temperature sampling by the Gumbel-max trick, with a random generator for each row.

    ``argmax(logits / T + g)`` with Gumbel noise ``g`` is a draw from ``softmax(logits / T)``. So greedy decoding after
    this processor samples, and a row's draws depend on its seed and not on its neighbours.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int]) -> None:
        self.temperatures = list(temperatures)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return scores whose largest is the token to draw: f32[rows, vocabulary]."""
        if not any(self.temperatures):
            return scores
        rows = scores.float().clone()
        for row, (temperature, generator) in enumerate(zip(self.temperatures, self.generators, strict=True)):
            if temperature > 0:
                uniform = torch.rand(rows.shape[1], generator=generator).clamp_min(1e-20)
                rows[row] = rows[row] / temperature - torch.log(-torch.log(uniform)).to(rows.device)
        return cast("torch.FloatTensor", rows)


class RowLimits(StoppingCriteria):
    """Ends a row after its own number of tokens, or when one of its stop strings has come.

    Attributes:
        stopped_at: for each row, tokens of the answer when its stop string came; None where none did.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: int, limits: Sequence[int], stops: Sequence[tuple[str, ...]]
    ) -> None:
        self.tokenizer, self.prompt = tokenizer, prompt
        self.limits, self.stops = torch.tensor(list(limits)), list(stops)
        self.stopped_at: list[int | None] = [None] * len(self.stops)

    def __call__(self, input_ids: torch.LongTensor, scores: object, **_: object) -> torch.BoolTensor:
        """Return which rows have ended: bool[rows]."""
        length = input_ids.shape[1] - self.prompt
        ended = self.limits <= length
        for row, stops in enumerate(self.stops):
            if stops and self.stopped_at[row] is None and not ended[row]:
                text = self.tokenizer.decode(input_ids[row, self.prompt :], skip_special_tokens=True)
                if any(stop in text for stop in stops):
                    self.stopped_at[row] = length
            ended[row] = ended[row] or self.stopped_at[row] is not None
        return cast("torch.BoolTensor", ended.to(input_ids.device))
