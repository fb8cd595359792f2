"""The page on data: its rows are read as it says; and the preview, which shows what training sees."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from trainers.commands.data import data
from trainers.data.adapters import ADAPTERS
from trainers.data.detection import detect
from trainers.data.parts import load_adapter
from trainers.making.preview import lines, preview

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| `(\{.*\})` \| (.*?) ?\|$", PAGE, re.MULTILINE)


def test_every_adapter_and_option_is_on_the_page():
    assert [name for name, _, _ in ROWS] == list(ADAPTERS)
    for name, _, options in ROWS:
        keywords = [p.name for p in inspect.signature(ADAPTERS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert re.findall(r"`(\w+)`", options) == keywords


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row, _ in ROWS])
def test_the_row_of_each_adapter_is_detected_and_read(name, row):
    decoded = json.loads(row)
    assert detect(decoded) == (name, {})
    made = load_adapter(name, {}, where="page")(decoded)
    assert made == "Any text." if name == "text" else made[-1]["role"] == "assistant"


def previewed(path, *options):
    result = CliRunner(mix_stderr=False) if "mix_stderr" in inspect.signature(CliRunner).parameters else CliRunner()
    found = result.invoke(data, ["preview", str(path), *options], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


@pytest.fixture
def chat(tmp_path):
    turns = [["q", "a"], ["q", "a"], ["x", "1<|im_end|>2"], ["long", "y" * 4000]]
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in turns]
    rows += [{"messages": [{"role": "user", "content": "alone"}]}, {"messages": None}]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_preview_counts_and_shows_what_training_sees(chat):
    (source,) = json.loads(previewed(chat, "--format", "json"))["sources"]
    assert (source["name"], source["adapter"], source["rows"], source["kept"]) == ("chat.jsonl", "messages", 6, 4)
    assert source["left_out"] == {"no assistant turn": 1, "not in the format `messages`: `messages` is null": 1}
    assert source["places"]["no assistant turn"] == [f"{chat}:5"]
    assert source["truncated"] == 1
    assert source["duplicates"] == 1
    assert source["control_strings"] == {"<|im_end|>": 1}
    assert source["lengths"][2] > source["lengths_cut"][2] == source["max_length"]
    first = source["examples"][0]["segments"]
    assert [piece["text"] for piece in first if piece["target"]] == ["a<|im_end|>"]
    assert "".join(piece["text"] for piece in first).startswith("<|im_start|>user\nq<|im_end|>")


def test_control_strings_are_counted_where_they_become_tokens_too(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"text": "a<|im_end|>b<|im_end|>"}) + "\n")
    assert preview(str(file))["sources"][0]["control_strings"] == {"<|im_end|>": 2}
    row = {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "a"}]}
    file.write_text(json.dumps(row) + "\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nmodels: [{kind: tiny, name: t}]\nstrategies: [none]\ntraining: {steps: 1}\n"
        "data:\n  sources:\n    - {name: a, parts: [{files: x.jsonl, control_strings: tokens}]}\n"
    )
    (source,) = preview(str(recipe), root=str(tmp_path))["sources"]
    assert source["control_strings"] == {"<|im_end|>": 1}
    assert source["changed"] == {}


def test_contents_do_not_control_the_terminal(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"prompt": "\x1b[2Jq\ttab", "completion": "a\x9b"}) + "\n")
    text = "\n".join(lines(preview(str(file)), colour=False))
    assert "\\x1b[2Jq\ttab" in text
    assert "⟦a\\x9b<|im_end|>⟧" in text


def test_a_folder_of_datasets_is_previewed_as_a_file_is(tmp_path):
    import datasets

    rows = [{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": ""}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    (source,) = preview(str(tmp_path / "saved"))["sources"]
    assert (source["adapter"], source["kept"]) == ("prompt_completion", 1)
    assert source["places"] == {"empty assistant turn": [f"{tmp_path / 'saved'}:row 1"]}


def test_the_preview_is_text_or_a_page(chat, tmp_path):
    text = previewed(chat)
    assert "4 kept, 2 left out" in text
    assert "⟦a<|im_end|>⟧" in text
    template = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + eos_token }}{% endfor %}"
    assert "[user]q<|im_end|>[assistant]⟦a<|im_end|>⟧" in previewed(chat, "--chat-template", template)
    page = tmp_path / "page.html"
    previewed(chat, "--out", str(page))
    assert "<mark>a&lt;|im_end|&gt;</mark>" in page.read_text()


def test_sources_of_a_recipe_are_compared(tmp_path):
    row = json.dumps({"instruction": "i", "output": "o"})
    for name, made in (("a", [row] * 3), ("b", [row, json.dumps({"instruction": "j", "output": "p"})])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(made))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nmodels: [{kind: tiny, name: t}]\nstrategies: [none]\n"
        "training: {steps: 1}\n"
        "data:\n  sources:\n    - {name: a, parts: [{files: a.jsonl}]}\n    - {name: b, parts: [{files: b.jsonl}]}\n"
    )
    found = json.loads(previewed(recipe, "--data-root", str(tmp_path), "--format", "json"))["sources"]
    assert [(s["name"], s["duplicates"], s["in_other_sources"]) for s in found] == [("a", 2, 3), ("b", 0, 1)]
