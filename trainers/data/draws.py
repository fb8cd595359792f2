"""Draws: which example comes next, as a pure function of the seed, the weights and the draw's number.

Draw ``i`` picks its source by inverting the weights' distribution function at a uniform number hashed from
``(seed, i)``. The ``j``-th draw from a source takes place ``j mod size`` of that source's permutation of epoch
``j // size``, and the permutation is computed place by place from a key, never stored. So nothing is remembered
between draws but how often each source was drawn, which the history of weights gives back: resuming needs that
history and an integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_ROUNDS = 6
_CHUNK = 1 << 16  # draws at a time: the arrays stay in the processor's cache


class SourceExhausted(Exception):
    """A source without repeats has no example left; training ends here.

    Attributes:
        source: its index.
        draw: the global index of the draw that found it empty.
    """

    def __init__(self, source: int, draw: int) -> None:
        self.source, self.draw = source, draw
        super().__init__(f"source {source} has no example left at draw {draw}")


class Draws:
    """An endless, reproducible stream of (source, example) pairs.

    Args:
        sizes: i64[K], examples of each source's train split, each at least 1.
        seed: of the data order.
        exhausted: ``repeat`` reshuffles a finished source and goes on; ``stop`` raises :class:`SourceExhausted`.
    """

    def __init__(self, sizes: Ints, seed: int, exhausted: Literal["repeat", "stop"] = "repeat") -> None:
        self.sizes = np.asarray(sizes, np.int64)
        if self.sizes.ndim != 1 or not len(self.sizes) or self.sizes.min() < 1:
            raise ValueError(f"every source needs at least one example; sizes are {sizes}")
        self.exhausted = exhausted
        self._last_weights = self._last_cumulative = np.empty(0)
        root = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
        self._stream = _mix(root + np.uint64(1))
        self._keys = _mix(_mix(root + np.uint64(2)) + np.arange(len(self.sizes), dtype=np.uint64) * _GOLDEN)

    def take(self, start: int, n: int, weights: Floats, drawn: Ints) -> tuple[NDArray[np.int32], Ints]:
        """Draws ``start … start + n - 1``.

        Args:
            start: global index of the first.
            n: how many.
            weights: f64[K], in force for all of them; non-negative, sum 1.
            drawn: i64[K], how many draws before ``start`` fell on each source (:meth:`replay`).

        Returns:
            source i32[n] and index i64[n] into that source's train split.

        Raises:
            SourceExhausted: a source has run out, under ``stop``.
        """
        source = self._sources(start, n, weights)
        nth = np.asarray(drawn, np.int64)[source] + _occurrence(source)
        epoch, place = np.divmod(nth, self.sizes[source])
        if self.exhausted == "stop" and (over := np.flatnonzero(epoch)).size:
            raise SourceExhausted(int(source[over[0]]), start + int(over[0]))
        index = np.empty(n, np.int64)
        for at in range(0, n, _CHUNK):
            span = slice(at, at + _CHUNK)
            keys = _mix(self._keys[source[span]] + epoch[span].astype(np.uint64) * _GOLDEN)
            index[span] = permuted(place[span], self.sizes[source[span]], keys)
        return source, index

    def replay(self, history: Sequence[tuple[int, Floats]], upto: int) -> Ints:
        """How many of the draws ``0 … upto - 1`` fell on each source: i64[K].

        Args:
            history: (first draw, weights) of each stretch, from draw 0 on, in order.
        """
        if not history or history[0][0] != 0:
            raise ValueError("the history of weights must begin at draw 0")
        drawn = np.zeros(len(self.sizes), np.int64)
        ends = [start for start, _ in history[1:]] + [upto]
        for (start, weights), end in zip(history, ends, strict=True):
            for at in range(start, min(end, upto), 1 << 20):
                source = self._sources(at, min(end, upto, at + (1 << 20)) - at, weights)
                drawn += np.bincount(source, minlength=len(drawn))
        return drawn

    def _sources(self, start: int, n: int, weights: Floats) -> NDArray[np.int32]:
        numbers = np.arange(start, start + n, dtype=np.uint64)
        uniform = (_mix(self._stream + numbers * _GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.searchsorted(self._cumulative(weights), uniform, side="right").astype(np.int32)

    def _cumulative(self, weights: Floats) -> Floats:
        """f64[K], the distribution function; kept until other weights come, since they change rarely."""
        if not np.array_equal(weights, self._last_weights):
            weights = np.array(weights, np.float64)
            if weights.shape != self.sizes.shape:
                raise ValueError(f"weights have shape {weights.shape}, expected {self.sizes.shape}")
            if not (weights.min() >= 0 and abs(weights.sum() - 1) < 1e-6):  # NaN fails too
                raise ValueError(f"weights must be non-negative and sum to 1; the sum is {weights.sum()}")
            total = np.cumsum(weights)
            self._last_weights, self._last_cumulative = weights, total / total[-1]
        return self._last_cumulative


def permuted(place: Ints, size: Ints, key: Words) -> Ints:
    """Where the keyed permutation of ``range(size)`` sends ``place``; elementwise, for arrays of one shape.

    A Feistel network over an a × b grid with a·b >= size (Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains": rounds add a hash of one coordinate to the other; a result outside the range is sent on until it falls
    inside). With a = ceil(sqrt(size)) the grid is less than ``a`` larger than the range, so that is rare.
    """
    a = np.ceil(np.sqrt(size)).astype(np.uint64)
    b = (size.astype(np.uint64) + a - np.uint64(1)) // a
    end = size.astype(np.uint64)
    result = place.astype(np.uint64)
    outside: Any = slice(None)  # at first, all of them
    while True:
        wide, tall, salt = b[outside], a[outside], key[outside]
        high, low = np.divmod(result[outside], wide)
        for _ in range(_ROUNDS // 2):
            high = (high + (_mix(salt ^ (low * _GOLDEN)) >> _HALF)) % tall
            salt = salt + _GOLDEN
            low = (low + (_mix(salt ^ (high * _GOLDEN)) >> _HALF)) % wide
            salt = salt + _GOLDEN
        result[outside] = high * wide + low
        outside = np.flatnonzero(result >= end)
        if not outside.size:
            return result.astype(np.int64)


def _occurrence(values: NDArray[np.int32]) -> Ints:
    """For each element, how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]] if len(values) else np.zeros(0, bool)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(values)), 0))
    count = np.empty(len(values), np.int64)
    count[order] = np.arange(len(values)) - starts
    return count


def _mix(words: Words) -> Words:
    """The SplitMix64 finaliser (Steele, Lea and Flood 2014): 64 bits in, 64 well-mixed bits out."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
