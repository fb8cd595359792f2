"""The doctor says what a data root is enough for."""

from __future__ import annotations

import pytest

from harness.doctor import recipes_from


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
