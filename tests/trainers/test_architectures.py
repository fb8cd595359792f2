"""The table of docs/models.md says what every MoE architecture of the installed transformers does here."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainers.making.support import CHECKS, check
from trainers.models.architectures import moe_types

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def rows() -> dict[str, dict[str, str]]:
    """The table as it stands on the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = [line for line in cells if len(line) == 1 + len(CHECKS)]
    return {line[0].strip("`"): dict(zip(CHECKS, line[1:], strict=True)) for line in found}


def test_the_table_has_every_architecture_and_nothing_silently_wrong():
    table = rows()
    assert list(table) == moe_types()
    for kind, cells in table.items():
        for check_name in ("counts", "packing"):
            assert cells[check_name] in ("right", "refused"), (kind, check_name)


@pytest.mark.parametrize("kind", rows())
def test_each_row_of_the_table_is_what_the_architecture_does(kind):
    assert check(kind) == rows()[kind]
