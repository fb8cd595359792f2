"""``moemix execute``: a line of verdict for each program, in the sandbox or not at all."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from evals.execute_cli import execute
from evals.sandbox import available
from harness.errors import MoemixError


def test_programs_get_their_verdicts_in_order(tmp_path):
    if available():
        pytest.skip(f"no sandbox: {available()}")
    programs = [
        ("def f(x): return 2 * x", "assert f(1) == 2\nassert f(2) == 4"),
        ("def f(x): return 2 * x", "assert f(1) == 2\nassert f(2) == 5"),
        ("import sys; sys.exit(0)", "assert True"),
    ]
    path, out = tmp_path / "programs.jsonl", tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps({"code": code, "tests": tests}) + "\n" for code, tests in programs))
    result = CliRunner().invoke(execute, [str(path), "--out", str(out)], standalone_mode=False)
    assert result.exception is None
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["passed"] for line in found] == [True, False, False]
    assert [line["reason"] for line in found] == ["passed", "AssertionError: ", "exited early"]


def test_a_line_that_is_no_program_is_named(tmp_path):
    if available():
        pytest.skip(f"no sandbox: {available()}")
    (tmp_path / "p.jsonl").write_text('{"code": "pass", "tests": ""}\n{"code": 1}\n')
    arguments = [str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(execute, arguments, standalone_mode=False)
    assert isinstance(result.exception, MoemixError)
    assert "p.jsonl:2" in str(result.exception)
    assert not (tmp_path / "out").exists()
