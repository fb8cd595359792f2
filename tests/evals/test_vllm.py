"""A real vLLM server gives what transformers gives, and its death in the middle costs nothing but time."""

from __future__ import annotations

import os
import signal

import pytest
from small_evaluations import REQUESTS, assert_same_samples, run, stored

from evals import runner
from evals.cache import ResponseCache
from evals.engines.vllm_server import VllmEngine, installed_vllm
from harness.errors import MoemixError, StageError
from harness.files import read_json

try:
    installed_vllm()
except MoemixError as error:
    pytest.skip(error.message, allow_module_level=True)

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def in_process(checkpoint, mini_suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evals") / "transformers"
    run(checkpoint, mini_suite, "transformers", folder)
    return folder


@pytest.fixture(scope="module")
def engine(checkpoint, tmp_path_factory):
    with VllmEngine(checkpoint, dtype="float32", seed=0, folder=tmp_path_factory.mktemp("server")) as engine:
        yield engine


class Borrowed:
    """The module's server, for an evaluation that would start and stop one."""

    def __init__(self, engine):
        self._engine = engine

    def __enter__(self):
        return self._engine

    def __exit__(self, *_):
        return None


@pytest.fixture
def borrowed(engine, monkeypatch):
    monkeypatch.setattr(runner, "open_engine", lambda *_, **__: Borrowed(engine))


@pytest.fixture
def killing(engine, monkeypatch):
    """Kills the server as soon as an evaluation has stored this many answers; gives the keys in their order."""

    def arrange(after: int) -> list[str]:
        kept: list[str] = []

        def put_and_kill(self: ResponseCache, key: str, answer: object) -> None:
            put(self, key, answer)
            kept.append(key)
            if len(kept) == after:
                os.killpg(read_json(engine.server.record)["pid"], signal.SIGKILL)

        monkeypatch.setattr(ResponseCache, "put", put_and_kill)
        return kept

    put = ResponseCache.put
    return arrange


@pytest.mark.usefixtures("borrowed")
def test_choices_and_texts_equal_those_of_transformers(checkpoint, mini_suite, in_process, tmp_path):
    summary = run(checkpoint, mini_suite, "vllm", tmp_path / "out")
    assert_same_samples(tmp_path / "out", in_process)
    assert summary.engine["name"] == "vllm"
    assert summary.engine["dtype"] == "float32"
    assert summary.engine["args"]["max-model-len"] == 1024


def test_the_letters_of_a_choice_score_as_in_transformers(engine, checkpoint, monkeypatch):
    """One request a question, by vLLM's ``logprob_token_ids``, and never by way of the whole prompt."""
    from lm_eval.api.instance import Instance

    from evals.engines.in_process import SeededHFLM

    prefix = "the question and the answer are in the text " * 12
    pairs = [(f"{prefix}{i} and the answer is", letter) for i in range(6) for letter in "ABCD"]
    requests = [Instance("loglikelihood", {}, pair, i, metadata=("t", i, 1)) for i, pair in enumerate(pairs)]
    lm = engine.lm()
    monkeypatch.setattr(lm, "_ask_echo", lambda request: pytest.fail("asked the long way"))
    mine = lm.loglikelihood(requests)
    theirs = SeededHFLM(pretrained=str(checkpoint), dtype="float32", device="cpu").loglikelihood(requests)
    assert [value for value, _ in mine] == pytest.approx([value for value, _ in theirs], abs=1e-3)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in theirs]


def test_long_prompts_sampled_with_seeds_are_answered_all_at_once(engine):
    """More than fits into one step: vLLM on CPUs ends when such a prompt is read in pieces."""
    from lm_eval.api.instance import Instance

    long = "the question and the answer are in the text " * 12
    options = {"do_sample": True, "temperature": 0.7, "max_gen_toks": 8, "until": []}
    arguments = [(f"{i} {long}", {**options, "seed": i}) for i in range(24)]
    requests = [Instance("generate_until", {}, each, i, metadata=("t", i, 1)) for i, each in enumerate(arguments)]
    assert len(engine.lm().generate_until(requests)) == 24
    assert engine.server.alive()


@pytest.mark.usefixtures("borrowed")
def test_a_server_killed_midway_is_started_again_once_and_asked_only_for_the_rest(
    engine, checkpoint, mini_suite, in_process, tmp_path, killing, monkeypatch
):
    kept = killing(after=30)
    run(checkpoint, mini_suite, "vllm", tmp_path / "once")
    assert len(kept) == len(set(kept)) == REQUESTS
    assert_same_samples(tmp_path / "once", in_process)

    monkeypatch.setenv("MOEMIX_CACHE", str(tmp_path / "cold"))
    kept = killing(after=30)
    with pytest.raises(StageError, match="died again after a restart"):
        run(checkpoint, mini_suite, "vllm", tmp_path / "twice")
    assert not engine.server.alive()
    assert set(kept) == set(stored(tmp_path / "cold" / "responses"))
