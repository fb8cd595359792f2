"""``moemix strategies``: list the mixing strategies, and write the file of a new one."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from harness.errors import MoemixError
from harness.files import write_text
from trainers.mixing.registry import StrategyCard
from trainers.plugins import SIGNALS


@click.group(invoke_without_command=True)
@click.option("--format", "style", type=click.Choice(["table", "json", "markdown"]), default="table", show_default=True)
@click.pass_context
def strategies(context: click.Context, style: str) -> None:
    """List the mixing strategies: signals, what they need, options with defaults, source."""
    if context.invoked_subcommand is not None:
        return
    from tabulate import tabulate

    from trainers.mixing import plugin_faults, strategy_cards

    cards = strategy_cards()
    for fault in plugin_faults():
        click.echo(f"warning: {fault}", err=True)
    if style == "json":
        click.echo(json.dumps([dataclasses.asdict(card) for card in cards], indent=1, ensure_ascii=False))
        return
    if style == "markdown":
        click.echo(strategy_table(cards))
        return
    rows = [
        {
            "name": "\n".join([card.name, *(f"also {name}" for name in card.also)]),
            "what it does": card.summary + (" Scales the loss." if card.scales == "loss" else ""),
            "needs": ", ".join([*([f"a finished {card.needs} run"] if card.needs else []), _signals(card)]),
            "defaults": _options(card.defaults),
        }
        for card in cards
    ]
    click.echo(
        tabulate(rows, headers="keys", tablefmt="simple_grid", maxcolwidths=[None, 32, 16, 18])
        + "\n\nTheir papers are in docs/strategies.md and in `--format json`."
        "\nTo add your own, run `moemix strategies new NAME`, which writes a working file. Use it as"
        "\n`path/to/file.py:ClassName`, or install it with an entry point in the group `moemix.strategies`."
    )


def strategy_table(cards: Sequence[StrategyCard]) -> str:
    """Return the table of the documentation, in Markdown: signals, their cost, variant and source."""
    header = "| strategy | what it does | signals | what measuring costs | source and variant |"
    lines = [header, "|---|---|---|---|---|"]
    for card in cards:
        name = ", ".join(f"`{each.partition(' ')[0]}`" for each in (card.name, *card.also))
        name += " (scales the loss)" if card.scales == "loss" else ""
        fields = (name, card.summary, _signals(card), _cost(card), card.source or "–")
        lines.append(f"| {' | '.join(field.replace('|', '¦') for field in fields)} |")
    return "\n".join(lines)


def _cost(card: StrategyCard) -> str:
    """Return what a strategy costs in addition to training, in words."""
    known = SIGNALS.all()

    def cost(field: str) -> str:
        return f"{field.replace('_', ' ')}: {known[field].cost}" if field in known else f"{field}: nothing measures it"

    before = [f"before each update: {cost(field)}" for field in card.signals if not cost(field).endswith(": nothing")]
    once = [f"once: {cost(field).replace('nothing online, else ', '')}" for field in card.at_start]
    first = [f"a finished `{card.needs}` run" if card.needs else ""]
    return "; ".join(filter(None, (*first, *once, *before))) or "nothing"


def _signals(card: StrategyCard) -> str:
    return ", ".join([*card.signals, *(f"{signal} (at the start)" for signal in card.at_start)]) or "–"


def _options(defaults: Mapping[str, object]) -> str:
    return "\n".join(f"{option}={value}" for option, value in defaults.items()) or "–"


@strategies.command()
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def signals(style: str) -> None:
    """List what strategies can ask to see: field, shape, what measuring costs, what it must see."""
    from tabulate import tabulate

    rows = [
        {
            "field": field,
            "what it is": (inspect.getdoc(signal) or "").partition("\n")[0],
            "shape": signal.shape,
            "cost": signal.cost,
            "sees": ", ".join(sorted(signal.sees)),
            "from": "built in" if field in SIGNALS.builtin else str(getattr(SIGNALS.installed[field].dist, "name", "")),
        }
        for field, signal in SIGNALS.all().items()
    ]
    for fault in SIGNALS.faults():
        click.echo(f"warning: {fault}", err=True)
    if style == "json":
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    click.echo(tabulate(rows, headers="keys", tablefmt="simple_grid", maxcolwidths=[None, 40, 14, 30, 18, 14]))


@strategies.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("."), help="Folder.  [default: this one]"
)
def new(name: str, out: Path) -> None:
    """Write NAME.py with a working strategy, and test_NAME.py, which checks it."""
    from trainers.mixing import strategy_names

    file, test = write_strategy(name, out, set(strategy_names()))
    click.echo(f"written: {file}\nwritten: {test}")
    click.echo(f"\ncheck:  pytest {test}\ntrain:  moemix train quickstart --strategy {file}:{class_name(name)}")


STRATEGY = '''"""{title}: describe it in one line, and name the paper that it follows, if there is one."""

from dataclasses import dataclass

import numpy as np

from trainers.mixing import MixingStrategy, MixtureState


@dataclass(frozen=True)
class {cls}(MixingStrategy):
    """Weight moves to sources whose training loss is high."""

    name = "{name}"
    signals = frozenset({{"train_loss"}})  # what it needs to see; `moemix strategies signals` lists all
    source = ""  # the paper and the variant, for the listing

    # options: a recipe sets them under `options:`
    eta: float = 0.5  # step size
    floor: float = 0.05  # share of the weights that is spread evenly, so that no source is lost

    def init(self, sources):
        """Return the weights before the first step; sources.names and sources.sizes describe the sources."""
        count = len(sources.names)
        return MixtureState(weights=np.full(count, 1 / count))

    def update(self, state, seen):
        """Return the weights after an observation. Use no random numbers and no files, and change no argument."""
        loss = seen.need("train_loss")  # one number per source; nan if a source was not seen
        known = np.isfinite(loss)
        if not known.any():
            return state
        gain = np.where(known, loss, loss[known].mean())
        gain = gain / np.abs(gain).max(initial=1e-300)  # at most 1, so that exp cannot overflow
        share = state.weights * np.exp(self.eta * gain)
        share = share / share.sum()
        return MixtureState(weights=(1 - self.floor) * share + self.floor / len(share))
'''

TEST = '''"""{cls} keeps the contract of a mixing strategy, and moves weight as intended."""

from pathlib import Path

import numpy as np

from trainers.mixing import Observation, Sources, load_strategy
from trainers.mixing.contract import check_strategy

FILE = Path(__file__).with_name("{name}.py")


def test_it_keeps_the_contract():
    check_strategy(load_strategy(f"{{FILE}}:{cls}"))


def test_weight_moves_to_the_source_with_the_highest_loss():
    sources = Sources(("chat", "code", "math"), np.array([1000, 1000, 1000]))
    seen = np.array([100, 100, 100])
    rule = load_strategy(f"{{FILE}}:{cls}")
    state = rule.init(sources)
    for step in (100, 200, 300):
        loss = np.array([1.0, 2.0, 3.0])
        state = rule.update(state, Observation(step, sources.names, seen, seen, train_loss=loss))
    chat, code, math = state.weights
    assert chat < code < math
'''


def write_strategy(name: str, folder: Path, taken: set[str]) -> tuple[Path, Path]:
    """Write ``folder/NAME.py`` with a strategy of this name, and ``folder/test_NAME.py``.

    Raises:
        MoemixError: the name is not valid or already in use, or a file exists; nothing is written then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise MoemixError(
            f"{name!r} is not a valid strategy name: use small letters, digits and underscores, begin with a letter,"
            " and use no Python keyword",
            hint=f"for instance: {_valid(name)}",
        )
    if name in taken:
        raise MoemixError(f"there is already a strategy called {name!r}", hint="`moemix strategies` lists all names")
    texts = {folder / f"{name}.py": STRATEGY, folder / f"test_{name}.py": TEST}
    for path in texts:
        if path.exists():
            raise MoemixError("the file already exists and is not overwritten", where=str(path))
    if importlib.util.find_spec(name) is not None:
        raise MoemixError(f"a Python module is called {name!r}, and a file of that name would hide it")
    names = {"name": name, "cls": class_name(name), "title": name.replace("_", " ").capitalize()}
    for path, text in texts.items():
        write_text(path, text.format(**names))
    file, test = texts
    return file, test


def _valid(name: str) -> str:
    """Return a valid name that is similar."""
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = re.sub(r"[^a-z0-9]+", "_", separated).strip("_0123456789")
    return words if words and not keyword.iskeyword(words) else "hardest_first"


def class_name(name: str) -> str:
    """Return ``HardestFirst`` for ``hardest_first``."""
    return "".join(word.capitalize() for word in name.split("_"))
