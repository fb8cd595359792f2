"""Data: sources in many formats, tokenised once, drawn by weight and packed without waste."""

from __future__ import annotations

from trainers.data.draws import Draws, SourceExhaustedError
from trainers.data.packing import PackedBatch, block_mask, collate, pack
from trainers.data.sources import TokenSource, TokenSplit, load_sources
from trainers.data.tokens import Example, SourceReport

__all__ = [
    "Draws",
    "Example",
    "PackedBatch",
    "SourceExhaustedError",
    "SourceReport",
    "TokenSource",
    "TokenSplit",
    "block_mask",
    "collate",
    "load_sources",
    "pack",
]
