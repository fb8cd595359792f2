"""The doctor says what a data root is enough for."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from harness.doctor import doctor, recipes_from


@pytest.mark.data
def test_a_recipes_sources_are_counted_as_training_reads_them(real_data):
    found = {name: (fine, said) for name, fine, said in recipes_from(real_data)}
    fine, said = found["recipe smol"]
    assert fine
    assert said == "chat 3,323 rows, instructions 4,578 rows, math 7,727 rows, code 5,509 rows"
    assert "recipe quickstart" not in found  # its world is generated


def test_a_source_without_files_is_named_and_no_other_is_hidden(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "aqua").mkdir()
    (tmp_path / "aqua" / "dev.json").write_text('{"question": "q"}\n{"question": "r"}\n')
    fine, said = {name: (fine, said) for name, fine, said in recipes_from(tmp_path)}["recipe smol"]
    assert not fine
    assert "math 3 rows" in said
    assert f"code: no file matches {tmp_path}/gpteacher/codegen-instruct.json" in said


def test_the_doctor_reads_a_recipes_rows_as_training_would(tmp_path):
    good = '{"instruction": "i", "output": "o"}\n'
    (tmp_path / "good.jsonl").write_text(good * 30 + '{"instruction": "i", "output": null}\n')
    (tmp_path / "bad.jsonl").write_text(good + '{"instruction": "i", "output": null}\n' * 3)
    recipe = tmp_path / "r.yaml"
    sources = [f"{{name: {name}, parts: [{{files: {tmp_path}/{name}.jsonl}}]}}" for name in ("good", "bad", "missing")]
    recipe.write_text(
        "models: [{kind: tiny, name: t}]\nstrategies: [uniform]\n"
        f"data: {{sources: [{', '.join(sources)}]}}\nevaluation: {{suites: []}}\n"
    )
    result = CliRunner().invoke(doctor, [str(recipe), "--format", "json", "--store", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    found = {item["what"].strip(): (item["ok"], item["detail"]) for item in json.loads(result.stdout)}
    assert found["good"][0]
    assert "31 rows; 30 kept, 1 left out" in found["good"][1]
    assert "`output` is null" in found["good"][1]
    assert not found["bad"][0]
    assert not found["missing"][0]
    assert "no file matches" in found["missing"][1]
