"""What a server that somebody else runs serves, so that its answers are never taken for those of another server.

Servers say it at different addresses and under different names, and some say little. So a server is also asked for the
log-likelihoods of a fixed text, which differ between two models whatever their servers say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evals.cache import cache_root
from evals.client import Client, RequestError, ServerGoneError
from harness.files import hash_value, read_json, write_json

PROBE = list(range(20, 52))  # token ids that every vocabulary has
_TOLERANCE = 0.1  # between log-likelihoods of one model, computed in bfloat16 among other requests
# vLLM (the second only with VLLM_SERVER_DEV_MODE), SGLang, TGI, llama.cpp
_ADDRESSES = ("/version", "/server_info?config_format=json", "/get_server_info", "/info", "/props")
_NAMES = {
    "version": ("version", "build_info"),
    "model": ("model", "model_path", "model_id"),
    "revision": ("revision", "model_sha"),
    "dtype": ("dtype", "model_dtype"),
    "quantization": ("quantization",),
    "adapters": ("lora_paths",),
}


@dataclass(frozen=True)
class Identity:
    """What a server serves.

    Attributes:
        facts: what it says: version, model, revision, dtype, quantization, adapters, and its fingerprint of all this.
        likelihoods: of a fixed text, token by token; empty if it does not give them.
    """

    facts: dict[str, object]
    likelihoods: tuple[float, ...]

    def difference(self, other: Identity) -> str:
        """Return in words how ``other`` differs from this; empty if it does not."""
        names = sorted(self.facts.keys() | other.facts.keys())
        changed = [name for name in names if self.facts.get(name) != other.facts.get(name)]
        texts = [f"{name} {self.facts.get(name)!r}, now {other.facts.get(name)!r}" for name in changed]
        pairs = zip(self.likelihoods, other.likelihoods, strict=False)
        if any(abs(before - now) > _TOLERANCE for before, now in pairs):
            texts.append("other log-likelihoods of the same text")
        return "; ".join(texts)


def identify(client: Client, card: Mapping[str, object]) -> Identity:
    """Ask a server what it serves; ``card`` is the model's entry in its list of models.

    Raises:
        RequestError: the server does not answer.
    """
    facts = {name: card[name] for name in ("id", "root", "parent") if card.get(name)}
    host = client.url.removesuffix("/v1")
    for address in _ADDRESSES:
        try:
            given = client.get(f"{host}{address}")
        except RequestError as error:
            if error.reason in ("timeout", "connection"):
                raise
            continue  # another kind of server
        for fact, value in _facts(given).items():
            facts.setdefault(fact, value)
    fingerprint, likelihoods = _probe(client, str(card["id"]))
    return Identity(facts | ({"fingerprint": fingerprint} if fingerprint else {}), likelihoods)


def recognise(url: str, found: Identity) -> tuple[Identity, str]:
    """Return a server's identity as it was when first seen, and how it differs from what the URL served before.

    Log-likelihoods vary a little from request to request; as they were first seen, they can be part of a key.
    """
    file = _record(url)
    seen = (
        [Identity(entry["facts"], tuple(entry["likelihoods"])) for entry in read_json(file)] if file.is_file() else []
    )
    same = next((old for old in seen if not old.difference(found)), None)
    change = seen[-1].difference(found) if seen else ""
    latest = same or found
    if change or not seen:
        seen = [old for old in seen if old is not same] + [latest]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, [{"facts": old.facts, "likelihoods": old.likelihoods} for old in seen])
    return latest, change


def _record(url: str) -> Path:
    return cache_root() / "servers" / f"{hash_value(url)[:24]}.json"


def _facts(given: object) -> dict[str, object]:
    if not isinstance(given, dict):
        return {}
    config = given.get("vllm_config")
    if isinstance(config, dict):
        given = config.get("model_config")
    if not isinstance(given, dict):
        return {}
    found = {fact: next((given[name] for name in names if given.get(name)), None) for fact, names in _NAMES.items()}
    return {fact: value if fact == "adapters" else _plain(value) for fact, value in found.items() if value}


def _plain(value: object) -> str:
    return str(value).removeprefix("torch.")


def _probe(client: Client, model: str) -> tuple[str | None, tuple[float, ...]]:
    """Return the fingerprint and the log-likelihoods that a server gives with the answer to :data:`PROBE`."""
    payload = {"model": model, "prompt": PROBE, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    try:
        reply = client.complete("/completions", payload)
    except (RequestError, ServerGoneError):
        return None, ()
    logprobs = reply.choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    return reply.fingerprint, tuple(
        value for value in values or () if isinstance(value, float) and math.isfinite(value)
    )
