"""A law maps a mix to the losses it leads to; it is fitted on proxy runs and says which mix is best."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trainers.mixing.base import Floats


class Law:
    """What every law can do. N runs, K sources.

    Class attributes:
        name: what the command line calls it.
        source: the paper and the variant.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @staticmethod
    def fewest(sources: int) -> int:
        """Runs without which there is nothing to fit."""
        raise NotImplementedError

    @classmethod
    def fit(cls, mixes_NK: Floats, losses_NK: Floats, target_K: Floats, seed: int) -> Law:
        """A law from runs under ``mixes_NK`` that came to the held-out ``losses_NK``.

        Args:
            target_K: how much the loss of each source counts in what is to be low; sums to 1.
        """
        raise NotImplementedError

    def predict(self, mixes_NK: Floats) -> Floats:
        """f64[N], the target's loss under each mix."""
        raise NotImplementedError

    def best(self, prior_K: Floats, seed: int) -> Floats:
        """f64[K], the mix with the lowest predicted loss."""
        raise NotImplementedError


def law(name: str) -> type[Law]:
    """A law by name.

    Raises:
        MoemixError: no such law, or a package it needs is not installed.
    """
    from harness.errors import MoemixError, unknown
    from trainers.proposals.mixing_law import MixingLaw
    from trainers.proposals.regmix import RegMix

    laws: dict[str, type[Law]] = {RegMix.name: RegMix, MixingLaw.name: MixingLaw}
    if name not in laws:
        raise unknown("proposer", name, laws)
    if name == RegMix.name:
        try:
            import lightgbm  # noqa: F401
        except (ImportError, OSError) as error:  # OSError: the package is there and the OpenMP library is not
            raise MoemixError(
                f"regmix needs the package lightgbm: {error}", hint="pip install 'moemix[propose]' (and libgomp)"
            ) from None
    return laws[name]


def folds(count: int, most: int = 10) -> list[NDArray[np.bool_]]:
    """For each of at most ``most`` folds, which of ``count`` runs are left out of it: bool[count]."""
    number = min(count, most)
    return [np.arange(count) % number == fold for fold in range(number)]
