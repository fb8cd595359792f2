"""Answers: temperatures by category, the second turn after the model's own first, seeds, limits, FastChat files."""

from __future__ import annotations

import json

import pytest
from fake_judge import FakeJudge
from small_judgings import arguments, judged, lines, write_lines

from evals.cache import ResponseCache
from evals.engines.chat import ChatRequest, chat
from evals.engines.choose import open_engine
from evals.judge.answers import ask
from evals.judge.questions import load_bench, read_answers
from evals.judge.records import Question
from evals.judge.run import judge_request, request_from
from harness.errors import MoemixError

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def lm(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    with open_engine("transformers", checkpoint, dtype="float32", seed=0, folder=folder) as engine:
        yield engine.lm()


def say(lm, requests):
    replies = {}
    chat(lm, requests, lambda request, reply: replies.__setitem__(id(request), reply), template=TEMPLATE)
    return [replies[id(request)] for request in requests]


def user(text, **options):
    return ChatRequest(({"role": "user", "content": text},), **{"max_tokens": 12, **options})


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(lm):
    requests = [user("the question", temperature=t, seed=s) for t, s in ((0, 0), (0.7, 1), (0.7, 2), (1.5, 3))]
    alone = [say(lm, [request])[0] for request in requests]
    together = say(lm, [user("a longer question in the text", max_tokens=5), *requests])[1:]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert len({reply.text for reply in alone}) == 4


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(lm):
    same, again, other = say(lm, [user("ask", temperature=1.0, seed=s) for s in (5, 5, 6)])
    assert same == again
    assert same.text != other.text


def test_limits_stops_and_finish_reasons_are_each_requests_own(lm):
    free = say(lm, [user("the text", max_tokens=40)])[0]
    assert free.finish_reason == "length"
    assert free.answer_tokens == 40
    stop = free.text[5:8]
    short, stopped = say(lm, [user("the text", max_tokens=3), user("the text", max_tokens=40, stop=(stop,))])
    assert (short.finish_reason, short.answer_tokens) == ("length", 3)
    assert free.text.startswith(short.text)
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text.split(stop)[0]


def test_a_prompt_longer_than_the_context_is_cut_and_told(lm):
    reply = say(lm, [user("word " * 3000, max_tokens=50)])[0]
    assert reply.prompt_cut > 0
    assert reply.answer_tokens <= 16
    assert reply.prompt_tokens + reply.answer_tokens <= lm.max_length


def test_a_checkpoint_without_a_chat_template_says_so(lm):
    with pytest.raises(MoemixError, match="no chat template"):
        chat(lm, [user("ask")], lambda *_: None)


QUESTIONS = [
    Question(1, "writing", ("ask one", "ask more")),
    Question(2, "math", ("the sum",)),
    Question(3, "stem", ("why", "why not")),
    Question(4, "other", ("what",)),
    Question(5, "math", ("hot",), required_temperature=0.4),
]


class Recorder:
    """The requests that the model gets."""

    def __init__(self, monkeypatch):
        from evals.judge import answers

        self.requests = []
        inner = answers.chat

        def watched(lm, requests, keep, *, template=None):
            self.requests += requests
            inner(lm, requests, keep, template=template)

        monkeypatch.setattr(answers, "chat", watched)


def test_temperatures_are_the_categories_and_the_second_turn_follows_the_models_own_first(lm, monkeypatch):
    seen = Recorder(monkeypatch)
    replies = ask(QUESTIONS, lm, ResponseCache(None, {}), seed=3, max_tokens=8, template=TEMPLATE)
    assert [request.temperature for request in seen.requests] == [0.7, 0.0, 0.1, 0.7, 0.4, 0.7, 0.1]
    assert {request.seed for request in seen.requests} == {3}
    second = seen.requests[5].messages
    assert [message["content"] for message in second] == ["ask one", replies[1][0].text, "ask more"]
    assert [len(replies[question.id]) for question in QUESTIONS] == [2, 1, 2, 1, 1]


def test_answers_that_are_there_are_not_asked_for_again(lm, monkeypatch, tmp_path):
    cache = ResponseCache(tmp_path / "answers.sqlite", {"checkpoint": "x"})
    first = ask(QUESTIONS[:3], lm, cache, seed=0, max_tokens=8, template=TEMPLATE)
    seen = Recorder(monkeypatch)
    second = ask(QUESTIONS, lm, cache, seed=0, max_tokens=8, template=TEMPLATE)
    assert len(seen.requests) == 2
    assert {key: second[key] for key in first} == first


def test_a_checkpoint_is_answered_judged_and_its_answers_can_be_judged_elsewhere(checkpoint, tmp_path):
    rows = [{"question_id": q.id, "category": q.category, "turns": list(q.turns)} for q in QUESTIONS]
    bench = write_lines(tmp_path / "bench.jsonl", rows)
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    with FakeJudge(lambda *_: '{"explanation": "", "rating": 4}') as judge:
        options = {"bench": str(bench), "judge_url": (judge.url,), "judge_model": ("fake",), "max_tokens": 8}
        options |= {"checkpoint": checkpoint, "chat_template": tmp_path / "chat.jinja", "out": tmp_path / "out"}
        summary = judge_request(request_from(**arguments(**options)))
        again = judged(tmp_path, judge.url, answers=(tmp_path / "out" / "answers.jsonl",), out=tmp_path / "again")
    assert summary.judged == again.judged == 7
    assert summary.model == again.model == "tiny"
    assert summary.checkpoint_hash
    assert summary.engine["name"] == "transformers"
    first = lines(tmp_path / "out" / "answers.jsonl")[0]
    assert {"question_id", "answer_id", "model_id", "choices", "tstamp"} <= set(first)
    assert first["choices"][0]["index"] == 0
    assert set(first["choices"][0]["finish_reasons"]) <= {"stop", "length"}
    held = read_answers(tmp_path / "out" / "answers.jsonl")
    assert held.answers[1] == tuple(first["choices"][0]["turns"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question_id": 1, "turns": []}, "`turns`"),
        ({"question_id": 1, "prompt": "x"}, "the row has prompt, question_id"),
        ({"turns": ["x"]}, "`question_id`"),
        ({"question_id": 1, "turns": ["a"], "reference": "b"}, "`reference`"),
    ],
)
def test_a_bad_question_is_told_with_its_line(tmp_path, row, said):
    good = {"question_id": 0, "turns": ["x"]}
    with pytest.raises(MoemixError) as error:
        load_bench(str(write_lines(tmp_path / "bench.jsonl", [good, row])), None)
    assert said in str(error.value)
    assert "bench.jsonl:2" in str(error.value)


def test_unknown_names_and_bad_answers_are_told(tmp_path):
    with pytest.raises(MoemixError, match="mt_bench"):
        load_bench("mt_bnech", None)
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"question_id": 1, "choices": []}) + "\n")
    with pytest.raises(MoemixError, match=r"answers.jsonl:1"):
        read_answers(file)
