"""Answers are kept under everything that determines them, and requests are made to fit without quiet cuts."""

from __future__ import annotations

import pytest

from evals.cache import ResponseCache
from evals.engines.in_process import InProcessEngine
from evals.lm import CachedLM
from harness.errors import MoemixError


@pytest.fixture(scope="module")
def engine(checkpoint):
    with InProcessEngine(checkpoint, dtype="float32") as engine:
        yield engine


@pytest.fixture
def make(engine, tmp_path):
    """A model over a cache file that all of a test's models share."""

    def make(seed=0, **identity):
        cache = ResponseCache(tmp_path / "responses.sqlite", {"checkpoint": "a", "engine": "b", **identity})
        return CachedLM(engine.lm(), cache, max_length=engine.max_length, seed=seed)

    return make


def generation(prompt, **options):
    from lm_eval.api.instance import Instance

    options = {"until": ["\n"], "max_gen_toks": 16, **options}
    return Instance("generate_until", {}, (prompt, options), 0, metadata=("task", 0, 1))


def choice(context, continuation):
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, (context, continuation), 0, metadata=("task", 0, 1))


@pytest.fixture
def asked(engine, monkeypatch):
    """How many requests reach the engine."""
    counts = []
    for kind in ("loglikelihood", "generate_until"):
        original = getattr(engine.lm(), kind)

        def counting(requests, original=original, **options):
            counts.append(len(requests))
            return original(requests, **options)

        monkeypatch.setattr(engine.lm(), kind, counting)
    return counts


def test_what_was_answered_is_not_asked_again(make, asked):
    requests = [choice("the answer is", " red"), choice("the answer is", " blue"), choice("the answer is", " red")]
    first = make().loglikelihood(requests)
    assert asked == [2]
    assert first[0] == first[2] != first[1]
    assert make().loglikelihood([*requests, choice("the answer is", " green")])[:3] == first
    assert asked == [2, 1]


@pytest.mark.parametrize("other", [{"checkpoint": "z"}, {"engine": "z"}])
def test_another_checkpoint_or_engine_never_shares_an_answer(make, asked, other):
    make().loglikelihood([choice("a", " b")])
    make(**other).loglikelihood([choice("a", " b")])
    assert asked == [1, 1]


def test_repeats_of_a_sampled_prompt_are_different_draws_and_the_seed_decides_them(make, asked):
    request = generation("the question", do_sample=True, temperature=2.0)
    first = make().generate_until([request] * 3)
    assert len(set(first)) == 3
    assert make().generate_until([request] * 3) == first
    assert asked == [3]
    other = make(seed=1).generate_until([request] * 3)
    assert not set(other) & set(first)
    again = make(engine="elsewhere").generate_until([request] * 3)
    assert again == first


def test_greedy_answers_do_not_depend_on_the_seed(make, asked):
    request = generation("the question")
    assert make().generate_until([request]) == make(seed=1).generate_until([request])
    assert asked == [1]


def test_an_answer_gets_the_room_its_prompt_leaves_and_the_prompt_stays_whole(make):
    lm = make()
    prompt = "what is the colour? " * 40
    room = lm.max_length - len(lm.inner.tok_encode(prompt))
    assert 0 < room < 900
    (answer,) = lm.generate_until([generation(prompt, max_gen_toks=900, until=["~never~"])])
    assert len(lm.inner.tok_encode(answer)) <= room
    assert lm.notes == {"task": "1 answers had less room than the task allows"}
    assert answer == lm.generate_until([generation(prompt, max_gen_toks=room, until=["~never~"])])[0]


def test_prompts_longer_than_the_context_are_counted_in_the_record(make):
    lm = make()
    lm.generate_until([generation("what is the colour? " * 400)])
    lm.loglikelihood([choice("what is the colour? " * 400, " red"), choice("short", " red")])
    assert lm.notes == {"task": "2 prompts were cut on the left to fit the context"}


def test_a_damaged_cache_file_is_named(tmp_path):
    (tmp_path / "responses.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(MoemixError, match=r"responses\.sqlite: the response cache cannot be used"):
        ResponseCache(tmp_path / "responses.sqlite", {})


def test_a_checkpoint_that_transformers_cannot_load_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nobody_knows", "max_position_embeddings": 64}')
    with pytest.raises(MoemixError, match="transformers cannot load this"):
        InProcessEngine(tmp_path, dtype="float32").__enter__()
