"""A real checkpoint and a suite small enough to be asked many times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_checkpoint import make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory):
    """Nothing is read from or left in the caches of whoever runs the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def responses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A response cache of a test's own: the folder where its files will lie."""
    monkeypatch.setenv("MOEMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "responses"


SUITE = """
name: mini
columns:
  - {name: choice, tasks: [mini_choice], shots: 0, metric: acc}
  - {name: text, tasks: [mini_text], metric: exact_match}
averages:
  - {name: average, of: [choice, text]}
include: [tasks]
"""

CHOICE = """
task: mini_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
doc_to_choice: [" red", " green", " blue"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""

TEXT = """
task: mini_text
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


@pytest.fixture(scope="session")
def mini_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite file of a multiple-choice and a generation task with 24 questions each."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "tasks").mkdir()
    rows = [{"question": f"what is the colour of thing {i} in the text", "answer": i % 3} for i in range(24)]
    data = folder / "tasks" / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks" / "choice.yaml").write_text(CHOICE.replace("DATA", str(data)))
    (folder / "tasks" / "text.yaml").write_text(TEXT.replace("DATA", str(data)))
    (folder / "mini.yaml").write_text(SUITE)
    return folder / "mini.yaml"
