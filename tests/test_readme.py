"""What the README shows works as it is printed."""

import re
from pathlib import Path

from click.testing import CliRunner

from harness.cli import COMMANDS, cli
from trainers.mixing import load_strategy
from trainers.mixing.contract import check_strategy

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_strategy_in_the_readme_keeps_the_contract(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    file = tmp_path / "hardest.py"
    file.write_text(block)
    check_strategy(load_strategy(f"{file}:HardestFirst"))


def test_every_command_in_the_readme_exists():
    named = set(re.findall(r"^\$ moemix ([\w-]+)", README, flags=re.MULTILINE))
    named |= set(re.findall(r"^\| `moemix ([\w-]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= set(COMMANDS)
    for command in named:
        assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0


def test_every_file_the_readme_links_to_exists():
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / link).is_file(), link


def test_what_the_readme_says_of_simulated_worlds_is_in_the_rankings():
    table = (ROOT / "docs" / "results" / "simulation" / "rankings.md").read_text()
    clear: dict[str, tuple[int, int]] = {}  # strategy → in how many worlds it is better and worse than uniform
    for line in table.splitlines():
        cells = [
            (float(value.replace("−", "-")), float(error))
            for value, error in re.findall(r"([−+][\d.]+) ± ([\d.]+)", line)
        ]
        better, worse = (sum(sign * value > error for value, error in cells) for sign in (-1, 1))
        if cells:
            clear[line.split("|")[1].strip().replace("\\", "")] = (better, worse)
    assert {name for name in ("rnb", "odm", "loss_softmax", "skill_it") if clear[name] == (5, 0)} == {
        "rnb", "odm", "loss_softmax", "skill_it",
    }  # fmt: skip
    assert clear["dynamic"] == (1, 4)
    assert {clear[name] for name in ("steady", "steady_progress", "steady_probability")} == {(4, 2)}
