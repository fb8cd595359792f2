"""Answers outlive their evaluation, serve every evaluation of the same checkpoint, and can be listed and pruned."""

from __future__ import annotations

import json
import os
import time

import pytest
from click.testing import CliRunner
from small_evaluations import run, stored
from tiny_checkpoint import make_checkpoint

from evals.cache import cache_files
from evals.cache_cli import cache
from harness.store import checkpoint_hash


def invoke(*arguments):
    return CliRunner().invoke(cache, [*map(str, arguments)])


def test_a_wider_evaluation_asks_only_for_what_is_new(checkpoint, mini_suite, tmp_path, responses):
    run(checkpoint, mini_suite, "transformers", tmp_path / "few", limit=4)
    first = stored(responses)
    assert len(first) == 4 * 5  # three choices, a text and its gold answer to a question
    run(checkpoint, mini_suite, "transformers", tmp_path / "more", limit=6)
    assert first.items() <= stored(responses).items()
    assert len(stored(responses)) == 6 * 5


def test_without_the_cache_nothing_is_read_or_kept(checkpoint, mini_suite, tmp_path, responses):
    run(checkpoint, mini_suite, "transformers", tmp_path / "out", limit=2, keep_answers=False)
    assert not responses.exists()


def test_stats_and_prune_know_whose_answers_they_are(checkpoint, mini_suite, tmp_path, responses):
    other = make_checkpoint(tmp_path / "other", seed=1)
    for folder in (checkpoint, other):
        run(folder, mini_suite, "transformers", tmp_path / "out" / folder.name, limit=2)
    listed = json.loads(invoke("stats", "--format", "json").output)
    assert {entry["checkpoint"] for entry in listed} == {checkpoint_hash(checkpoint), checkpoint_hash(other)}
    assert [entry["answers"] for entry in listed] == [10, 10]
    assert "transformers" in listed[0]["engine"]
    assert "20 answers" in invoke("stats").output

    assert invoke("prune").exit_code == 2
    assert "deleted 0 answers" in invoke("prune", "--older-than", 1).output
    assert "deleted 10 answers" in invoke("prune", "--checkpoint", other).output
    assert [file.checkpoint for file in cache_files()] == [checkpoint_hash(checkpoint)]
    for path in responses.iterdir():
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    assert "deleted 10 answers" in invoke("prune", "--older-than", 2).output
    assert not list(responses.iterdir())


@pytest.mark.parametrize("content", [b"not a database" * 100, b""])
def test_a_damaged_file_is_listed_and_can_be_pruned(content, responses):
    responses.mkdir(parents=True)
    (responses / "x.sqlite").write_bytes(content)
    assert "damaged" in invoke("stats").output
    assert invoke("prune", "--all").exit_code == 0
    assert not list(responses.iterdir())
