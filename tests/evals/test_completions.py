"""A served checkpoint answers as the same checkpoint in this process does, and a server's troubles lose nothing."""

from __future__ import annotations

import pytest
from small_evaluations import REQUESTS, assert_same_samples, run, stored
from tiny_checkpoint import make_checkpoint
from tiny_server import TinyServer

from evals import pace
from evals.engines import completions
from evals.engines.chat import ChatRequest, chat
from evals.engines.url import UrlEngine
from harness.errors import MoemixError, StageError


@pytest.fixture
def server(checkpoint):
    with TinyServer(checkpoint) as server:
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(completions, "ATTEMPTS", 3)
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.05)


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


def test_a_server_that_goes_away_leaves_a_resumable_evaluation(checkpoint, mini_suite, in_process, tmp_path, responses):
    with TinyServer(checkpoint) as server:
        server.faults = dict.fromkeys(range(40, 10_000), "500")
        with pytest.raises(StageError, match="run the same command again"):
            run(checkpoint, mini_suite, server.url, tmp_path / "out")
        assert len(stored(responses)) == len(server.asked) == 40
        server.faults = {}
        run(checkpoint, mini_suite, server.url, tmp_path / "out")
        assert len(set(server.asked)) == REQUESTS
        assert not set(server.asked[:40]) & set(server.asked[40:])
        server.shutdown()
    assert_same_samples(tmp_path / "out", in_process[0])


def test_a_request_the_server_refuses_is_not_repeated(server, checkpoint, mini_suite, tmp_path):
    server.faults = {3: "400"}
    with pytest.raises(StageError, match="refused a request \\(400"):
        run(checkpoint, mini_suite, server.url, tmp_path / "out")


def test_a_server_without_prompt_likelihoods_is_refused_rather_than_scored(server, checkpoint, mini_suite, tmp_path):
    server.faults = {0: "forget logprobs"}
    with pytest.raises(StageError, match="does not give the log-likelihoods of prompts"):
        run(checkpoint, mini_suite, server.url, tmp_path / "out")


def test_a_server_of_another_checkpoint_is_refused(server, mini_suite, tmp_path):
    other = make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(MoemixError, match="not the checkpoint to be evaluated"):
        run(other, mini_suite, server.url, tmp_path / "out")


def test_nothing_at_the_url_is_said_at_once(checkpoint, mini_suite, tmp_path):
    with pytest.raises(MoemixError, match="no OpenAI-compatible server answers"):
        run(checkpoint, mini_suite, "http://127.0.0.1:9", tmp_path / "out")


def served(server, checkpoint):
    with UrlEngine(server.url, checkpoint) as engine:
        return engine.lm()


def test_letters_of_a_choice_are_asked_in_one_request_and_score_as_in_this_process(server, checkpoint):
    from lm_eval.api.instance import Instance

    from evals.engines.in_process import SeededHFLM

    questions = [f"the question {i} and the answer is" for i in range(4)]
    pairs = [(question, letter) for question in questions for letter in ("A", "B", "C")]
    requests = [Instance("loglikelihood", {}, pair, i, metadata=("t", i, 1)) for i, pair in enumerate(pairs)]
    mine = served(server, checkpoint).loglikelihood(requests)
    theirs = SeededHFLM(pretrained=str(checkpoint), dtype="float32", device="cpu").loglikelihood(requests)
    assert len(server.asked) == len(questions)
    for (value, greedy), (expected, also) in zip(mine, theirs, strict=True):
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == also


def test_a_server_that_ignores_the_letters_is_asked_the_long_way(server, checkpoint, monkeypatch):
    from lm_eval.api.instance import Instance

    complete = server.complete
    requests = [
        Instance("loglikelihood", {}, ("the question", letter), i, metadata=("t", i, 1))
        for i, letter in enumerate("AB")
    ]
    expected = served(server, checkpoint).loglikelihood(requests)

    def unknowing(request):
        if request.pop("logprob_token_ids", None):
            return {"choices": [{"index": 0, "text": "x", "logprobs": {"top_logprobs": [{"x": -1.0}]}}]}
        return complete(request)

    monkeypatch.setattr(server, "complete", unknowing)
    found = served(server, checkpoint).loglikelihood(requests)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)


def test_an_answer_is_cut_at_more_stop_strings_than_a_request_may_have(server, checkpoint, monkeypatch):
    from lm_eval.api.instance import Instance

    complete, sent = server.complete, []
    monkeypatch.setattr(server, "complete", lambda request: sent.append(request["stop"]) or complete(request))

    def answer(*until):
        options = {"until": list(until), "max_gen_toks": 40, "do_sample": False}
        return served(server, checkpoint).generate_until(
            [Instance("generate_until", {}, ("the text", options), 0, metadata=("t", 0, 1))]
        )[0]

    free = answer("§")
    end = free[5:8]
    assert answer("§1", "§2", "§3", "§4", "§5", end) == free.split(end)[0]
    asked, replies = ({"role": "user", "content": "the text"},), []
    ends = ("§1", "§2", "§3", "§4", end)
    chat(
        served(server, checkpoint),
        [ChatRequest(asked, max_tokens=40, stop=some) for some in (("§",), ends)],
        lambda request, reply: replies.append((request.stop, reply)),
        template="{{ messages[0].content }}",
    )
    whole, cut = dict(replies)[("§",)], dict(replies)[ends]
    assert cut.text == whole.text.split(end)[0] != whole.text
    assert cut.finish_reason == "stop"
    assert max(map(len, sent)) == 4, "vLLM refuses a request with more"


def test_what_a_server_says_of_itself_is_recorded(server, checkpoint, mini_suite, tmp_path):
    config = {"model": "org/tiny", "revision": "3fa2", "dtype": "torch.bfloat16", "quantization": None}
    server.says = {
        "/version": {"version": "0.32.0"},
        "/server_info?config_format=json": {"vllm_config": {"model_config": config}},
    }
    engine = run(checkpoint, mini_suite, server.url, tmp_path / "out", limit=1).engine
    assert (engine["version"], engine["dtype"]) == ("0.32.0", "bfloat16")
    assert {"root": str(checkpoint), "revision": "3fa2", "model": "org/tiny"}.items() <= engine["serves"].items()
    assert len(engine["serves"]["likelihoods"]) == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda server, other: server.says.update({"/version": {"version": "2"}}), "version None, now '2'"),
        (lambda server, other: setattr(server, "model", other), "other log-likelihoods of the same text"),
    ],
    ids=["says", "answers"],
)
def test_a_changed_server_is_noticed_and_described_otherwise(server, checkpoint, tmp_path, caplog, change, said):
    """The description is part of the key of each cached answer."""
    from transformers import AutoModelForCausalLM

    def described():
        with UrlEngine(server.url, checkpoint) as engine:
            return engine.describe()

    other, before = AutoModelForCausalLM.from_pretrained(make_checkpoint(tmp_path / "other", seed=1)), server.model
    first = described()
    assert described() == first
    assert "has changed" not in caplog.text
    change(server, other)
    changed = described()
    assert f"the server has changed ({said})" in caplog.text
    assert changed != first
    assert described() == changed
    server.says, server.model = {}, before
    assert described() == first


def test_a_server_that_changes_while_it_is_asked_leaves_no_answer(
    server, checkpoint, mini_suite, tmp_path, responses, monkeypatch
):
    complete = server.complete

    def changing(request):
        if len(server.asked) == 3:
            server.says = {"/version": {"version": "2"}}
        return complete(request)

    monkeypatch.setattr(server, "complete", changing)
    with pytest.raises(StageError, match="changed while it was asked: version None, now '2'"):
        run(checkpoint, mini_suite, server.url, tmp_path / "out", limit=2)
    assert stored(responses) == {}
    assert not (tmp_path / "out" / "summary.json").exists()
    asked = len(server.asked)
    run(checkpoint, mini_suite, server.url, tmp_path / "out", limit=2)
    assert len(server.asked) == 2 * asked
