"""A hosted board: owners, signatures, rules, evil pull requests, and the files that host it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacks import (  # type: ignore[import-not-found]
    backdated_copy,
    forged,
    supersede_another,
    withdraw_another,
    write_withdrawal,
)
from board_records import (  # type: ignore[import-not-found]
    SIZES,
    commit,
    edit_json,
    git,
    make_board,
    outcomes,
    questions,
    reseal,
    write_evaluation,
    write_submission,
)
from click.testing import CliRunner
from run_records import Bench  # type: ignore[import-not-found]

import leaderboards
from harness.errors import MoemixError
from harness.files import hash_file
from harness.store import checkpoint_hash
from leaderboards.board.build import build_site
from leaderboards.board.cli import board as board_command
from leaderboards.board.folder import BoardFolder, SubmissionFolder
from leaderboards.board.hosting import requirements, write_hosting
from leaderboards.board.origins import fingerprint, sign
from leaderboards.board.review import as_comment, review
from leaderboards.board.standings import rank_submissions
from leaderboards.board.submissions import PinnedReplay, ReplayRecord, Rules, skeleton
from leaderboards.board.verify import verify

Made = tuple[BoardFolder, SubmissionFolder]


@pytest.fixture
def hosted(tmp_path) -> Made:
    """A board on whose main branch an honest submission of ``alice`` lies, and which asks for logins."""
    board, asked = make_board(tmp_path / "board", SIZES)
    board.update(rules=Rules(owners="login", maintainers=("boss",)))
    honest = write_submission(board, asked, "honest", seed=1, owner="alice")
    commit(board)
    board.asked = asked
    return board, honest


def standing(board: BoardFolder) -> tuple[list[str], dict[str, str]]:
    """The models that are ranked, and what is refused."""
    standings = rank_submissions(board, verify(board))
    ranked = [standings.submission(row).model for row in range(len(standings.checked))
              if standings.status[row][0] == "current"]  # fmt: skip
    return ranked, standings.refused


# --- owners and what the id covers


def test_the_owner_and_maintainers_may(hosted):
    board, honest = hosted
    again = write_submission(board, board.asked, "honest", seed=3, owner="alice", supersedes=honest.name)
    commit(board)
    standings = rank_submissions(board, verify(board))
    assert {c.label: s for c, (s, _) in zip(standings.checked, standings.status, strict=True)} == {
        honest.label: "superseded", again.label: "current"}  # fmt: skip
    for by in ("alice", "boss"):
        write_withdrawal(again, by=by)
        assert standing(board)[0] == ["honest"]  # the one before stands again


@pytest.mark.parametrize("change", [{"licence": "ours"}, {"contact": "me"}, {"strategy": "uniform"}, {"seed": 7},
                                    {"created": "2026-02-02"}, {"parameters": 5000}, {"owner": "mallory"},
                                    {"description": "better"}, {"links": {"code": "https://evil.org"}}])  # fmt: skip
def test_the_id_covers_all_that_is_shown(hosted, change):
    board, honest = hosted
    edit_json(honest.path / "submission.json", lambda s: s.update(change))
    (checked,) = verify(board)
    assert outcomes(checked)["hashes"] == "fail"


# --- signatures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path) -> dict[str, Path]:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    for name in ("alice", "mallory"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name))
        subprocess.run(command, check=True)
    return {name: tmp_path / name for name in ("alice", "mallory")}


def test_a_signature_is_of_the_owner_and_of_these_bytes(tmp_path, keys):
    board, asked = make_board(tmp_path / "board", SIZES)
    board.update(rules=Rules(owners="ssh"))
    mine = write_submission(board, asked, "mine", seed=1, owner=fingerprint(keys["alice"]))
    file = mine.path / "submission.json"

    def owner_verdict() -> str:
        return outcomes(verify(board)[0])["owner"]

    assert owner_verdict() == "fail"  # not signed
    sign(file, keys["mallory"])
    assert owner_verdict() == "fail"
    sign(file, keys["alice"])
    assert owner_verdict() == "pass"
    write_withdrawal(mine)
    sign(mine.path / "withdrawn.json", keys["mallory"])
    assert owner_verdict() == "warn"
    assert standing(board)[0] == ["mine"]
    sign(mine.path / "withdrawn.json", keys["alice"])
    assert standing(board)[0] == []
    file.write_text(file.read_text() + " ")
    assert owner_verdict() == "fail"


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_board_s_own_folders_are_no_links(hosted, tmp_path):
    board, _ = hosted
    for name in ("submissions", ".moemix"):
        (board.path / name).rename(tmp_path / f"kept{name}") if (board.path / name).exists() else None
        (board.path / name).symlink_to(tmp_path)
        with pytest.raises(MoemixError, match="must not be links"):
            BoardFolder(board.path)
        (board.path / name).unlink()


def test_the_files_of_a_submission_have_a_limit_together(hosted):
    board, honest = hosted
    board.update(rules=board.board.rules.model_copy(update={"max_bytes": 1000}))
    assert "in total; the limit is 1,000" in standing(board)[1][honest.label]


def test_git_changes_no_line_ends(hosted, tmp_path):
    board, _ = hosted
    git(tmp_path, "-c", "core.autocrlf=true", "clone", "--quiet", str(board.path), "clone")
    assert not [checked for checked in verify(BoardFolder(tmp_path / "clone")) if checked.failed]


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stated",
    [{"created": "2099-01-01T00:00:00+00:00"}, {"created": "yesterday"}, {"created": "1999-01-01"}, {"parameters": 1},
     {"parameters": 10**18}, {"parameters": 1000, "active_parameters": 2000}, {"seed": -1}, {"seed": 1 << 70},
     {"strategy": "unif\u043erm"}, {"base_model": "\u0430"}, {"contact": "e\u0301"}, {"owner": "a b"},
     {"description": "\u202e"}],
)  # fmt: skip
def test_numbers_and_texts_have_ranges(hosted, stated):
    board, _ = hosted
    where = forged(board)
    edit_json(where.path / "submission.json", lambda s: s.update(stated))
    found = {checked.label: checked for checked in verify(board)}
    assert outcomes(found[where.label])["schema"] == "fail"


@pytest.mark.parametrize("stated", [{"strategy": "uniform"}, {"seed": 9}, {"base_model": "other"}, {"recipe": "x"},
                                    {"run_id": "x"}, {"checkpoint_hash": "d" * 64}])  # fmt: skip
def test_a_submission_agrees_with_its_run(hosted, tmp_path, stated):
    board, _ = hosted
    run = Bench(tmp_path).run("dynamic", weights=(0.2, 0.3, 0.5))
    where = forged(board)
    record = json.loads((where.path / "submission.json").read_text())
    run.update(checkpoint_hash=record["checkpoint_hash"])
    shutil.copy(run.folder / "run.json", where.path / "run.json")
    (where.path / "mixture.jsonl").unlink()
    manifest = run.manifest
    true = {"strategy": manifest.config.strategy.label, "seed": manifest.config.seed, "recipe": manifest.recipe,
            "base_model": manifest.config.model_id, "run_id": manifest.run_id}  # fmt: skip
    where = reseal(board, where, **true)
    assert not next(checked for checked in verify(board) if checked.label == where.label).failed
    where = reseal(board, where, **(true | stated))
    found = {checked.label: checked for checked in verify(board)}
    assert outcomes(found[where.label])["schema"] == "fail"


# --- code and replay ------------------------------------------------------------------------------------------------


def test_forged_code_is_not_shown_where_execution_is_required(hosted, monkeypatch):
    board, _ = hosted
    board.update(rules=board.board.rules.model_copy(update={"require": ("execution",)}))
    monkeypatch.setenv("PATH", os.path.dirname(shutil.which("git") or ""))
    monkeypatch.setattr("leaderboards.board.execution._run", lambda programs: "programs cannot run here")
    standings = rank_submissions(board, verify(board, executing=True))
    assert not standings.checked
    assert all("the board requires execution" in reason for reason in standings.refused.values())


def test_what_was_not_executed_is_marked_wherever_it_enters(hosted, tmp_path):
    board, _ = hosted
    standings = rank_submissions(board, verify(board))
    (entry,) = standings.entries()
    scores = entry.scores["made@1"]
    assert {name: score.as_recorded for name, score in scores.items()} == {
        "pick": False, "count": False, "run": True, "average": True}  # fmt: skip
    assert entry.badges == ()
    build_site({"board": standings}, tmp_path / "site")
    for name, marked in (("index.html", "†</td>"), ("board.md", "† |")):
        assert (tmp_path / "site" / name).read_text().count(marked) == 2, name
    said = CliRunner().invoke(board_command, ["verify", str(board.path), "--no-execute"]).output
    assert "scores that nothing here confirms: honest/" in said
    assert "pass_at_1 of run (20 questions)" in said


def test_verify_and_build_agree(hosted, tmp_path):
    """Forged code fails both commands: the site shows what verify lets pass."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (make sandbox)")
    board, honest = hosted
    where = forged(board)
    path = where.path / "evals/made@1/samples_run.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"pass_at_1": 0.0', '"pass_at_1": 1.0'))

    def all_pass(summary):
        columns = summary["columns"]
        summary["results"][2].update(value=1.0, stderr=0.0)
        columns["run"].update(value=1.0, stderr=0.0)
        parts = [columns[name] for name in ("pick", "count", "run")]
        columns["average"].update(value=sum(part["value"] for part in parts) / 3, stderr=None)

    edit_json(where.path / "evals/made@1/summary.json", all_pass)
    where = reseal(board, where)

    def call(*words: object) -> Any:
        return CliRunner().invoke(board_command, [str(word) for word in words], standalone_mode=False)

    verdicts = json.loads(call("verify", board.path, "--format", "json").stdout)
    failed = {v["submission"] for v in verdicts if v["verdict"] == "fail"}
    assert call("build", board.path, "--out", tmp_path / "site").exception is None
    shown = json.loads((tmp_path / "site" / "board.json").read_text())
    labels = {f"{e['submission']['model']}/{e['submission']['submission_id']}" for e in shown["entries"]}
    assert failed == {where.label} == set(shown["refused"])
    assert labels == {honest.label}
    assert shown["entries"][0]["badges"] == ["executed"]


def test_replay_asks_enough_questions():
    """By simulation: 30 % forged answers fail, and honest ones pass, each in 99 % of cases."""
    import numpy as np

    rng = np.random.default_rng(0)
    for moved in (0.0, 0.01, 0.05):
        questions, allowed = PinnedReplay(moved=moved).design
        assert (rng.binomial(questions, 0.3, 20_000) > allowed).mean() >= 0.985
        assert (rng.binomial(questions, moved, 20_000) > allowed).mean() <= 0.015


def test_a_board_that_requires_a_replay_shows_what_its_checkpoint_earned(hosted):
    board, honest = hosted
    board.update(rules=board.board.rules.model_copy(update={"require": ("replay",)}))
    assert "the board requires replay" in standing(board)[1][honest.label]
    found = {"submission_id": honest.name, "engine": "transformers", "dtype": "float32", "seed": 1, "questions": 25,
             "moved": 0, "allowed": 2, "detail": "0 of 25 scores moved", "date": "2026-03-01"}  # fmt: skip
    ReplayRecord.model_validate(found | {"verdict": "pass"}).write(board.replay_path(honest.name))
    (entry,) = rank_submissions(board, verify(board)).entries()
    assert entry.badges == ("replayed",)
    ReplayRecord.model_validate(found | {"moved": 9, "verdict": "fail"}).write(board.replay_path(honest.name))
    assert standing(board)[1][honest.label].startswith("replay: ")


def test_names_that_look_alike_have_one_skeleton():
    assert skeleton("Model-1") == skeleton("mode1_l") == skeleton("rnode1-i")
    assert len({skeleton(name) for name in ("model-01", "model-10", "model-11", "dynamic", "uniform")}) == 5


# --- hosting: the workflow's own commands on a local repository -----------------------------------------------------


@pytest.fixture
def host(hosted, tmp_path, monkeypatch) -> tuple[BoardFolder, Callable[..., tuple[int, str]]]:
    """A bare repository with the board, and a function that runs the check of a pull request as the host would."""
    board, _ = hosted
    assert {path.name for path in write_hosting(board, "github", None)} >= {"check.yml", "publish.yml", "README.md"}
    commit(board)
    git(tmp_path, "clone", "--quiet", "--bare", str(board.path), "host.git")

    def check(author: str, change: Callable[[BoardFolder], object], *, workflow: bool = True) -> tuple[int, str]:
        for name in ("fork", "runner"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        git(tmp_path, "clone", "--quiet", str(tmp_path / "host.git"), "fork")
        fork = BoardFolder(tmp_path / "fork")
        fork.asked = board.asked
        change(fork)
        commit(fork, "a pull request")
        git(fork.path, "push", "--quiet", "--force", "origin", "HEAD:refs/pull/7/head")
        git(tmp_path, "clone", "--quiet", str(tmp_path / "host.git"), "runner")
        if not workflow:  # the same command without the start of a process for each attack
            git(tmp_path / "runner", "fetch", "--quiet", "origin", "+refs/pull/7/head:refs/review/head")
            arguments = ("--base", "HEAD", "--head", "refs/review/head", "--author", author)
            result = CliRunner().invoke(board_command, ["review", str(tmp_path / "runner"), *arguments],
                                        standalone_mode=False)  # fmt: skip
            assert result.exception is None
            return int(result.return_value), result.output
        return run_workflow(
            tmp_path / "runner",
            ".github/workflows/check.yml",
            "check",
            {"${{ github.event.pull_request.number }}": "7", "${{ github.event.pull_request.user.login }}": author},
        )

    return board, check


def run_workflow(folder: Path, file: str, job: str, context: dict[str, str]) -> tuple[int, str]:
    """Run the commands of a job, except the installation, as a runner does: each step in bash with its environment."""
    steps = yaml.safe_load((folder / file).read_text())["jobs"][job]["steps"]
    output = ""
    tools = Path(shutil.which("moemix", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")).parent
    for step in (step for step in steps if "run" in step and step["name"] != "Install"):
        assert "${{" not in step["run"]  # an expression in a command would let a title or a branch name run code
        given = {key: context.get(value, value) for key, value in step.get("env", {}).items()}
        done = subprocess.run(
            ("bash", "-e", "-c", step["run"]), cwd=folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **given},
        )  # fmt: skip
        output += done.stdout + done.stderr
        if done.returncode:
            return done.returncode, output
    return 0, output


def test_an_honest_pull_request_passes_and_is_published(host, tmp_path):
    _, check = host
    status, output = check("bob", lambda fork: forged(fork, "bobs", owner="bob"))
    assert status == 0, output
    table = (tmp_path / "runner" / "review.md").read_text()
    assert "Every check passes" in table
    assert "adds one submission and nothing else" in table
    assert git(tmp_path / "runner", "status", "--porcelain").splitlines() == ["?? review.md"]  # nothing was laid there
    git(tmp_path / "host.git", "update-ref", "refs/heads/main", "refs/pull/7/head")
    shutil.rmtree(tmp_path / "runner")
    git(tmp_path, "clone", "--quiet", str(tmp_path / "host.git"), "runner")
    status, output = run_workflow(tmp_path / "runner", ".github/workflows/publish.yml", "publish", {})
    assert status == 0, output
    document = json.loads((tmp_path / "runner" / "_site" / "board.json").read_text())
    assert [entry["submission"]["model"] for entry in document["entries"]] == ["bobs", "honest"]


def test_gitlab_installs_what_the_target_branch_pins(hosted, tmp_path):
    """The check leaves the merge request before it installs, so a request cannot bring a checker of its own."""
    board, _ = hosted
    write_hosting(board, "gitlab", None)
    commit(board)
    fork = tmp_path / "fork"
    git(tmp_path, "clone", "--quiet", str(board.path), "fork")
    (fork / "requirements.txt").write_text("evil\n")
    git(fork, "commit", "--quiet", "--all", "--message", "a merge request")
    branch = git(board.path, "branch", "--show-current")
    (install,) = (line for line in flat(fork, "check") if line.startswith("pip install"))
    for line in (line for line in flat(fork, "check") if not line.startswith("apt-get")):
        command = "cat requirements.txt" if line == install else line
        done = subprocess.run(
            ("bash", "-e", "-c", command), cwd=fork, capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                 "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": branch},
        )  # fmt: skip
        if line == install:
            assert "numpy==" in done.stdout
            assert "evil" not in done.stdout
    assert (line.split()[:3], done.returncode) == (["moemix", "board", "review"], 1)
    assert "changes requirements.txt" in (fork / "review.md").read_text()


def flat(folder: Path, job: str) -> list[str]:
    """The lines of a GitLab job's script; GitLab, too, flattens lists in it."""
    script = yaml.safe_load((folder / ".gitlab-ci.yml").read_text())[job]["script"]
    return [line for part in script for line in (part if isinstance(part, list) else [part])]


def in_two_commits(*changes: Callable[[BoardFolder], object]) -> Callable[[BoardFolder], None]:
    def change(fork: BoardFolder) -> None:
        for one in changes:
            commit(fork, "so far") if one is not changes[0] else None
            one(fork)

    return change


def first(fork: BoardFolder) -> SubmissionFolder:
    return fork.find("honest/" + next((fork.path / "submissions/honest").iterdir()).name)


def looser_pins(fork):
    forged(fork)
    path = fork.path / "board.yaml"
    path.write_text(path.read_text().replace("owners: login", "owners: anyone"))


def own_workflow(fork):
    forged(fork)
    path = fork.path / ".github/workflows/check.yml"
    path.write_text(path.read_text().replace("moemix board review", "echo moemix board review"))


def two_at_once(fork):
    forged(fork)
    write_submission(fork, fork.asked, "second", seed=5, owner="mallory")


def remove_another(fork):
    shutil.rmtree(first(fork).path)
    forged(fork)


def edit_another(fork):
    edit_json(first(fork).path / "submission.json", lambda s: s.update(licence="mine"))


def file_beside_another(fork):
    (first(fork).path / "contamination.json").write_text("{}")


def linked(fork):
    where = forged(fork)
    (where.path / "run.json").symlink_to("/etc/passwd")


def program(fork):
    where = forged(fork)
    (where.path / "mixture.jsonl").chmod(0o755)


def module(fork):
    inner = forged(fork).path / "judge"
    inner.mkdir()
    git(inner, "init", "--quiet")
    git(inner, "commit", "--quiet", "--allow-empty", "--message", "a repository inside")


def replay_of_its_own(fork):
    where = forged(fork)
    (fork.path / "replays").mkdir()
    (fork.path / "replays" / f"{where.name}.json").write_text("{}")


def of_another_owner(fork):
    forged(fork, owner="alice")


def id_of_files_only(fork):
    forged(fork, identity="files")


def nothing(fork):
    git(fork.path, "commit", "--quiet", "--allow-empty", "--message", "nothing")
    (fork.path / "x").touch()
    commit(fork)
    (fork.path / "x").unlink()


EVIL = [looser_pins, own_workflow, two_at_once, remove_another, edit_another, file_beside_another, linked, program,
        module, replay_of_its_own, of_another_owner, id_of_files_only, nothing,
        lambda fork: withdraw_another(fork, first(fork)), lambda fork: backdated_copy(fork, first(fork)),
        lambda fork: supersede_another(fork, first(fork)),
        in_two_commits(looser_pins, edit_another)]  # fmt: skip


@pytest.mark.parametrize("attack", EVIL, ids=lambda attack: attack.__name__)
def test_an_evil_pull_request_fails(host, attack):
    status, output = host[1]("mallory", attack, workflow=attack is EVIL[0])
    assert status == 1, output
    assert "  pull request: " in output or "  owner: " in output or "  duplicates: " in output, output


def test_the_owner_withdraws_by_pull_request_and_a_maintainer_may_change_the_rules(host):
    _, check = host
    assert check("alice", lambda fork: write_withdrawal(first(fork), by="alice"), workflow=False)[0] == 0
    assert check("mallory", lambda fork: write_withdrawal(first(fork), by="alice"), workflow=False)[0] == 1
    assert check("boss", looser_pins, workflow=False)[0] == 0


def test_a_comment_calls_nobody(hosted):
    board, _ = hosted
    base = git(board.path, "rev-parse", "HEAD")
    (board.path / "@everyone").touch()
    commit(board)
    assert "@everyone" not in as_comment(review(board, base, "HEAD", "mallory"))


def test_a_space_says_how_a_pull_request_is_checked_and_the_command_works(hosted, tmp_path):
    board, _ = hosted
    write_hosting(board, "space", None)
    commit(board)
    (command,) = re.findall(r"^\$ (git fetch .*)$", (board.path / "README.md").read_text(), re.MULTILINE)
    git(tmp_path, "clone", "--quiet", str(board.path), "clone")
    git(tmp_path / "clone", "switch", "--quiet", "--create", "honest")
    clone = BoardFolder(tmp_path / "clone")
    clone.asked = board.asked
    forged(clone)
    (clone.path / "requirements.txt").write_text("evil\n")
    commit(clone)
    git(clone.path, "push", "--quiet", "origin", "HEAD:refs/pr/3")
    git(clone.path, "switch", "--quiet", "-")
    done = subprocess.run(
        ("bash", "-c", command.replace("/N", "/3").replace("main", git(board.path, "branch", "--show-current"))),
        cwd=clone.path, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "changes requirements.txt" in done.stdout


@pytest.mark.parametrize("name", ["github", "gitlab", "space"])
def test_every_host_s_files_are_valid(hosted, name):
    board, _ = hosted
    written = write_hosting(board, name, "moemix @ git+https://example.org/moemix")
    for path in written:
        text = path.read_text()
        assert "{{" not in text.replace("${{", "")
        if path.suffix == ".yml":
            assert yaml.safe_load(text)
    assert (board.path / "requirements.txt").read_text().endswith("\nmoemix @ git+https://example.org/moemix\n")
    assert write_hosting(board, name, None) == []


def finished_run(folder: Path) -> Path:
    """A run with a checkpoint, evaluated on the made suite."""
    run = Bench(folder).run("dynamic", weights=(0.2, 0.3, 0.5))
    run.checkpoint.mkdir()
    (run.checkpoint / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    digest = checkpoint_hash(run.checkpoint)
    run.update(checkpoint_hash=digest)
    write_evaluation(run.folder / "evals" / "made", questions(SIZES), checkpoint_hash=digest)
    return run.folder


def test_a_bare_python_with_the_requirements_verifies_builds_and_submits(hosted, wheel, tmp_path):
    """As a stranger does it: pip installs the board's requirements.txt, and nothing else, from the package index."""
    board, _ = hosted
    (tmp_path / "requirements.txt").write_text(requirements(str(wheel)))
    subprocess.run((sys.executable, "-m", "venv", str(tmp_path / "bare")), check=True)
    python = tmp_path / "bare/bin/python"
    (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    before = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    options = ("--quiet", "--no-compile", "--no-deps", "-r", tmp_path / "requirements.txt")
    done = subprocess.run((python, "-m", "pip", "install", *options), capture_output=True, text=True, check=False)
    if done.returncode and "requirement" in done.stderr:
        pytest.skip("the package index does not have these versions")
    assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) - before < 300e6
    assert not (site / "torch").exists()
    for words in (("board", "verify", board.path), ("board", "build", board.path, "--out", tmp_path / "site"),
                  ("submit", finished_run(tmp_path), "--board", tmp_path / "new")):  # fmt: skip
        done = subprocess.run((python.with_name("moemix"), *words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_requirements_are_enough_to_check_build_and_run_programs_and_are_small(hosted, tmp_path):
    """In an environment that holds them alone: no torch, no transformers, no lm-eval."""
    board, _ = hosted
    names = [line.split("==")[0] for line in requirements(None).splitlines() if "==" in line]
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")), check=True)
    site, size = next((tmp_path / "venv").glob("lib/python*/site-packages")), 0
    root = Path(leaderboards.__file__).parents[1]
    held = [root / name for name in ("harness", "trainers", "evals", "leaderboards", "moemix.py")]
    for name in names:
        files = [file for file in metadata.files(name) or () if ".." not in file.parts]
        size += sum(Path(file.locate()).stat().st_size for file in files if Path(file.locate()).exists())
        if name != "moemix":
            tops = {file.parts[0] for file in files} - {"__pycache__"}
            held += [Path(metadata.distribution(name).locate_file(top)) for top in tops]
    for path in held:
        (site / path.name).symlink_to(path)
    info = next(path for path in Path(metadata.distribution("moemix")._path).parent.glob("moemix-*.dist-info"))
    (site / info.name).symlink_to(info)
    assert size < 300e6

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = (str(tmp_path / "venv/bin/python"), "-P", "-m", "harness.cli", *map(str, words))
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert call("--version").returncode == 0
    run = finished_run(tmp_path)
    for words in (("board", "verify", board.path), ("board", "build", board.path, "--out", tmp_path / "site"),
                  ("submit", run, "--board", tmp_path / "new", "--licence", "MIT")):  # fmt: skip
        done = call(*words)
        assert done.returncode == 0, done.stderr
    (tmp_path / "programs.jsonl").write_text('{"code": "x = 1", "tests": "assert x == 1"}\n')
    done = call("execute", tmp_path / "programs.jsonl", "--out", tmp_path / "verdicts.jsonl")
    assert done.returncode == 0 or "bubblewrap" in done.stderr, done.stderr


def test_a_board_that_anyone_may_change_is_not_hosted(tmp_path):
    board, _ = make_board(tmp_path / "board", SIZES)
    with pytest.raises(MoemixError, match="lets anyone replace"):
        write_hosting(board, "github", None)


def test_the_cache_is_by_content_and_may_travel(hosted, tmp_path, monkeypatch):
    board, honest = hosted
    first_time = verify(board)
    shutil.copytree(board.path, tmp_path / "elsewhere" / "board")  # other times, other inodes
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setattr("leaderboards.board.verify.check_one", lambda *_: pytest.fail("checked again"))
    assert verify(BoardFolder(tmp_path / "elsewhere" / "board")) == first_time
    path = honest.path / "mixture.jsonl"
    before, digest = path.stat(), hash_file(path)
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hash_file(path) != digest
    with pytest.raises(pytest.fail.Exception, match="checked again"):
        verify(board)
