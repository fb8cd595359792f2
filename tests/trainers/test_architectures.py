"""The table of docs/models.md says what every MoE architecture of the installed transformers does here."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainers.making.support import CHECKS, check, served_by_vllm
from trainers.making.support_ranks import STRATEGIES, check_on_two_processes
from trainers.models.architectures import moe_types

COLUMNS = (*CHECKS, *STRATEGIES, "vLLM")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def rows() -> dict[str, dict[str, str]]:
    """The table as it stands on the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = [line for line in cells if len(line) == 1 + len(COLUMNS)]
    return {line[0].strip("`"): dict(zip(COLUMNS, line[1:], strict=True)) for line in found}


def test_the_table_has_every_architecture_and_nothing_silently_wrong():
    table = rows()
    assert list(table) == moe_types()
    for kind, cells in table.items():
        for check_name in ("counts", "packing", "resume", "ddp", "fsdp2"):
            assert cells[check_name] in ("right", "refused"), (kind, check_name)


@pytest.mark.parametrize("kind", rows())
def test_each_row_of_the_table_is_what_the_architecture_does(kind):
    expected = rows()[kind]
    assert check(kind) == {name: expected[name] for name in CHECKS}


def test_two_processes_train_what_one_does_or_stop_as_the_table_says():
    table = rows()
    found = check_on_two_processes(list(table))
    assert found == {kind: {name: cells[name] for name in STRATEGIES} for kind, cells in table.items()}


def test_vllm_has_its_own_code_or_its_backend_for_what_the_table_says():
    pytest.importorskip("vllm", reason="vLLM is not installed")
    assert served_by_vllm(rows()) == {kind: cells["vLLM"] for kind, cells in rows().items()}
