"""The page of strategies is what the strategies say of themselves."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from trainers.commands.strategies import strategies, strategy_table
from trainers.mixing import strategy_cards
from trainers.mixing.registry import STRATEGIES
from trainers.plugins import SIGNALS

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"


def built_in():
    return [card for card in strategy_cards() if card.name in STRATEGIES.builtin]


def test_the_table_of_the_page_is_what_the_command_prints_today():
    """To renew it: `moemix strategies --format markdown`."""
    table = strategy_table(built_in())
    assert table in PAGE.read_text(encoding="utf-8")
    printed = CliRunner().invoke(strategies, ["--format", "markdown"]).output
    assert set(table.splitlines()) <= set(printed.splitlines())


def test_every_strategy_names_its_source_and_asks_only_for_what_is_measured():
    for card in built_in():
        assert card.source, card.name
        assert card.summary.endswith("."), card.name
        assert {*card.signals, *card.at_start} <= set(SIGNALS.builtin), card.name


def test_the_page_names_those_that_need_a_run_or_scale_the_loss():
    text = PAGE.read_text(encoding="utf-8")
    needing, scaling = text.partition("**Needing another run.**")[2].partition("**Scaling the loss.**")[::2]
    for card in built_in():
        assert (f"`{card.name}`" in needing.partition("**")[0]) or not card.needs, card.name
        assert (f"`{card.name}`" in scaling.partition("**Before")[0]) or card.scales == "draws", card.name
