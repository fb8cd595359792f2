"""An OpenAI-compatible server that somebody else runs."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import requests

from evals.engines.base import context_length
from harness.errors import MoemixError, StageFailed, unknown

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM


class UrlEngine:
    """A checkpoint behind a URL. It is asked what it serves; nothing of it is started or stopped."""

    def __init__(self, url: str, checkpoint: Path) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.checkpoint = checkpoint
        self.max_length = context_length(checkpoint)
        self.model = ""
        self.version = "unknown"

    def __enter__(self) -> UrlEngine:
        models = self._get("/v1/models")["data"]
        names = [model["id"] for model in models]
        wanted = [name for name in names if name in (str(self.checkpoint), self.checkpoint.name)] or names
        if len(wanted) != 1:
            raise unknown("model on the server", self.checkpoint.name, names, where=self.url)
        self.model = wanted[0]
        served = models[names.index(self.model)]
        self.max_length = min(self.max_length, served.get("max_model_len") or self.max_length)
        root = served.get("root")
        if root and Path(root).is_dir() and Path(root).resolve() != self.checkpoint:
            raise MoemixError(
                f"the server serves {root}, not the checkpoint to be evaluated ({self.checkpoint})", where=self.url
            )
        if not root or not Path(root).is_dir():
            print(f"{self.url}: taking its word that {self.model!r} is {self.checkpoint}", file=sys.stderr)
        with contextlib.suppress(MoemixError, KeyError, TypeError):  # only vLLM tells
            self.version = str(self._get("/version")["version"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {
            "name": "url",
            "version": self.version,
            "dtype": "unknown",
            "args": {"url": self.url, "model": self.model, "max_length": self.max_length},
        }

    def lm(self) -> TemplateLM:
        from evals.engines.completions import CompletionsLM

        return CompletionsLM(self, self.model, self.checkpoint, self.max_length)

    def alive(self) -> bool:
        return True  # that is for its owner to know

    def revive(self) -> None:
        raise StageFailed("the server is gone", where=self.url)

    def _get(self, path: str) -> Any:
        try:
            response = requests.get(f"{self.url}{path}", timeout=30)
            response.raise_for_status()
            return response.json()
        except (requests.RequestException, ValueError) as error:
            raise MoemixError(f"no OpenAI-compatible server answers: {error}", where=f"{self.url}{path}") from None
