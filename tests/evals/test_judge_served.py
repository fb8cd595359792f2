"""A checkpoint served by vLLM answers as transformers does, and judges with verdicts held to the schema.

A judge whose context has 512 tokens judges what fits into it.
"""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner
from small_judgings import judged, lines, write_lines
from tiny_checkpoint import make_checkpoint

from evals.engines.chat import ChatRequest, chat
from evals.engines.choose import open_engine
from evals.engines.url import UrlEngine
from evals.engines.vllm_server import installed_vllm
from evals.judge.judges import Settings, open_judge
from evals.judge.strict import Strict
from harness.cli import cli
from harness.errors import MoemixError, StageError
from harness.files import read_json, write_json
from harness.judging import JudgeRequest, JudgeSpec

try:
    installed_vllm()
except MoemixError as error:
    pytest.skip(error.message, allow_module_level=True)

pytestmark = pytest.mark.serve
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def talker(checkpoint, tmp_path_factory):
    """The tiny checkpoint with a chat template, and room for a judge's prompt."""
    folder = tmp_path_factory.mktemp("talker") / "talker"
    shutil.copytree(checkpoint, folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "max_position_embeddings": 8192})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def endpoint(talker, tmp_path_factory):
    spec = JudgeSpec(name="talker", checkpoint=str(talker))
    request = JudgeRequest(
        bench="b", bench_hash="", answers={"m": ""}, protocol="strict", protocol_hash="", judges=(spec,)
    )
    with open_judge(spec, request, tmp_path_factory.mktemp("server"), Settings()) as endpoint:
        yield endpoint


def say(lm, requests):
    replies = {}
    chat(lm, requests, lambda request, reply: replies.__setitem__(id(request), reply))
    return [replies[id(request)] for request in requests]


def test_both_engines_give_the_same_conversations(endpoint, talker, tmp_path):
    turns = ({"role": "user", "content": "the question"}, {"role": "assistant", "content": "an answer"})
    asked = ({"role": "user", "content": "and the text"},)
    requests = [ChatRequest((*turns, *asked), max_tokens=24), ChatRequest(asked, max_tokens=7)]
    with (
        UrlEngine(endpoint.client.url, talker) as served,
        open_engine("transformers", talker, dtype="float32", seed=0, folder=tmp_path) as local,
    ):
        mine, theirs = say(served.lm(), requests), say(local.lm(), requests)
        sampled = ChatRequest(asked, temperature=1.0, seed=4, max_tokens=24)
        first, again, other = say(served.lm(), [sampled, ChatRequest(**vars(sampled)), ChatRequest(asked, 1.0, 5, 24)])
    assert [reply.text for reply in mine] == [reply.text for reply in theirs]
    assert [reply.finish_reason for reply in mine] == [reply.finish_reason for reply in theirs] == ["length", "length"]
    assert [reply.answer_tokens for reply in mine] == [24, 7]
    assert first.text == again.text != other.text


def test_a_served_judge_gives_verdicts_of_the_schema(endpoint, tmp_path):
    rows = [{"question_id": n, "category": "writing", "turns": ["ask", "more"]} for n in (1, 2)]
    write_lines(tmp_path / "bench.jsonl", rows)
    answers = [{"question_id": n, "model_id": "m", "choices": [{"turns": [f"a {n}", f"b {n}"]}]} for n in (1, 2)]
    write_lines(tmp_path / "mine.jsonl", answers)
    # more than the context of 8192: the answer is fitted to what a prompt leaves of it
    summary = judged(tmp_path, endpoint.client.url, judge_model=(endpoint.model,), judge_max_tokens=9000, timeout=600.0)
    held = lines(next((tmp_path / "out").glob("judgments-*.jsonl")))
    assert all(line["structured"] for line in held)
    assert all(1000 < line["token_limit"] < 8192 for line in held)
    assert summary.judged + summary.failed.get("cut_off", 0) == 4  # a random model may talk until its limit
    assert all(1 <= line["score"] <= 10 for line in held if line["reason"] is None)


def test_a_served_judge_with_a_context_of_512_judges_what_fits(tmp_path):
    """Prompts have about 370 of the 512 tokens, and one answer has more than 512 itself."""
    judge = make_checkpoint(tmp_path / "short", context=512, texts=[*Strict().texts.values()], vocabulary=512)
    (judge / "chat_template.jinja").write_text(TEMPLATE)
    write_lines(
        tmp_path / "bench.jsonl", [{"question_id": n, "category": "writing", "turns": ["ask"]} for n in range(6)]
    )
    answers = {n: "the answer " * 300 if n == 0 else f"the answer {n}" for n in range(6)}
    write_lines(tmp_path / "mine.jsonl", [
        {"question_id": n, "model_id": "m", "choices": [{"turns": [text]}]} for n, text in answers.items()
    ])  # fmt: skip
    command = ["judge", "--answers", tmp_path / "mine.jsonl", "--bench", tmp_path / "bench.jsonl",
               "--judge-checkpoint", judge, "--out", tmp_path / "out"]  # fmt: skip
    done = CliRunner().invoke(cli, [*map(str, command), "--min-judged", "0"])
    assert done.exit_code == 0, done.output
    summary = read_json(tmp_path / "out" / "summary.json")
    failed = summary["failed"]
    assert failed["rejected"] == 1
    assert summary["judged"] + failed.get("cut_off", 0) == 5  # a random model may talk until its limit
    held = lines(tmp_path / "out" / "judgments-short.jsonl")
    assert all(line["token_limit"] < 300 for line in held if line["reason"] != "rejected")
    assert "512" in next(line["detail"] for line in held if line["reason"] == "rejected")
    strictly = CliRunner().invoke(cli, [*map(str, command), "--min-judged", "0.95"])  # asks nothing: it is judged
    assert isinstance(strictly.exception, StageError)
    assert "of the judgments have a verdict, less than 95%" in str(strictly.exception)
