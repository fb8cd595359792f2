"""The URL engine: an OpenAI-compatible server that somebody else runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from evals.addresses import api_key
from evals.client import Client, RequestError
from evals.engines.engine import Engine, context_length
from harness.errors import MoemixError, StageError, unknown

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
        self.version = "unknown"
        self.key = api_key((KEY_VARIABLE,))
        self._client = Client(self.url, key=self.key)

    def start(self) -> None:
        """Find the checkpoint among the server's models.

        Raises:
            MoemixError: no server answers, or it serves another checkpoint.
        """
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
        self.model = wanted[0]
        self.max_length = min(self.max_length, served[self.model].get("max_model_len") or self.max_length)
        root = Path(str(served[self.model].get("root") or ""))
        local = root != Path() and root.is_dir()
        if local and root.resolve() != self.checkpoint:
            raise MoemixError(
                f"the server serves {root}, not the checkpoint to be evaluated ({self.checkpoint})", where=self.url
            )
        if not local:
            logger.warning("%s: cannot check that its model %r is %s", self.url, self.model, self.checkpoint)
        try:
            version = self._client.get(f"{self._client.url.removesuffix('/v1')}/version")
            self.version = str(version["version"]) if isinstance(version, dict) else self.version
        except (RequestError, KeyError):
            logger.debug("%s does not give its version; only vLLM does", self.url)

    def describe(self) -> dict[str, object]:
        """Return what is known of the server."""
        return {
            "name": "url",
            "version": self.version,
            "dtype": "unknown",
            "args": {"url": self.url, "model": self.model, "max_length": self.max_length},
        }

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
