"""What ``trainers`` offers to the rest of the project (:class:`harness.stages.TrainingStage`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.checkpoint_argument import check_files
from harness.errors import MoemixError, raise_all
from harness.recipe import Mixing, Part, Source, TinyModel
from harness.sources import hub_folder, part_files
from harness.stages import Finding
from trainers import signals
from trainers.data.conversation import Conversation, MalformedRowError, UnusableRowError
from trainers.data.marks import check_answers
from trainers.data.parts import PartAdapter, open_part
from trainers.data.reading import read_part
from trainers.data.world import world_id
from trainers.mixing import MixingStrategy, Sources, load_strategy, strategy_code

_FIRST = 20  # rows of each file that a plan looks at


def count_rows(source: Source, root: Path | None) -> int:
    """Read the files of a source as training does, and return the number of rows."""
    return sum(read_part(part, root=root, source=source.name).count for part in source.parts)


def check_part(part: Part, root: Path | None, source: str) -> int | None:
    """Check a part's adapter and options, that its files exist, and that most of the first rows of each can be read.

    It returns the usable rows, if no file has more than those; None otherwise, and for a part that the hub has.
    """
    problems: list[MoemixError] = []
    if part.adapter != "auto":
        try:
            PartAdapter(part, f"source {source}")
        except MoemixError as error:
            problems.append(error)
    try:
        files = _files(part, root, source)
    except MoemixError as error:
        problems.append(error)
    raise_all(problems)
    usable, whole = 0, bool(files)
    for one in files:
        opened = open_part(one, root=root, source=source)
        seen, good, bad, useless = 0, 0, [], []
        for row, where in itertools.islice(opened.rows, _FIRST):
            seen += 1
            try:
                read = opened.adapter.read(row)
                if isinstance(read, Conversation):
                    check_answers(read)
                good += read is not None
            except UnusableRowError as error:  # training counts and reports it
                useless.append(MoemixError(f"the row has nothing to train on: {error}", where=where))
            except MalformedRowError as error:
                message = f"the row is not in the format `{opened.adapter.part.adapter}`: {error}"
                bad.append(MoemixError(message, where=where))
        if 2 * len(bad) > seen:
            raise bad[0]
        if useless and not good and seen < _FIRST:
            raise useless[0]
        usable, whole = usable + good, whole and seen < _FIRST
    return usable if whole else None


def _files(part: Part, root: Path | None, source: str) -> list[Part]:
    """Return a part for each local file; none for a hub dataset that is not below the data root."""
    if part.hub is not None:
        return [part] if hub_folder(part, root) else []
    return [part.model_copy(update={"files": (str(file),)}) for file in part_files(part, root, where=source)]


def find_adapter(file: Path) -> str:
    """Return the adapter that the columns of a file ask for; ``auto`` if it needs options, which training finds again.

    Raises:
        MoemixError: the file cannot be read, or its columns do not say how.
    """
    chosen = open_part(Part(files=(str(file.resolve()),)), root=None, source=file.stem).adapter.part
    check_part(chosen, None, file.stem)
    return "auto" if chosen.options else chosen.adapter


def examine_sources(recipe: str, root: str | None, store: str | None) -> Iterator[Finding]:
    """Examine the rows of each source of a recipe as training would read them."""
    from trainers.making.preview import examine

    return examine(recipe, root, store)


def check_tiny(model: TinyModel) -> None:
    """Check the architecture and the configuration fields of a tiny model."""
    from trainers.making.tiny import check

    check(model)


def check_checkpoint(folder: Path) -> None:
    """Check a checkpoint's files, and that its architecture and tokenizer can be made."""
    check_files(folder)
    from trainers.models.checkpoints import check_configuration, load_tokenizer

    check_configuration(folder)
    load_tokenizer(str(folder))


def check_signals(
    strategy: MixingStrategy, sources: Sequence[Source], mixing: Mixing, targets: Sequence[Source] = ()
) -> None:
    """Check that what a strategy needs can be measured, and that its options fit these sources."""
    signals.check_signals(strategy, sources, mixing, targets)
    names = tuple(sorted(source.name for source in sources))
    if not strategy.needs and names:
        sizes = np.ones(len(names), dtype=np.int64)
        strategy.init(Sources(names, sizes, targets=tuple(source.name for source in targets)))


def check_strategy(name: str, /, **options: object) -> MixingStrategy:
    """Return the strategy of this name with these options; one that is not built in must keep the contract."""
    rule = load_strategy(name, **options)
    if strategy_code(name) is None:
        return rule
    from trainers.mixing.contract import check_strategy as check_contract

    try:
        check_contract(rule)
    except AssertionError as error:
        raise MoemixError(f"the strategy breaks the contract: {error}", hint="see docs/add-a-strategy.md") from error
    return rule


def warm_up() -> None:
    """Import what training and making models need."""
    import transformers.models.mixtral.modeling_mixtral  # noqa: F401  (what modelling files import is most of it)

    import trainers.making.stage
    import trainers.training.run  # noqa: F401


def set_threads(count: int) -> None:
    """Compute with so many threads from now on."""
    import torch

    torch.set_num_threads(count)


__all__ = [
    "check_checkpoint",
    "check_part",
    "check_signals",
    "check_strategy",
    "check_tiny",
    "count_rows",
    "examine_sources",
    "find_adapter",
    "load_strategy",
    "set_threads",
    "strategy_code",
    "warm_up",
    "world_id",
]
