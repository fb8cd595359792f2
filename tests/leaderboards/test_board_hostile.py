"""Hostile submissions: nothing is followed, unpacked, executed or believed, and each is refused with a sentence."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path

import pytest
from board_records import make_board, reseal, write_submission  # type: ignore[import-not-found]
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import MoemixError
from leaderboards.board.build import build_site
from leaderboards.board.folder import BoardFolder, is_member
from leaderboards.board.standings import rank_submissions
from leaderboards.board.submissions import Submission
from leaderboards.board.untrusted import parse_json, read_yaml
from leaderboards.board.verify import verify

SIZES = {"pick": 12, "count": 12}


@pytest.fixture
def made(tmp_path):
    board, asked = make_board(tmp_path / "board", SIZES)
    return board, write_submission(board, asked, "hostile", seed=1)


def refusal(board) -> tuple[str, str]:
    """The first check that fails, and what it says."""
    (checked,) = verify(board)
    failed = [verdict for verdict in checked.verdicts if verdict.verdict == "fail"]
    assert failed, [verdict.model_dump() for verdict in checked.verdicts]
    assert not rank_submissions(board, [checked]).checked  # and so it is not shown
    return failed[0].check, failed[0].detail


def edit(where, **changes):
    path = where.path / "submission.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../board.yaml", "mixture.jsonl"])
def test_a_symbolic_link_is_refused_unread(made, target):
    board, where = made
    (where.path / "run.json").symlink_to(target)
    check, said = refusal(board)
    assert check == "layout"
    assert "'run.json' is a symbolic link" in said


def test_a_linked_folder_is_refused(made, tmp_path):
    board, where = made
    (tmp_path / "elsewhere").mkdir()
    (where.path / "judge").symlink_to(tmp_path / "elsewhere")
    assert refusal(board)[0] == "layout"


def test_a_linked_submission_or_model_is_no_submission(made, tmp_path):
    board, where = made
    (board.path / "submissions" / "linked").symlink_to(where.path.parent)
    (board.path / "submissions" / "hostile" / "again").symlink_to(where.path)
    strays = [checked for checked in verify(board) if checked.submission is None]
    assert {checked.label for checked in strays} == {"linked", "hostile/again"}
    assert all(checked.failed for checked in strays)


def test_a_hard_link_is_refused(made, tmp_path):
    board, where = made
    (tmp_path / "secret").write_text("{}")
    os.link(tmp_path / "secret", where.path / "run.json")
    assert "a hard link" in refusal(board)[1]


def test_a_pipe_does_not_hang_the_check(made):
    board, where = made
    os.mkfifo(where.path / "metrics.jsonl")
    assert "not a regular file" in refusal(board)[1]


@pytest.mark.parametrize("name", ["model.safetensors", "run.py", "evals/made@1/samples.zip", ".env", "board.yaml",
                                  "recipe.yaml", "judge/../run.json/x", "evals/made@1/samples_a b.jsonl"])  # fmt: skip
def test_any_other_file_is_refused_by_its_name(made, name):
    board, where = made
    path = where.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert refusal(board)[0] == "layout"


def test_an_archive_is_never_unpacked(made):
    """A bomb of a gigabyte in a megabyte: it is not a file of a submission, whatever it holds and is called."""
    board, where = made
    path = where.path / "evals" / "made@1" / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples_pick.jsonl", b"0" * (1 << 20))
    assert refusal(board) == ("layout", "'evals/made@1/bomb.zip' is not a file of a submission")
    path.rename(where.path / "evals" / "made@1" / "samples_pick.jsonl")
    assert "not UTF-8 text" in "; ".join(v.detail for c in verify(board) for v in c.verdicts)


def test_too_many_files_are_refused(made):
    board, where = made
    (where.path / "judge" / "b").mkdir(parents=True)
    for i in range(2001):
        (where.path / "judge" / "b" / f"{i}.json").touch()
    assert "more than 2000 files" in refusal(board)[1]


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../../escape.json", "/etc/passwd", "evals/../../x", "evals/made@1/../../run.json",
                                  "evals\\made@1\\summary.json", "run.json\n", "judge/./x.json"])  # fmt: skip
def test_a_path_that_leaves_the_submission_is_never_opened(made, path):
    board, where = made
    assert not is_member(path)
    files = json.loads((where.path / "submission.json").read_text())["files"]
    edit(where, files=files | {path: {"bytes": 1, "sha256": "0" * 64}})
    check, said = refusal(board)
    assert check == "hashes"
    assert "is listed but missing" in said


@pytest.mark.parametrize("suite", ["../../../x@1", "made@1/../made@1", "made", "x" * 300])
def test_a_suite_that_is_a_path_is_refused(made, suite):
    board, where = made
    edit(where, suites=[suite])
    assert refusal(board)[0] == "schema"


@pytest.mark.parametrize("changes", [{"model": "../up"}, {"model": ""}, {"submission_id": "../../../../x"},
                                     {"model": "a/b"}, {"supersedes": "<b>"}])  # fmt: skip
def test_names_are_names(made, changes):
    board, where = made
    edit(where, **changes)
    assert refusal(board)[0] == "schema"


# --- texts and numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\u202egnp.exe", "a\x00b", "bell \x07", "\u200b", "\ud800", "\x1b[31mred"])
def test_control_and_direction_characters_are_refused(made, text):
    board, where = made
    edit(where, description=text)
    check, said = refusal(board)
    assert check == "schema"
    assert "is not allowed in a text" in said or "surrogate" in said.lower() or "unicode" in said.lower()


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", " https://x", "file:///etc/passwd"])
def test_an_address_is_of_the_web(made, address):
    board, where = made
    edit(where, links={"weights": address})
    assert "an address must start with" in refusal(board)[1]


def test_long_texts_and_unknown_keys_are_refused(made):
    board, where = made
    edit(where, description="x" * 5000)
    assert refusal(board)[0] == "schema"
    edit(where, description="", surprise=1)
    assert "unknown key `surprise`" in refusal(board)[1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1, "a": 2}', "appears twice"),
        (b"\xff\xfe{}", "not UTF-8 text (byte 0)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"1" * 5000, "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_json_that_is_none_is_refused(data, said):
    with pytest.raises(MoemixError) as error:
        parse_json(data, where="file")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("submission.json", '"parameters": 1000000', '"parameters": 1e999'),
        ("evals/made@1/summary.json", '"seconds": 1.0', '"seconds": 1e999'),
        ("evals/made@1/summary.json", '"stderr": 0.', '"stderr": 9e999, "n": 0.'),
        ("mixture.jsonl", '"step": 10', '"step": 1e999'),
    ],
)
def test_a_number_that_is_infinite_is_refused(made, name, old, new):
    board, where = made
    text = (where.path / name).read_text()
    assert old in text
    (where.path / name).write_text(text.replace(old, new, 1))
    assert refusal(board)[0] == "schema"


@pytest.mark.parametrize("value", ["1e999", '"1.0"', "true", "null", "[1]"])
def test_a_score_that_is_no_number_is_refused(made, value):
    board, where = made
    path = where.path / "evals/made@1/samples_pick.jsonl"
    path.write_text(path.read_text().replace('"acc": 1.0', f'"acc": {value}', 1))
    reseal(board, where)
    assert "is not a number" in refusal(board)[1]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "minus one"])
def test_a_likelihood_that_is_no_number_is_refused(made, value):
    board, where = made
    path = where.path / "evals/made@1/samples_pick.jsonl"
    first, *rest = path.read_text().splitlines()
    sample = json.loads(first)
    sample["resps"][0][0][0] = sample["filtered_resps"][0][0] = value
    path.write_text("\n".join([json.dumps(sample), *rest]) + "\n")
    where = reseal(board, where)
    assert refusal(board)[0] == "samples"


def test_a_large_file_is_not_read(made):
    board, where = made
    with open(where.path / "submission.json", "r+b") as file:
        file.truncate(5 << 20)  # sparse: it takes no room, and would be read in full by a careless reader
    assert "the limit is 4,194,304" in refusal(board)[1]


def test_a_deep_document_in_a_sample_is_refused(made):
    board, where = made
    path = where.path / "evals/made@1/samples_pick.jsonl"
    first, *rest = path.read_text().splitlines()
    deep = "[" * 900 + "]" * 900
    path.write_text("\n".join([first.replace('"doc": {', f'"doc": {{"deep": {deep}, ', 1), *rest]) + "\n")
    reseal(board, where)
    check, said = refusal(board)
    assert check == "questions"
    assert "nested too deeply" in said or "does not have the recorded hash" in said


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_bytes_a_record_holds_the_answer_is_a_sentence(data):
    with contextlib.suppress(MoemixError):
        parse_json(data, where="file")


# --- the board's own file ----------------------------------------------------------------------------------------


def test_a_yaml_bomb_is_refused_before_it_unfolds(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    path = tmp_path / "board.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(MoemixError, match=r"board.yaml:2: not plain YAML: aliases are not allowed"):
        read_yaml(path)
    with pytest.raises(MoemixError, match="aliases are not allowed"):
        BoardFolder(tmp_path)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system [true]", "a: 1\na: 2", "a: [", "[" * 500, "\xa0: \x00"]
)
def test_yaml_that_is_not_plain_is_refused(tmp_path, text):
    (tmp_path / "board.yaml").write_text(text)
    with pytest.raises(MoemixError):
        read_yaml(tmp_path / "board.yaml")


# --- what is shown -------------------------------------------------------------------------------------------------

FORMULAS = ['=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(A1)"]
MARKUP = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> [x](javascript:1) | `x`"


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_spreadsheet_sees_no_formula(made, tmp_path, formula):
    board, where = made
    reseal(board, where, strategy=formula, contact=formula, licence=formula)
    build_site({"board": rank_submissions(board, verify(board))}, tmp_path / "site")
    cells = [cell for line in (tmp_path / "site/board.csv").read_text().splitlines() for cell in line.split(",")]
    assert not [cell for cell in cells if cell.strip('"')[:1] in ("=", "@", "+")]
    assert not [cell for cell in cells if cell[:2] in ("-2", '"-')]


def test_markup_is_text_in_every_file(made, tmp_path):
    board, where = made
    reseal(board, where, strategy=MARKUP[:200], contact=MARKUP[:200], description=MARKUP)
    build_site({"board": rank_submissions(board, verify(board))}, tmp_path / "site")
    for name in ("index.html", "board.md", "data/board.js"):
        text = (tmp_path / "site" / name).read_text()
        assert "<script>document" not in text, name
        assert "<img" not in text, name
    assert "javascript:1" in (tmp_path / "site/board.md").read_text()  # as text
    assert "[x](javascript:1" not in (tmp_path / "site/board.md").read_text()


def test_a_board_with_a_hostile_submission_shows_the_others(tmp_path, capsys):
    board, asked = make_board(tmp_path / "board", SIZES)
    write_submission(board, asked, "honest", seed=1)
    where = write_submission(board, asked, "hostile", seed=2)
    (where.path / "run.json").symlink_to("/etc/passwd")
    standings = rank_submissions(board, verify(board))
    assert [checked.submission.model for checked in standings.checked] == ["honest"]
    assert list(standings.refused) == [where.label]


def test_every_text_of_a_submission_is_bounded():
    """A field that is added without a limit would let one submission fill a page."""
    schema = Submission.model_json_schema()
    for name in ("description", "licence", "contact", "model", "created"):
        field = schema["properties"][name]
        assert "maxLength" in field or "pattern" in field, name


def test_the_site_replaces_only_a_site(made, tmp_path):
    board, _ = made
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.tex").write_text("years of work")
    with pytest.raises(MoemixError, match="not a board's site"):
        build_site({"board": rank_submissions(board, verify(board))}, tmp_path / "site")
    assert Path(tmp_path / "site" / "thesis.tex").read_text() == "years of work"
