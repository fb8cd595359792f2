"""A tiny MoE on the spot: random weights from an architecture's configuration, its own tokenizer, and pretraining."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import MoemixError, unknown
from harness.recipe import Mixing, Source, TinyModel
from trainers.models.bpe import train_tokenizer
from trainers.models.routers import RouterObserver


def make_tiny(
    model: TinyModel, sources: Sequence[Source], *, root: Path | None, cache: Path, folder: Path
) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer and report.

    Args:
        sources: what the tokenizer is trained on: the pretraining sources, or those of the mixture.
        root: the data root.
        cache: the folder of token caches.
        folder: gets the pretraining's states, metrics and trace.

    Raises:
        MoemixError: no such architecture or configuration field, an architecture without observable MoE layers, or bad
            sources.
        StageFailed: pretraining failed.
    """
    length = _configuration(model, {}).max_position_embeddings
    tokenizer = train_tokenizer(texts(sources, root), vocab_size=model.tokenizer.vocab_size, max_length=length)
    network = random_model(model, tokenizer)
    if model.pretrain is None:
        return network, tokenizer, {}
    return network, tokenizer, {"pretrain": _pretrain(model, network, tokenizer, root=root, cache=cache, folder=folder)}


def random_model(model: TinyModel, tokenizer: Any) -> Any:
    """The architecture with seeded random weights in float32, over the tokenizer's vocabulary."""
    import torch
    from transformers import AutoModelForCausalLM

    vocabulary = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = _configuration(model, vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(model.seed)
        try:
            network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise MoemixError(str(error).partition("\n")[0], where=f"model {model.name}") from error
    RouterObserver(network)  # an architecture without routers is refused here rather than after pretraining
    return network


def texts(sources: Sequence[Source], root: Path | None) -> Iterator[str]:
    """The rows of the sources as the model will read them, conversations in the chat template; unusable rows left out.

    Raises:
        MoemixError: a row that breaks its format, with its place.
    """
    from trainers.data.conversation import Malformed, Unusable
    from trainers.data.reading import read_part
    from trainers.data.template import Encoder
    from trainers.data.tokenise import PartAdapter

    encoder = Encoder(train_tokenizer((), vocab_size=0, max_length=0))  # bytes: enough to render conversations
    for source in sources:
        for part in source.parts:
            adapter = PartAdapter(part, f"source {source.name}")
            for row, where in read_part(part, root=root, source=source.name)[1]:
                try:
                    if adapter.wants(row):
                        yield adapter.render(row, encoder).text
                except Unusable:
                    continue
                except Malformed as reason:
                    raise MoemixError(f"not in the format `{part.adapter}`: {reason}", where=where) from reason


def _configuration(model: TinyModel, vocabulary: dict[str, Any]) -> Any:
    """The architecture's configuration with the recipe's fields; transformers itself would accept any name."""
    from transformers import CONFIG_MAPPING, AutoConfig

    where = f"model {model.name}"
    if model.architecture not in CONFIG_MAPPING:
        close = difflib.get_close_matches(model.architecture, list(CONFIG_MAPPING), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise MoemixError(
            f"unknown architecture {model.architecture!r}",
            where=where,
            hint=f"{hint}Any transformers model type will do.",
        )
    given = set(model.config)
    if taken := given & {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"}:
        raise MoemixError("is decided by the tokenizer (`tokenizer.vocab_size`)", where=f"{where}.config.{min(taken)}")
    kind = CONFIG_MAPPING[model.architecture]
    known = set(kind().to_dict()) | set(kind.attribute_map)
    for name in sorted(given - known):
        raise unknown("configuration field", name, known, where=f"{where}.config")
    try:
        return AutoConfig.for_model(model.architecture, **model.config, **vocabulary)
    except Exception as error:  # each configuration checks its fields in its own way
        raise MoemixError(f"the configuration is not valid: {error}", where=f"{where}.config") from error


def _pretrain(
    model: TinyModel, network: Any, tokenizer: Any, *, root: Path | None, cache: Path, folder: Path
) -> dict[str, Any]:
    """Language modelling on the pretraining sources, each weighing by its size; what it did, in totals."""
    from trainers.data import load_sources
    from trainers.mixing import load_strategy
    from trainers.training.loop import fit

    assert model.pretrain is not None
    training = model.pretrain.training
    sources = load_sources(
        model.pretrain.sources,
        tokenizer=tokenizer,
        max_length=training.max_length,
        seed=model.seed,
        root=root,
        cache=cache,
    )
    folder.mkdir(parents=True, exist_ok=True)
    title = f"pretraining {model.name}"
    result = fit(network, tokenizer, sources, load_strategy("datasize"), training, Mixing(), model.seed, folder, title)
    return result.model_dump(mode="json")
