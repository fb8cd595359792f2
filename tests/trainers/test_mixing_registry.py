"""Strategies are found by name, from three places, and mistakes get an answer that helps."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.errors import MoemixError
from trainers.commands.strategies import strategies
from trainers.mixing import MixingStrategy, load_strategy, plugin_faults, strategy_cards, strategy_code
from trainers.mixing.contract import check_strategy
from trainers.mixing.registry import STRATEGIES
from trainers.plugins import SIGNALS

OWN = '''
from __future__ import annotations

from dataclasses import dataclass
from trainers.mixing.static import Uniform


@dataclass(frozen=True)
class Mine(Uniform):
    """Uniform, but mine."""

    name = "mine"
    strength: float = 2.0
    items: tuple[int, ...] = (1,)


class Other:
    pass
'''


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_options_are_converted_to_their_kinds():
    rule = load_strategy("dynamic", eta="1e1", c=1, layers=[-1, 0])
    assert (rule.eta, rule.c, rule.layers) == (10.0, 1.0, (-1, 0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dynamik", {}, "did you mean 'dynamic'"),
        ("dynamic", {"etta": 1}, "did you mean 'eta'"),
        ("dynamic", {"distance": "l1"}, "did you mean 'l2'"),
        ("dynamic", {"layers": "al"}, "did you mean 'all'"),
        ("dynamic", {"eta": "much"}, "dynamic.eta: 'much' is not valid"),
        ("dynamic", {"eta": -1}, "not negative"),
        ("dynamic", {"eta": float("nan")}, "finite"),
        ("dynamic", {"c": 1.5}, "between 0 and 1"),
        ("dynamic", {"layers": []}, "empty"),
        ("uniform", {"eta": 1}, "unknown option 'eta'"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(name: str, options: dict, message: str):
    with pytest.raises(MoemixError, match=message):
        load_strategy(name, **options)


def test_a_strategy_from_a_file_works_like_a_built_in_one(own_file: Path):
    rule = load_strategy(f"{own_file}:Mine", strength=3, items=[4, 5])
    assert isinstance(rule, MixingStrategy)
    assert (rule.strength, rule.items) == (3.0, (4, 5))
    assert rule == load_strategy(f"{own_file}:Mine", strength=3, items=[4, 5])
    check_strategy(rule)


def test_mistakes_in_a_strategy_file_are_told_with_the_file(own_file: Path):
    for name, message in {
        f"{own_file}:Mein": "did you mean 'Mine'",
        f"{own_file}:Other": "not a MixingStrategy",
        str(own_file): "the class in the file is not named",
        f"{own_file.with_name('owm.py')}:Mine": "did you mean 'own.py'",
    }.items():
        with pytest.raises(MoemixError, match=message):
            load_strategy(name)
    own_file.write_text("import nothing_of_this_name")
    with pytest.raises(MoemixError, match="does not run: ModuleNotFoundError"):
        load_strategy(f"{own_file}:Mine")


@contextlib.contextmanager
def installed(folder: Path, entry_points: str, monkeypatch: pytest.MonkeyPatch, signals: str = "") -> Iterator[None]:
    """A distribution ``plugin`` in ``folder``, as far as Python's metadata go."""
    information = folder / "plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    text = f"[moemix.strategies]\n{entry_points}\n[moemix.signals]\n{signals}"
    (information / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(folder)
    for plug_ins in (STRATEGIES, SIGNALS):
        monkeypatch.delitem(vars(plug_ins), "installed", raising=False)
    try:
        yield
    finally:
        for plug_ins in (STRATEGIES, SIGNALS):
            vars(plug_ins).pop("installed", None)
        sys.modules.pop("own", None)


def test_an_installed_plug_in_is_found_by_its_entry_point(own_file: Path, monkeypatch: pytest.MonkeyPatch):
    with installed(own_file.parent, "mine = own:Mine\nuniform = own:Mine\n", monkeypatch):
        assert load_strategy("mine", strength=5).strength == 5
        assert type(load_strategy("uniform")).__name__ == "Uniform", "a plug-in cannot replace a built-in strategy"
        assert {card.name: card.summary for card in strategy_cards()}["mine"] == "Uniform, but mine."
        (fault,) = plugin_faults()
        assert "'uniform' is a built-in strategy; the plug-in of that name is not used" in fault


def test_a_broken_plug_in_is_told_and_keeps_no_other_from_being_listed(own_file: Path, monkeypatch: pytest.MonkeyPatch):
    own_file.with_name("torn.py").write_text("import nothing_of_this_name")
    entries = "a = torn:Mine\nb = own:Mein\nc = own:Other\nd = own\nmine = own:Mine\n"
    with installed(own_file.parent, entries, monkeypatch):
        for name, message in {
            "a": r"moemix.strategies:a \(torn:Mine\) of plugin: .*cannot be imported: ModuleNotFoundError",
            "b": "did you mean 'Mine'",
            "c": "not a MixingStrategy",
            "d": "write own:ClassName",
        }.items():
            with pytest.raises(MoemixError, match=message):
                load_strategy(name)
        listed = CliRunner().invoke(strategies, ["--format", "json"])
        assert listed.exit_code == 0
        assert listed.stderr.count("warning: entry point moemix.strategies:") == 4
        assert {"mine", "dynamic"} <= {card["name"] for card in json.loads(listed.stdout)}


def test_an_edited_plug_in_or_file_is_another_strategy_and_a_built_in_one_needs_no_hash(
    own_file: Path, monkeypatch: pytest.MonkeyPatch
):
    with installed(own_file.parent, "mine = own:Mine\n", monkeypatch):
        before = strategy_code("mine")
        assert before == strategy_code(f"{own_file}:Mine")
        own_file.write_text(OWN + "# edited\n")
        assert before != strategy_code("mine") == strategy_code(f"{own_file}:Mine")
    assert strategy_code("dynamic") is None


def test_every_built_in_strategy_says_what_it_is():
    cards = {card.name: card for card in strategy_cards()}
    assert {"none", "uniform", "datasize", "dynamic"} <= cards.keys()
    assert all(card.summary for card in cards.values())
    assert cards["dynamic"].signals == ("gate_load",)
    assert cards["dynamic"].defaults["eta"] == 10.0
    assert not cards["none"].trains


def test_the_listing_prints_a_table_and_json():
    table = CliRunner().invoke(strategies)
    assert table.exit_code == 0
    assert "dynamic" in table.output
    assert "eta=10.0" in table.output
    listed = json.loads(CliRunner().invoke(strategies, ["--format", "json"]).output)
    assert [entry["name"] for entry in listed] == sorted(entry["name"] for entry in listed)


def test_a_new_strategy_is_a_file_that_keeps_the_contract_and_a_test_that_passes(tmp_path: Path):
    written = CliRunner().invoke(strategies, ["new", "steepest_first", "--out", str(tmp_path / "mine")])
    assert written.exit_code == 0, written.output
    file, test = tmp_path / "mine" / "steepest_first.py", tmp_path / "mine" / "test_steepest_first.py"
    assert f"--strategy {file}:SteepestFirst" in written.output
    rule = load_strategy(f"{file}:SteepestFirst", eta=0.1)
    assert (rule.name, rule.signals, rule.eta) == ("steepest_first", {"train_loss"}, 0.1)
    check_strategy(rule)
    for check in (("pytest", "-q", "-c", "/dev/null", str(test)), ("ruff", "format", "--check", str(tmp_path))):
        done = subprocess.run((sys.executable, "-m", *check), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_new_strategy_overwrites_nothing_and_takes_no_name_that_means_something(tmp_path: Path):
    def refused(name: str) -> str:
        with pytest.raises(MoemixError) as error:
            CliRunner().invoke(strategies, ["new", name, "--out", str(tmp_path)], catch_exceptions=False)
        return str(error.value)

    (tmp_path / "test_mine.py").write_text("precious")
    assert "test_mine.py: the file already exists" in refused("mine")
    assert "for instance: hardest_of_all" in refused("HardestOf-all")
    assert "for instance: hardest_first" in refused("lambda")
    assert "for instance: hardest_first" in refused("../../1")
    assert "there is already a strategy called 'dynamic'" in refused("dynamic")
    assert "a Python module is called 'numpy'" in refused("numpy")
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine.py"]
    assert (tmp_path / "test_mine.py").read_text() == "precious"


def test_listing_strategies_never_imports_torch():
    code = (
        "import sys, trainers.mixing; trainers.mixing.strategy_cards();"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
