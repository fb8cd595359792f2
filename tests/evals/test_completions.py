"""A served checkpoint answers as the same checkpoint in this process does, and a server's troubles lose nothing."""

from __future__ import annotations

import sqlite3

import pytest
from small_evaluations import REQUESTS, assert_same_samples, run
from tiny_checkpoint import make_checkpoint
from tiny_server import TinyServer

from evals.engines import completions
from harness.errors import MoemixError, StageFailed


@pytest.fixture
def server(checkpoint):
    with TinyServer(checkpoint) as server:
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(completions, "_ATTEMPTS", 3)
    monkeypatch.setattr(completions, "_WAIT", 0.05)


@pytest.fixture(scope="module")
def in_process(checkpoint, mini_suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evals") / "transformers"
    return folder, run(checkpoint, mini_suite, "transformers", folder)


def test_a_server_gives_the_same_likelihoods_and_texts(server, checkpoint, mini_suite, in_process, tmp_path):
    summary = run(checkpoint, mini_suite, server.url, tmp_path / "out")
    assert_same_samples(tmp_path / "out", in_process[0])
    assert len(server.asked) == REQUESTS
    assert summary.engine["name"] == "url"
    assert [r.prompt_hash for r in summary.results] == [r.prompt_hash for r in in_process[1].results]


def test_errors_dropped_connections_and_empty_answers_are_asked_again(
    server, checkpoint, mini_suite, in_process, tmp_path
):
    server.faults = {0: "500", 7: "drop", 20: "garbage", 21: "503", 50: "429", 80: "drop", 81: "500"}
    run(checkpoint, mini_suite, server.url, tmp_path / "out")
    assert_same_samples(tmp_path / "out", in_process[0])


def test_a_server_that_goes_away_leaves_a_resumable_evaluation(checkpoint, mini_suite, in_process, tmp_path):
    with TinyServer(checkpoint) as server:
        server.faults = dict.fromkeys(range(40, 10_000), "500")
        with pytest.raises(StageFailed, match="run the same command again"):
            run(checkpoint, mini_suite, server.url, tmp_path / "out")
        stored = sqlite3.connect(tmp_path / "out" / "responses.sqlite").execute("SELECT count(*) FROM answers")
        assert next(stored)[0] == len(server.asked) == 40
        server.faults = {}
        run(checkpoint, mini_suite, server.url, tmp_path / "out")
        assert len(set(server.asked)) == REQUESTS
        assert not set(server.asked[:40]) & set(server.asked[40:])
        server.shutdown()
    assert_same_samples(tmp_path / "out", in_process[0])


def test_a_request_the_server_refuses_is_not_repeated(server, checkpoint, mini_suite, tmp_path):
    server.faults = {3: "400"}
    with pytest.raises(StageFailed, match="refused a request \\(400\\)"):
        run(checkpoint, mini_suite, server.url, tmp_path / "out")


def test_a_server_without_prompt_likelihoods_is_refused_rather_than_scored(server, checkpoint, mini_suite, tmp_path):
    server.faults = {0: "forget logprobs"}
    with pytest.raises(StageFailed, match="does not give the log-likelihoods of prompts"):
        run(checkpoint, mini_suite, server.url, tmp_path / "out")


def test_a_server_of_another_checkpoint_is_refused(server, mini_suite, tmp_path):
    other = make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(MoemixError, match="not the checkpoint to be evaluated"):
        run(other, mini_suite, server.url, tmp_path / "out")


def test_nothing_at_the_url_is_said_at_once(checkpoint, mini_suite, tmp_path):
    with pytest.raises(MoemixError, match="no OpenAI-compatible server answers"):
        run(checkpoint, mini_suite, "http://127.0.0.1:9", tmp_path / "out")
