"""Draw examples: which one is next is a pure function of the seed, the weights and the number of the draw.

Draw ``i`` picks its source by inverting the weights' distribution function at a uniform number hashed from
``(seed, i)``. The ``j``-th draw from a source takes position ``j mod size`` of that source's permutation of epoch
``j // size``. The permutation is computed position by position from a key and never stored. So the only state is how
often each source was drawn, and that follows from the history of weights: resuming needs this history and an integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE, _HALF = np.uint64(1), np.uint64(32)
_ROUNDS = 6
_ROUND_SALTS = np.arange(_ROUNDS, dtype=np.uint64)[:, None] * _GOLDEN
_AHEAD = 1 << 12  # draws computed at once, at least
_CHUNK = 1 << 16  # draws at a time: the arrays stay in the processor's cache


class SourceExhaustedError(Exception):
    """A source that must not repeat has no example left, so training ends.

    Attributes:
        source: the index of the source.
        draw: the global index of the draw that needed another example.
    """

    def __init__(self, source: int, draw: int) -> None:
        self.source, self.draw = source, draw
        super().__init__(f"source {source} has no example left at draw {draw}")


@dataclass(frozen=True)
class _Ahead:
    """Draws that were computed in advance, and the arguments that they were computed from.

    Attributes:
        start: the global index of the first draw.
        weights: f64[K], the weights of all these draws.
        drawn: i64[K], the draws from each source before ``start``.
        source, index, epoch: i32[n], i64[n], i64[n], the draws.
    """

    start: int
    weights: Floats
    drawn: Ints
    source: NDArray[np.int32]
    index: Ints
    epoch: Ints

    def matches(self, start: int, n: int, weights: Floats, drawn: Ints) -> bool:
        """Return whether these are the draws that a call with these arguments would compute."""
        return (
            start == self.start
            and n <= len(self.source)
            and np.array_equal(weights, self.weights)
            and np.array_equal(drawn, self.drawn)
        )

    def after(self, n: int) -> _Ahead:
        """Return what is left after the first ``n`` draws."""
        drawn = self.drawn.copy()
        np.add.at(drawn, self.source[:n], 1)
        return _Ahead(self.start + n, self.weights, drawn, self.source[n:], self.index[n:], self.epoch[n:])


class Draws:
    """An endless, reproducible stream of (source, example) pairs.

    Args:
        sizes: i64[K], the examples of each source's train split, each at least 1.
        seed: the seed of the data order.
        exhausted: ``repeat`` reshuffles a finished source; ``stop`` raises :class:`SourceExhaustedError`.
    """

    def __init__(self, sizes: Ints, seed: int, exhausted: Literal["repeat", "stop"] = "repeat") -> None:
        self.sizes = np.asarray(sizes, np.int64)
        if self.sizes.ndim != 1 or not len(self.sizes) or self.sizes.min() < 1:
            raise ValueError(f"every source needs at least one example; sizes are {sizes}")
        self.exhausted = exhausted
        self._last_weights = self._last_cumulative = np.empty(0)
        self._ahead: _Ahead | None = None
        root = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
        self._stream = _mix(root + np.uint64(1))
        self._keys = _mix(_mix(root + np.uint64(2)) + np.arange(len(self.sizes), dtype=np.uint64) * _GOLDEN)

    def take(self, start: int, n: int, weights: Floats, drawn: Ints) -> tuple[NDArray[np.int32], Ints]:
        """Return the draws ``start … start + n - 1``: their source, i32[n], and the index into its train split, i64[n].

        ``weights``, f64[K], are those of all these draws, not negative and with sum 1; ``drawn``, i64[K], are the draws
        from each source before ``start`` (:meth:`replay`). What is returned is read-only.

        Raises:
            SourceExhaustedError: a source has no example left, under ``stop``.
        """
        ahead = self._ahead
        if ahead is None or not ahead.matches(start, n, weights, drawn):
            ahead = self._look_ahead(start, max(n, _AHEAD), weights, drawn)
        source, index, epoch = ahead.source[:n], ahead.index[:n], ahead.epoch[:n]
        if self.exhausted == "stop" and (over := np.flatnonzero(epoch)).size:
            raise SourceExhaustedError(int(source[over[0]]), start + int(over[0]))
        self._ahead = ahead.after(n)
        return source, index

    def _look_ahead(self, start: int, n: int, weights: Floats, drawn: Ints) -> _Ahead:
        """Compute draws in advance: many cost little more than a few, and the next call will probably continue here."""
        source = self._sources(start, n, weights)
        nth = np.asarray(drawn, np.int64)[source] + _occurrence(source)
        epoch, place = np.divmod(nth, self.sizes[source])
        index = np.empty(n, np.int64)
        for at in range(0, n, _CHUNK):
            span = slice(at, at + _CHUNK)
            keys = _mix(self._keys[source[span]] + epoch[span].astype(np.uint64) * _GOLDEN)
            index[span] = permuted(place[span], self.sizes[source[span]], keys)
        for array in (source, index, epoch):
            array.flags.writeable = False  # callers get views
        return _Ahead(start, np.array(weights), np.array(drawn, np.int64), source, index, epoch)

    def replay(self, history: Sequence[tuple[int, Floats]], upto: int) -> Ints:
        """Count the draws ``0 … upto - 1`` from each source, i64[K].

        ``history`` has the first draw and the weights of each interval between updates, in order, beginning with draw
        0.
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
        order = np.argsort(uniform)  # searching in order is quicker: it stays in the cache
        source = np.empty(n, np.int32)
        source[order] = np.searchsorted(self._cumulative(weights), uniform[order], side="right")
        return source

    def _cumulative(self, weights: Floats) -> Floats:
        """Return the distribution function, f64[K], cached because weights change rarely."""
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
    """Return the position to which the keyed permutation of ``range(size)`` sends ``place``, elementwise.

    A Feistel network over an a × b grid with a·b >= size (Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains"): rounds add a hash of one coordinate to the other, and a result outside the range is permuted again until
    it is inside. With a = ceil(sqrt(size)) the grid is less than ``a`` larger than the range, so that is rare.
    """
    end = size.astype(np.uint64)
    a = np.ceil(np.sqrt(end)).astype(np.uint64)
    b = (end + a - _ONE) // a
    salts = _mix(key + _ROUND_SALTS)
    result = place.astype(np.uint64)
    outside: slice | Ints = slice(None)  # at first, all of them
    while True:
        tall, wide = a[outside], b[outside]
        high, low = np.divmod(result[outside], wide)
        for salt in salts[:, outside]:
            # the coordinates change places every round, and with them the sides of the grid
            high += _half_hash(low, salt)
            high %= tall
            high, low, tall, wide = low, high, wide, tall
        result[outside] = high * wide + low
        outside = np.flatnonzero(result >= end)
        if not outside.size:
            return result.astype(np.int64)


def _occurrence(values: NDArray[np.int32]) -> Ints:
    """Return for each element the number of equal elements before it."""
    count = np.empty(len(values), np.int64)
    if not len(values):
        return count
    at = np.arange(len(values))
    keys = (values.astype(np.int64) << 32) | at  # sorting integers is far quicker than argsort
    keys.sort()
    place, ordered = keys & 0xFFFFFFFF, keys >> 32
    first = np.zeros(len(values), np.int64)
    np.multiply(at[1:], ordered[1:] != ordered[:-1], out=first[1:])
    count[place] = at - np.maximum.accumulate(first)
    return count


def _mix(words: Words) -> Words:
    """Apply the SplitMix64 finaliser (Steele, Lea and Flood 2014): 64 bits in, 64 well-mixed bits out."""
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _half_hash(words: Words, salts: Words) -> Words:
    """Return 32 bits that depend on a small number and its salt: all that a round of :func:`permuted` needs."""
    words = words ^ salts
    words *= _GOLDEN
    words ^= words >> _HALF
    words *= np.uint64(0xD6E8FEB86659FD93)
    words >>= _HALF
    return words
