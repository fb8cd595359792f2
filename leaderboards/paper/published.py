"""The published figures, as the paper prints them: ``leaderboards/data/paper.json``, with their source."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from harness.files import read_json


@cache
def published() -> dict[str, Any]:
    """Every published table and figure of Zhu et al. 2025, by its name."""
    with resources.as_file(resources.files("leaderboards") / "data" / "paper.json") as path:
        return dict(read_json(path))


def source() -> str:
    """The paper, as it is cited."""
    return str(published()["source"])


def printed(value: float | None, decimals: int = 2) -> str:
    """A published figure to the digit: two decimals, save where the paper itself prints fewer."""
    return "—" if value is None else f"{value:.{decimals}f}"
