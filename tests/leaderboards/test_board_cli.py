"""``moemix submit`` and ``moemix board`` as they are typed, on runs as training and evaluation leave them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pytest
from board_records import make_board, questions, write_evaluation, write_submission  # type: ignore[import-not-found]
from click.testing import CliRunner

import moemix
from harness.errors import MoemixError
from harness.store import checkpoint_hash
from leaderboards.board.bundle import read_checkpoint
from leaderboards.board.cli import board as board_command
from leaderboards.board.cli import submit as submit_command
from leaderboards.board.folder import BoardFolder
from leaderboards.board.verify import verify
from leaderboards.serving import server

SIZES = {"pick": 24, "count": 16}


def call(command, *arguments: object):
    result = CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


@pytest.fixture
def run_folder(bench):
    """A finished run with a checkpoint, evaluated on the made suite."""
    made = bench.run("dynamic", weights=(0.2, 0.3, 0.5))
    made.checkpoint.mkdir()
    config = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
    (made.checkpoint / "config.json").write_text(json.dumps(config))
    made.update(checkpoint_hash=checkpoint_hash(made.checkpoint))
    write_evaluation(made.folder / "evals" / "made", questions(SIZES), checkpoint_hash=checkpoint_hash(made.checkpoint))
    return made


def test_the_first_submission_makes_a_board_that_pins_its_own_evaluations(run_folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "moemix")
    result = call(submit_command, run_folder.folder, "--board", tmp_path / "board", "--licence", "MIT")
    assert result.return_value == 0
    assert "a new board, pinned to made@1" in caplog.text
    board = BoardFolder(tmp_path / "board")
    (checked,) = verify(board)
    assert not checked.failed
    submission = checked.submission
    assert (submission.model, submission.strategy, submission.seed) == ("tiny-0123456789ab-dynamic", "dynamic", 0)
    assert (submission.recipe, submission.licence, submission.architecture) == ("bench", "MIT", "MixtralForCausalLM")
    assert {"run.json", "mixture.jsonl", "evals/made@1/samples_pick.jsonl"} <= submission.files.keys()
    assert not [path for path in submission.files if "checkpoint" in path or path.endswith(".safetensors")]
    assert (tmp_path / "board" / ".gitignore").read_text() == "/.moemix/\n"


def test_a_whole_life_of_a_board(run_folder, tmp_path):
    folder = tmp_path / "board"
    pinned = write_evaluation(tmp_path / "pinned", questions(SIZES), seed=50)
    call(board_command, "init", folder, "--pin", pinned, "--title", "Our board")
    call(submit_command, run_folder.folder, "--board", folder, "--name", "ours", "--contact", "me", "--link",
         "weights=https://example.org/w")  # fmt: skip
    first = BoardFolder(folder).submissions()[0]
    write_submission(BoardFolder(folder), questions(SIZES), "theirs", seed=9, supersedes=None)

    call(board_command, "withdraw", folder, first.name[:6], "--reason", "trained on the test set")
    assert "1 with warnings" not in call(board_command, "verify", folder).output
    call(
        board_command, "pin", folder, write_evaluation(tmp_path / "again", questions(SIZES), seed=51), "--version", "2"
    )
    assert [suite.key for suite in BoardFolder(folder).board.suites] == ["made@1", "made@2"]
    result = call(submit_command, run_folder.folder, "--board", folder, "--name", "ours", "--suite", "made@2",
                  "--supersedes", first.name)  # fmt: skip
    assert result.return_value == 0

    out = call(board_command, "build", folder, "--out", tmp_path / "site").output
    assert "3 submissions" in out
    document = json.loads((tmp_path / "site" / "board.json").read_text())
    assert {(e["submission"]["model"], e["status"]) for e in document["entries"]} == {
        ("ours", "withdrawn"), ("ours", "current"), ("theirs", "current")}  # fmt: skip
    assert document["title"] == "Our board"
    lines = (tmp_path / "site" / "board.csv").read_text().splitlines()
    assert lines[0].startswith("suite,rank,rank_worst,model")
    assert len([line for line in lines if line.startswith("made@2,")]) == 3  # two tasks and their average
    assert "Our board" in (tmp_path / "site" / "board.md").read_text()
    schema = json.loads((tmp_path / "site" / "schema.json").read_text())
    assert all(entry.keys() <= schema["properties"].keys() for entry in document["entries"])
    atom = "{http://www.w3.org/2005/Atom}"
    feed = ElementTree.parse(tmp_path / "site" / "feed.xml").getroot()
    said = {
        entry.find(f"{atom}link").get("href"): entry.findtext(f"{atom}summary") for entry in feed.iter(f"{atom}entry")
    }
    assert len(said) == 3
    assert said[f"index.html#s/{first.name}"].endswith("trained on the test set")
    assert all(line.text.endswith("+00:00") for line in feed.iter(f"{atom}updated"))


def test_verify_prints_a_list_and_its_status_tells(run_folder, tmp_path):
    folder = tmp_path / "board"
    call(submit_command, run_folder.folder, "--board", folder)
    command = (sys.executable, "-m", "harness.cli", "board", "verify", str(folder), "--format", "json")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(v.keys() == {"submission", "check", "verdict", "detail"} for v in json.loads(done.stdout))
    path = next(folder.glob("submissions/*/*/evals/made@1/summary.json"))
    path.write_text(path.read_text().replace('"n": 24', '"n": 23', 1))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert {v["check"] for v in json.loads(done.stdout) if v["verdict"] == "fail"} == {"hashes", "scores"}


def test_what_fails_is_left_out_of_the_site_and_named(tmp_path, caplog):
    board, asked = make_board(tmp_path / "board", SIZES)
    write_submission(board, asked, "good", seed=1)
    bad = write_submission(board, asked, "bad", seed=2)
    path = bad.path / "evals/made@1/samples_pick.jsonl"
    path.write_text(path.read_text().replace('"acc": 0.0', '"acc": 1.0', 1))
    result = call(board_command, "build", board.path, "--out", tmp_path / "site")
    assert f"{bad.label}: left out, it fails hashes" in caplog.text
    assert "1 submissions" in result.output
    assert "bad" not in (tmp_path / "site" / "index.html").read_text()


def test_two_submissions_are_compared_by_command(tmp_path):
    board, asked = make_board(tmp_path / "board", {"pick": 200, "count": 100})
    good, bad = (
        write_submission(board, asked, n, seed=i, ability=a) for i, (n, a) in enumerate((("a", 0.9), ("b", 0.1)))
    )
    text = call(board_command, "compare", board.path, good.name[:6], bad.name).output
    assert f"a/{good.name} minus b/{bad.name} on made@1" in text
    lines = [line for line in text.splitlines() if line.startswith(("Pick", "Count", "Avg"))]
    assert len(lines) == 3
    assert all(" * " in line and "better" in line for line in lines)
    back = call(board_command, "compare", board.path, bad.name, good.name).output
    assert "worse" in back
    assert "better  " not in back.split("Better / worse")[1].split("Differences")[0]
    bad.path.joinpath("withdrawn.json").write_text(
        json.dumps({"schema_version": 1, "submission_id": bad.name, "reason": "mistake", "date": "2026-03-01"})
    )
    with pytest.raises(MoemixError, match="not in the ranking"):
        call(board_command, "compare", board.path, good.name, bad.name)


def test_the_site_is_built_the_same_again(tmp_path):
    board, asked = make_board(tmp_path / "board", SIZES)
    for seed in range(3):
        write_submission(board, asked, f"m{seed}", seed=seed)
    for name in ("one", "two"):
        call(board_command, "build", board.path, "--out", tmp_path / name)

    def content(name: str) -> dict[str, str]:
        site = tmp_path / name
        return {p.relative_to(site).as_posix(): p.read_text() for p in site.rglob("*") if p.is_file()}

    one, two = content("one"), content("two")
    for files in (one, two):
        files["data/board.js"] = files["data/board.js"].split('"built":')[0]
    assert one == two


def test_serve_answers_and_lists_no_folder(tmp_path):
    board, asked = make_board(tmp_path / "board", SIZES)
    write_submission(board, asked, "one", seed=1)
    command = (sys.executable, "-m", "harness.cli", "board", "serve", str(board.path), "--port", "0")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[0]
        end = time.monotonic() + 120
        while True:
            try:
                page = urllib.request.urlopen(address, timeout=60)
                break
            except OSError:
                assert time.monotonic() < end
        assert b"A board" in page.read()
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}records/", timeout=60)
    finally:
        process.terminate()
        process.wait()


def test_a_published_board_is_a_data_frame(tmp_path):
    board, asked = make_board(tmp_path / "board", SIZES)
    for seed in range(2):
        write_submission(board, asked, f"m{seed}", seed=seed, strategy="uniform")
    call(board_command, "build", board.path, "--out", tmp_path / "site")
    with server(tmp_path / "site", "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        by_address = moemix.board(f"http://127.0.0.1:{running.server_address[1]}/index.html").to_pandas()
        running.shutdown()
    frame = moemix.board(tmp_path / "site").to_pandas()
    assert by_address.equals(frame)
    assert len(frame) == 2 * 3  # two tasks and their average
    document = json.loads((tmp_path / "site" / "board.json").read_text())
    entry = next(e for e in document["entries"] if e["submission"]["model"] == "m1")
    row = frame[(frame.model == "m1") & (frame.column == "average")].iloc[0]
    assert (row.score, row["rank"]) == (entry["scores"]["made@1"]["average"]["value"],
                                        entry["scores"]["made@1"]["average"]["rank"])  # fmt: skip
    with pytest.raises(MoemixError, match="no leaderboard can be read"):
        moemix.board(tmp_path / "nowhere").to_pandas()


def test_parameters_are_counted_from_the_headers(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    zeros = lambda *shape: np.zeros(shape, dtype=np.float32)
    tensors = {f"layers.0.experts.{e}.w": zeros(10, 10) for e in range(4)} | {"embed": zeros(5, 10)}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"architectures": ["X"], "num_local_experts": 4, "num_experts_per_tok": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(tmp_path) == {"architecture": "X", "parameters": 450, "active_parameters": 150}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--link", "weights"), "expected KIND=URL"),
        (("--suite", "maid"), "did you mean 'made@1'"),
        (("--supersedes", "abc"), "no submission 'abc'"),
    ],
)
def test_a_mistake_is_told_in_words(run_folder, tmp_path, arguments, said):
    call(submit_command, run_folder.folder, "--board", tmp_path / "board")
    with pytest.raises(MoemixError, match=said):
        call(submit_command, run_folder.folder, "--board", tmp_path / "board", *arguments)


def test_what_is_no_run_and_what_is_no_board_is_named(run_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(MoemixError, match="neither a run nor a checkpoint"):
        call(submit_command, tmp_path / "empty", "--board", tmp_path / "board")
    with pytest.raises(MoemixError, match="not a board"):
        call(submit_command, run_folder.folder, "--board", tmp_path / "thesis")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    with pytest.raises(MoemixError, match="not a board"):
        call(board_command, "verify", tmp_path / "empty")


def test_a_pinned_version_is_never_changed(tmp_path):
    board, _ = make_board(tmp_path / "board", SIZES)
    with pytest.raises(MoemixError, match="already pins made@1"):
        call(board_command, "pin", board.path, Path(tmp_path / "board-pinned"), "--version", "1")


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom leaderboards.board.cli import board, submit\n"
        "assert 'board' in CliRunner().invoke(submit, ['--help']).output\n"
        "assert 'verify' in CliRunner().invoke(board, ['--help']).output\n"
        "assert not {'torch', 'numpy', 'scipy', 'yaml', 'pydantic'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_damaged_checkpoint_is_refused_with_its_file(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(MoemixError, match=r"model\.safetensors: not a valid safetensors file"):
        read_checkpoint(tmp_path)
