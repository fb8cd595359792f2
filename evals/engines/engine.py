"""What an engine is: a checkpoint that answers requests for as long as a ``with`` block lasts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.errors import MoemixError
from harness.files import read_json

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

MAX_CONTEXT = 8192  # tokens; longer contexts cost memory, and no suite here needs them


class Engine(ABC):
    """Answers the requests of all tasks of one checkpoint, which it loads once.

    Attributes:
        max_length: tokens of prompt and answer together.
    """

    max_length: int

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Load the checkpoint, or start or find the server that does."""

    def stop(self) -> None:  # noqa: B027  (not every engine has something to release)
        """Release what :meth:`start` took."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return name, version, dtype and arguments: all that determines answers besides checkpoint and request.

        ``instead_of_vllm`` says why this is not the engine that was asked for.
        """

    def changed(self) -> str:
        """Return in words how what answers has changed since :meth:`describe`; empty if it has not."""
        return ""

    @abstractmethod
    def lm(self) -> TemplateLM:
        """Return the engine as a model of lm-eval; usable only inside the ``with`` block."""


def context_length(checkpoint: Path) -> int:
    """Return the tokens of prompt and answer together that a checkpoint allows, at most ``MAX_CONTEXT``.

    Raises:
        MoemixError: the checkpoint's configuration does not say.
    """
    config: dict[str, int | str] = read_json(checkpoint / "config.json")
    if config.get("model_type") == "moduleformer" and "n_positions" not in config:
        # the published MoLM checkpoints give it in two parts
        return min(int(config.get("block_size", 512)) + int(config.get("history_length", 512)), MAX_CONTEXT)
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if isinstance(length := config.get(key), int):
            return min(length, MAX_CONTEXT)
    raise MoemixError(
        "the configuration does not say how long a context may be",
        where=str(checkpoint / "config.json"),
        hint="add max_position_embeddings",
    )
