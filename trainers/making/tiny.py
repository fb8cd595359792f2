"""Make a tiny MoE on the spot: random weights from an architecture's configuration, a tokenizer, and pretraining."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from harness.errors import MoemixError, unknown
from harness.recipe import Mixing, Pretrain, Source, TinyModel
from harness.records import TrainResult
from trainers.data import load_sources
from trainers.data.conversation import MalformedRowError, UnusableRowError
from trainers.data.encoder import Encoder
from trainers.data.parts import open_part
from trainers.making.tokenizer import train_tokenizer
from trainers.mixing import load_strategy
from trainers.models.routers import RouterObserver
from trainers.training.loop import FitRequest, fit

_VOCABULARY = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")  # fields that the tokenizer decides


def random_model(
    model: TinyModel, sources: Sequence[Source], root: Path | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build the architecture with seeded random weights in float32, over a tokenizer trained on the sources.

    Raises:
        MoemixError: the architecture or a configuration field does not exist, its MoE layers cannot be observed, or the
            sources are not valid.
    """
    length = configuration(model, {}).max_position_embeddings
    tokenizer = train_tokenizer(texts(sources, root), vocab_size=model.tokenizer.vocab_size, max_length=length)
    values = (len(tokenizer), tokenizer.pad_token_id, None, tokenizer.eos_token_id)
    config = configuration(model, dict(zip(_VOCABULARY, values, strict=True)))
    with torch.random.fork_rng():
        torch.manual_seed(model.seed)
        try:
            network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise MoemixError(str(error).partition("\n")[0], where=f"model {model.name}") from error
    RouterObserver(network)  # refuses an architecture without routers before pretraining
    return network, tokenizer


def pretrain(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    model: TinyModel,
    plan: Pretrain,
    *,
    root: Path | None,
    cache: Path,
    folder: Path,
) -> TrainResult:
    """Train a model in place on the pretraining sources, with weights by their sizes.

    Raises:
        StageError: pretraining failed.
    """
    length, seed = plan.training.max_length, model.seed
    sources = load_sources(plan.sources, tokenizer=tokenizer, max_length=length, seed=seed, root=root, cache=cache)
    folder.mkdir(parents=True, exist_ok=True)
    return fit(
        FitRequest(
            model=network,
            tokenizer=tokenizer,
            sources=sources,
            strategy=load_strategy("datasize"),
            training=plan.training,
            mixing=Mixing(),
            seed=seed,
            folder=folder,
            title=f"pretraining {model.name}",
        )
    )


def texts(sources: Sequence[Source], root: Path | None) -> Iterator[str]:
    """Yield the usable rows of the sources as the model reads them, conversations in the chat template."""
    encoder = Encoder(train_tokenizer((), vocab_size=0, max_length=0))  # bytes: enough to render conversations
    for source in sources:
        for part in source.parts:
            opened = open_part(part, root=root, source=source.name)
            for row, _ in opened.rows:
                try:
                    if (content := opened.adapter.read(row)) is not None:
                        yield encoder.render(content, control="tokens").text
                except (UnusableRowError, MalformedRowError):
                    continue  # reported when the sources are tokenised


def check(model: TinyModel) -> None:
    """Build the architecture without weights, and look for its routers.

    Raises:
        MoemixError: as :func:`random_model`.
    """
    config = configuration(model, {})
    try:
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # each architecture checks its sizes in its own way
        reason = str(error).partition("\n")[0]
        raise MoemixError(f"the model cannot be built: {reason}", where=f"model {model.name}") from error
    RouterObserver(network)


def configuration(model: TinyModel, vocabulary: dict[str, int | None]) -> PreTrainedConfig:
    """Return the architecture's configuration with the recipe's fields; transformers itself would accept any name."""
    where = f"model {model.name}"
    if model.architecture not in CONFIG_MAPPING:
        close = difflib.get_close_matches(model.architecture, list(CONFIG_MAPPING), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise MoemixError(
            f"unknown architecture {model.architecture!r}",
            where=where,
            hint=f"{hint}Every model type of transformers is accepted.",
        )
    given = set(model.config)
    if taken := given & set(_VOCABULARY):
        raise MoemixError("the tokenizer decides it (`tokenizer.vocab_size`)", where=f"{where}.config.{min(taken)}")
    kind = CONFIG_MAPPING[model.architecture]
    known = set(kind().to_dict()) | set(kind.attribute_map)
    for name in sorted(given - known):
        raise unknown("configuration field", name, known, where=f"{where}.config")
    try:
        return AutoConfig.for_model(model.architecture, **model.config, **vocabulary)
    except Exception as error:  # each configuration checks its fields in its own way
        raise MoemixError(f"the configuration is not valid: {error}", where=f"{where}.config") from error
