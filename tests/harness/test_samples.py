"""lm-eval's samples files are read by one reader, and what is wrong with a line is named with file and line."""

from __future__ import annotations

import json

import pytest

from harness.errors import MoemixError
from harness.samples import FIELDS, parse_samples, read_samples


def line(doc_id: int = 0, filter_name: str = "none", **fields):
    return {
        "doc_id": doc_id,
        "doc": {"question": "2+2"},
        "target": "4",
        "arguments": {
            "gen_args_0": {"arg_0": "2+2 is", "arg_1": " 4"},
            "gen_args_1": {"arg_0": "2+2 is", "arg_1": " 5"},
        },
        "resps": [[["-1.0", "True"]], [["-2.0", "False"]]],
        "filtered_resps": [["-1.0", "True"], ["-2.0", "False"]],
        "filter": filter_name,
        "metrics": ["acc"],
        "doc_hash": "d",
        "prompt_hash": "p",
        "target_hash": "t",
        "acc": 1.0,
        **fields,
    }


def written(folder, lines):
    path = folder / "samples_arc.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_line_becomes_a_sample_with_all_its_fields(tmp_path):
    (sample,) = read_samples(written(tmp_path, [line(7)]))
    assert (sample.doc_id, sample.filter, sample.doc, sample.target) == (7, "none", {"question": "2+2"}, "4")
    assert (sample.doc_hash, sample.target_hash, sample.prompt_hash) == ("d", "t", "p")
    assert sample.requests == [["2+2 is", " 4"], ["2+2 is", " 5"]]
    assert sample.responses == [[["-1.0", "True"]], [["-2.0", "False"]]]
    assert sample.filtered == [["-1.0", "True"], ["-2.0", "False"]]
    assert sample.metrics == ["acc"]
    assert sample.score("acc") == 1.0


def test_a_question_may_come_once_after_each_filter(tmp_path):
    samples = list(read_samples(written(tmp_path, [line(0, "strict"), line(0, "flexible"), line(1, "strict")])))
    assert [(sample.doc_id, sample.filter) for sample in samples] == [(0, "strict"), (0, "flexible"), (1, "strict")]
    with pytest.raises(MoemixError, match=r"samples_arc\.jsonl:2: question 0 comes twice"):
        list(read_samples(written(tmp_path, [line(0), line(0)])))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1, 2], "a sample is a JSON object"),
        ({"filter": "none"}, "`doc_id` is missing"),
        (line(True), "`doc_id` must be a whole number"),
        (line(1.0), "`doc_id` must be a whole number"),
        (line(1, 3), "`filter` a text"),
    ],
)
def test_a_line_that_is_no_sample_is_named_with_its_line(tmp_path, bad, message):
    path = written(tmp_path, [line(0), bad])
    with pytest.raises(MoemixError, match=message) as error:
        list(read_samples(path))
    assert error.value.where == f"{path}:2"


def test_empty_lines_are_skipped_and_counted(tmp_path):
    path = tmp_path / "samples_arc.jsonl"
    path.write_text(f"{json.dumps(line(0))}\n\n{{torn")
    samples = read_samples(path)
    assert next(samples).where == f"{path}:1"
    with pytest.raises(MoemixError, match=r"samples_arc\.jsonl:3: not valid JSON"):
        next(samples)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1.0", None, [1]])
def test_a_score_must_be_a_finite_number(tmp_path, value):
    (sample,) = read_samples(written(tmp_path, [line(3, acc=value)]))
    with pytest.raises(MoemixError, match="`acc` of question 3 is not a number"):
        sample.score("acc")
    with pytest.raises(MoemixError, match="`acc_norm` is missing"):
        sample.score("acc_norm")


def test_booleans_are_scores_unless_they_are_refused(tmp_path):
    (sample,) = read_samples(written(tmp_path, [line(acc=True)]))
    assert sample.score("acc") == 1.0
    with pytest.raises(MoemixError, match="is not a number"):
        sample.score("acc", allow_booleans=False)


@pytest.mark.parametrize("field", ["doc_hash", "target_hash", "prompt_hash"])
def test_a_hash_must_be_a_text(tmp_path, field):
    (sample,) = read_samples(written(tmp_path, [line(**{field: 3})]))
    with pytest.raises(MoemixError, match=f"`{field}` must be a text"):
        getattr(sample, field)


@pytest.mark.parametrize("arguments", [None, [], {"gen_args_1": {}}, {"gen_args_0": {"arg_1": "x"}}, {"gen_args_0": 3}])
def test_arguments_must_have_lm_evals_form(tmp_path, arguments):
    (sample,) = read_samples(written(tmp_path, [line(arguments=arguments)]))
    if arguments == []:
        assert sample.requests == []
        return
    with pytest.raises(MoemixError, match="`arguments` do not have lm-eval's form"):
        _ = sample.requests


@pytest.mark.parametrize("field", FIELDS)
def test_a_caller_may_require_every_field(field):
    incomplete = line()
    del incomplete[field]
    with pytest.raises(MoemixError, match=f"x:1: `{field}` is missing"):
        list(parse_samples([("x:1", incomplete)], required=FIELDS))
