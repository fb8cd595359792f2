"""What the README shows works as it is printed."""

import re
from pathlib import Path

from click.testing import CliRunner

from harness.cli import COMMANDS, cli
from trainers.mixing import load_strategy
from trainers.mixing.contract import check_strategy

README = (Path(__file__).parents[1] / "README.md").read_text()


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
        assert (Path(__file__).parents[1] / link).is_file(), link
