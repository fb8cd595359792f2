"""The URL engine: an OpenAI-compatible server that somebody else runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from evals.addresses import api_key
from evals.client import Client, RequestError
from evals.engines.engine import Engine, context_length
from evals.engines.identity import identify, recognise
from harness.errors import MoemixError, StageError, unknown
from harness.files import hash_value

if TYPE_CHECKING:
    from evals.engines.completions import CompletionsLM

KEY_VARIABLE = "MOEMIX_ENGINE_API_KEY"
logger = logging.getLogger("moemix.evals")


class UrlEngine(Engine):
    """A checkpoint behind a URL. The engine asks the server what it serves, and neither starts nor stops it."""

    def __init__(self, url: str, checkpoint: Path) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.checkpoint = checkpoint
        self.max_length = context_length(checkpoint)
        self.model = ""
        self.key = api_key((KEY_VARIABLE,))
        self._client = Client(self.url, key=self.key, attempts=1)

    def start(self) -> None:
        """Find the checkpoint among the server's models, and ask what else the server says of itself.

        Raises:
            MoemixError: no server answers, or it serves another checkpoint.
        """
        card = self._card()
        self.model = str(card["id"])
        length = card.get("max_model_len")
        self.max_length = min(self.max_length, length if isinstance(length, int) and length else self.max_length)
        root = Path(str(card.get("root") or ""))
        local = root != Path() and root.is_dir()
        if local and root.resolve() != self.checkpoint:
            raise MoemixError(
                f"the server serves {root}, not the checkpoint to be evaluated ({self.checkpoint})", where=self.url
            )
        if not local:
            logger.warning("%s: cannot check that its model %r is %s", self.url, self.model, self.checkpoint)
        self._identity, change = recognise(f"{self.url} {self.model}", identify(self._client, card))
        if change:
            logger.warning("%s: the server has changed (%s): its answers are kept apart", self.url, change)

    def _card(self) -> dict[str, object]:
        """Return the checkpoint's entry in the server's list of models."""
        address = f"{self._client.url}/models"
        try:
            listing = self._client.get(address)
        except RequestError as error:
            raise MoemixError(
                f"no OpenAI-compatible server answers: {error.detail}",
                where=address,
                hint=f"a key is read from {KEY_VARIABLE}" if error.reason == "denied" else None,
            ) from None
        models = listing.get("data") if isinstance(listing, dict) else None
        served = {str(model["id"]): model for model in models or () if isinstance(model, dict) and "id" in model}
        wanted = [name for name in served if name in (str(self.checkpoint), self.checkpoint.name)] or list(served)
        if len(wanted) != 1:
            raise unknown("model on the server", self.checkpoint.name, served, where=self.url)
        return served[wanted[0]]

    def describe(self) -> dict[str, object]:
        """Return what is known of the server."""
        facts, likelihoods = self._identity.facts, self._identity.likelihoods
        return {
            "name": "url",
            "version": facts.get("version", "unknown"),
            "dtype": facts.get("dtype", "unknown"),
            "args": {"url": self.url, "model": self.model, "max_length": self.max_length},
            "serves": facts | ({"likelihoods": hash_value(likelihoods)[:12]} if likelihoods else {}),
        }

    def changed(self) -> str:
        """Ask the server again what it serves."""
        return self._identity.difference(identify(self._client, self._card()))

    def lm(self) -> CompletionsLM:
        """Return the server as a model of lm-eval."""
        from evals.engines.completions import CompletionsLM

        return CompletionsLM(self, self.model, self.checkpoint, self.max_length)

    def alive(self) -> bool:
        """Return true: whether the server is still there is for its owner to know."""
        return True

    def revive(self) -> None:
        """Fail: the server is not ours to start again."""
        raise StageError("the server is gone", where=self.url)
