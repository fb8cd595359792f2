"""The commands ``moemix submit`` and ``moemix board``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from harness.checkpoint_argument import CheckpointArgument
from harness.options import data_root_option

if TYPE_CHECKING:
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.standings import Standings
    from leaderboards.board.submissions import Verdict

logger = logging.getLogger("moemix.leaderboards")
Command = TypeVar("Command", bound=Callable[..., object])
FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)
BOARD = click.argument("folder", type=FOLDER, metavar="DIR")
EXECUTING = click.option(
    "--execute/--no-execute", "executing", default=True, show_default=True,
    help="Run the programs among the responses again, if there is a sandbox.",
)  # fmt: skip
JOBS = click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="[default: one per core]")
ENGINE_OPTIONS = (
    data_root_option,
    click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16 or float16."),
    click.option("--engine", metavar="vllm|transformers|URL", help="What answers if an evaluation is needed."),
)


def engine_options(command: Command) -> Command:
    """Add the options that say how an evaluation is run."""
    for option in ENGINE_OPTIONS:
        command = option(command)
    return command


@click.command()
@click.argument("source", type=CheckpointArgument(), metavar="RUN_OR_CHECKPOINT")
@click.option("--board", "folder", type=FOLDER, required=True, help="The board's folder.")
@click.option("--name", help="The model's name on the board.  [default: the run's name, or the folder's]")
@click.option("--licence", help="Licence of the weights, as an SPDX identifier.")
@click.option("--contact", help="Who answers questions about it: a mail address or an account.")
@click.option("--description", help="What a reader should know, in plain text.")
@click.option("--base-model", help="The model that training started from.  [default: the run's]")
@click.option("--link", "links", multiple=True, metavar="KIND=URL", help="KIND is weights, code, paper or data.")
@click.option("--supersedes", metavar="ID", help="An earlier submission of yours to replace; it stays in the history.")
@click.option("--owner", metavar="LOGIN", help="Who may replace it.  [default: git's github.user, if the board asks]")
@click.option("--sign", "key", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="SSH_KEY",
              help="Sign the submission; the key's holder owns it.")  # fmt: skip
@click.option("--pr", "branching", is_flag=True, help="Commit it on a branch of its own, ready to be pushed.")
@click.option("--suite", "suites", multiple=True, metavar="NAME[@VERSION]", help="[default: newest of each suite]")
@engine_options
def submit(source: Path, folder: Path, name: str | None, links: tuple[str, ...], supersedes: str | None,
           suites: tuple[str, ...], engine: str | None, dtype: str, data_root: str | None, owner: str | None,
           key: Path | None, branching: bool, **stated: str | None) -> int:  # fmt: skip
    """Submit a run or a checkpoint to a board.

    Runs the evaluations that the board pins and that are missing. Then gathers metadata, mixture trace, lm-eval's
    samples and judgments in the board's folder, and verifies them: commit the new folder and open a pull request.
    A board's folder that does not exist yet becomes a board that pins this run's own evaluations.
    """
    from harness.errors import MoemixError
    from leaderboards.board.bundle import commit, evaluate_missing, open_board, open_source, owner_of, place
    from leaderboards.board.pins import Engine
    from leaderboards.board.verify import verify

    submitted = open_source(source)
    board = open_board(folder, submitted)
    if supersedes:
        stated["supersedes"] = board.find(supersedes).name
    stated["owner"] = owner_of(board, owner, key)
    chosen = [board.suite(key) for key in suites or {suite.name: 0 for suite in board.board.suites}]
    if not chosen:
        raise MoemixError("the board pins no suite yet", where=str(folder), hint="`moemix board pin` adds one")
    evaluations = evaluate_missing(board, submitted, chosen, Engine(engine or "transformers", dtype, data_root))
    where = place(board, submitted, evaluations, name, {**stated, "links": dict(map(_parse_link, links))}, key)
    (checked,) = verify(board, only=where.label, executing=True)
    verdicts = [verdict for verdict in checked.verdicts if verdict.check != "replay" or verdict.verdict != "fail"]
    _print_verdicts(verdicts, every=True)
    failed = any(verdict.verdict == "fail" for verdict in verdicts)
    next_step = "fails its checks, see above" if failed else "ready for review: commit it and open a pull request"
    if branching and not failed:
        branch = commit(board, where, "submit")
        next_step = f"committed on the branch {branch}: `git push origin {branch}`, then open a pull request"
    click.echo(f"{where.path}: {next_step}")
    return 1 if failed else 0


def _parse_link(text: str) -> tuple[str, str]:
    from harness.errors import MoemixError

    kind, equals, url = text.partition("=")
    if not equals:
        raise MoemixError("expected KIND=URL", where=f"--link {text}", hint="for example weights=https://…")
    return kind, url


@click.group()
def board() -> None:
    """Make, check and show a leaderboard in a folder."""


@board.command()
@BOARD
@click.option("--pin", "evaluations", multiple=True, metavar="EVALUATION", type=EXISTING,
              help="A finished evaluation's folder; the board adopts its suite, questions and scoring.")  # fmt: skip
@click.option("--title", help="[default: the folder's name]")
@click.option("--description", default="", help="Shown above the table.")
@click.option("--repository", metavar="URL", help="Where the board's files are, and submissions go.")
@click.option("--licence", metavar="SPDX_NAME", help="Of the board's files; the site names it.")
@click.option("--ci", type=click.Choice(["github", "gitlab", "space"]),
              help="Also write what hosts it: checks of pull requests, a published site, a README.")  # fmt: skip
@click.option("--install", metavar="REQUIREMENT", help="What --ci installs as moemix.  [default: this version]")
def init(folder: Path, evaluations: tuple[Path, ...], title: str | None, description: str, repository: str | None,
         licence: str | None, ci: str | None, install: str | None) -> None:  # fmt: skip
    """Make a board that pins the suites of EVALUATIONs; with --ci, one that is hosted.

    A board that exists already gets only the files of --ci, and its rules stay as they are.
    """
    from harness.errors import MoemixError
    from harness.schema import parse
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.hosting import hosted_rules, write_hosting
    from leaderboards.board.pins import pin
    from leaderboards.board.submissions import Board

    if (folder / "board.yaml").is_file() and ci and not evaluations:
        board = BoardFolder(folder)
    elif not evaluations:
        raise MoemixError("nothing to pin", where=str(folder), hint="give --pin EVALUATION, a finished evaluation")
    else:
        suites = [pin(evaluation).model_dump(mode="json") for evaluation in evaluations]
        name = folder.resolve().name
        tree = {"name": name, "title": title or name, "description": description, "suites": suites,
                "repository": repository, "licence": licence, "rules": hosted_rules(ci) if ci else {}}  # fmt: skip
        board = BoardFolder.create(folder, parse(Board, tree, where="the new board"))
    click.echo(f"{folder}: pins {', '.join(suite.key for suite in board.board.suites)}")
    for path in write_hosting(board, ci, install) if ci else ():
        click.echo(f"{path}: written")


@board.command("pin")
@BOARD
@click.argument("evaluation", type=EXISTING)
@click.option("--version", "number", help="The new version; older versions keep their submissions.")
@click.option("--name", help="[default: the suite's; of a judging, the folder's]")
def pin_command(folder: Path, evaluation: Path, number: str | None, name: str | None) -> None:
    """Add a suite version, or a judging, to a board.

    EVALUATION is the folder of a finished evaluation or judging.
    """
    from harness.errors import MoemixError
    from harness.files import read_json
    from harness.schema import parse
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.judgings import pin_judging
    from leaderboards.board.pins import pin
    from leaderboards.board.submissions import PinnedSuite, Rules

    board = BoardFolder(folder)
    if "bench" in read_json(evaluation / "summary.json").get("request", {}):
        bench = name or evaluation.resolve().name
        rules = board.board.rules.model_dump(mode="json")
        rules["judgings"][bench] = pin_judging(evaluation).model_dump(mode="json")
        board.update(rules=parse(Rules, rules, where="the new pin"))
        click.echo(f"{folder}: now shows judgings of {bench}")
        return
    if number is None:
        raise MoemixError("--version is missing", where=str(folder), hint="a new number, for example --version 2")
    suite = pin(evaluation, version=number, name=name)
    board.add_suite(parse(PinnedSuite, suite.model_dump(mode="json"), where="the new pin"))
    click.echo(f"{folder}: now also pins {suite.key}")


@board.command()
@BOARD
@click.option("--format", "style", type=click.Choice(["terminal", "json"]), default="terminal", show_default=True)
@click.option("--only", metavar="ID", help="Report only on this submission.")
@JOBS
@EXECUTING
@click.option("--replay", "count", type=click.IntRange(min=0), is_flag=False, flag_value=0, metavar="[N]",
              help="Let the checkpoint answer N random questions again.  [default: as the board pins]")  # fmt: skip
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="DIR", type=EXISTING,
              help="A submission's checkpoint for --replay; it is recognised by its hash.")  # fmt: skip
@click.option("--replay-seed", type=int, metavar="N", help="Seed of the draw of questions.  [default: unpredictable]")
@engine_options
def verify(folder: Path, style: str, only: str | None, jobs: int | None, executing: bool, count: int | None,
           checkpoints: tuple[Path, ...], replay_seed: int | None, engine: str | None, dtype: str,
           data_root: str | None) -> int:  # fmt: skip
    """Check every submission of a board; the exit status is 1 if any fails.

    Checks files, schema, hashes, suite version and questions. Recomputes every score from the responses (programs are
    run), every average and standard error from the scores. Searches for copies of other submissions and constant
    outputs, and reads the contamination report and the judge's flags. `moemix board build` shows what passes here.

    --replay without N, --engine and --replay-seed is recorded in the board (`replays/`), and gives a badge.
    """
    from leaderboards.board import verify as verifying
    from leaderboards.board.folder import boards_in
    from leaderboards.board.pins import Engine
    from leaderboards.board.replay import Replay, replay

    how = Engine(engine, dtype, data_root) if engine else None
    verdicts: list[Verdict] = []
    for one in boards_in(folder):
        for checked in verifying.verify(one, only=only, jobs=jobs, executing=executing):
            if count is None:
                verdicts += checked.verdicts
                continue
            verdicts += [verdict for verdict in checked.verdicts if verdict.check != "replay"]
            verdicts.append(replay(one, checked, Replay(count, checkpoints, how, replay_seed, data_root)))
    if style == "json":
        click.echo(json.dumps([verdict.model_dump() for verdict in verdicts], indent=1, ensure_ascii=False))
    else:
        _print_verdicts(verdicts, every=only is not None)
    return 1 if any(verdict.verdict == "fail" for verdict in verdicts) else 0


def _print_verdicts(verdicts: Sequence[Verdict], *, every: bool) -> None:
    """Print the verdicts that a person has to look at (or every one), and how many submissions pass."""
    from harness.grid import plain

    for verdict in verdicts:
        if every or verdict.verdict in ("fail", "warn"):
            click.echo(f"{verdict.verdict:4}  {plain(verdict.submission)}  {verdict.check}: {plain(verdict.detail)}")
    labels, failed, warned = (
        {v.submission for v in verdicts if v.verdict in outcomes}
        for outcomes in (("pass", "warn", "fail", "skip"), ("fail",), ("warn",))
    )
    passed, warned = labels - failed - warned, warned - failed
    click.echo(f"{len(labels)} submissions: {len(passed)} pass, {len(warned)} with warnings, {len(failed)} fail")
    unconfirmed = {v.submission: v.detail for v in verdicts if (v.check, v.verdict) == ("execution", "skip")}
    if unconfirmed and not every:
        (label, detail), others = next(iter(unconfirmed.items())), len(unconfirmed) - 1
        click.echo(f"scores that nothing here confirms: {plain(label)}: {plain(detail)}"
                   f"{f'; and {others} more submissions' if others else ''}")  # fmt: skip


@board.command()
@BOARD
@click.option("--base", required=True, metavar="COMMIT", help="The branch that the pull request goes to.")
@click.option("--head", required=True, metavar="COMMIT", help="The last commit of the pull request.")
@click.option("--author", metavar="LOGIN", help="Who opened it.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File for the verdicts as Markdown.")
def review(folder: Path, base: str, head: str, author: str | None, out: Path | None) -> int:
    """Review a pull request; the exit status is 1 if it must not be merged.

    It may add one submission, or withdraw one of its author's. The base branch's pins and rules decide. Nothing of
    the pull request is checked out.
    """
    from harness.files import write_text
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.review import as_comment
    from leaderboards.board.review import review as verdicts_on

    verdicts = verdicts_on(BoardFolder(folder), base, head, author)
    _print_verdicts(verdicts, every=True)
    if out is not None:
        write_text(out, as_comment(verdicts))
    return 1 if any(verdict.verdict == "fail" for verdict in verdicts) else 0


@board.command()
@BOARD
@click.argument("submission_id", metavar="ID")
@click.option("--reason", required=True, help="Shown in the history.")
@click.option("--owner", metavar="LOGIN", help="Who withdraws it.  [default: git's github.user, if the board asks]")
@click.option("--sign", "key", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="SSH_KEY",
              help="The owner's key, or a maintainer's.")  # fmt: skip
@click.option("--pr", "branching", is_flag=True, help="Commit it on a branch of its own, ready to be pushed.")
def withdraw(folder: Path, submission_id: str, reason: str, owner: str | None, key: Path | None,
             branching: bool) -> None:  # fmt: skip
    """Remove a submission from the ranking; its files stay, and the history shows it."""
    from harness.provenance import now
    from harness.schema import parse
    from leaderboards.board.bundle import commit, owner_of
    from leaderboards.board.folder import WITHDRAWN, BoardFolder
    from leaderboards.board.origins import sign
    from leaderboards.board.submissions import Withdrawal

    one = BoardFolder(folder)
    where = one.find(submission_id)
    tree = {"submission_id": where.name, "reason": reason, "date": now(), "by": owner_of(one, owner, key)}
    parse(Withdrawal, tree, where="--reason").write(where.path / WITHDRAWN)
    if key is not None:
        sign(where.path / WITHDRAWN, key)
    click.echo(f"{where.label}: withdrawn")
    if branching:
        branch = commit(one, where, "withdraw")
        click.echo(f"committed on the branch {branch}: `git push origin {branch}`, then open a pull request")


@board.command()
@BOARD
@click.option("--out", required=True, type=FOLDER, metavar="SITE", help="The site's folder; an older site is replaced.")
@EXECUTING
@JOBS
def build(folder: Path, out: Path, executing: bool, jobs: int | None) -> None:
    """Build a board's site: files that a browser opens as they are.

    It shows what `moemix board verify` lets pass, and names what it leaves out. DIR may also hold several boards; each
    gets its own pages.
    """
    click.echo(f"{out / 'index.html'}: {_build(folder, out, jobs, executing=executing)} submissions")


def _build(folder: Path, out: Path, jobs: int | None = None, *, executing: bool = True) -> int:
    from leaderboards.board.build import build_site
    from leaderboards.board.folder import boards_in

    boards = {one.name: _standings(one, jobs, executing=executing) for one in boards_in(folder)}
    build_site(boards, out)
    return sum(len(one.checked) for one in boards.values())


def _standings(
    board: BoardFolder, jobs: int | None = None, only: str | None = None, *, executing: bool = True
) -> Standings:
    """Verify and rank a board's submissions; name those that are left out."""
    from harness.grid import plain
    from leaderboards.board.standings import rank_submissions
    from leaderboards.board.verify import verify as check

    standings = rank_submissions(board, check(board, only=only, jobs=jobs, executing=executing))
    for label, reason in standings.refused.items():
        logger.warning("%s: left out, it fails %s", plain(label), plain(reason))
    return standings


@board.command()
@BOARD
@click.argument("first", metavar="ID")
@click.argument("second", metavar="ID")
@click.option("--format", "style", type=click.Choice(["terminal", "markdown", "latex", "html"]), default="terminal")
@JOBS
def compare(folder: Path, first: str, second: str, style: str, jobs: int | None) -> None:
    """Show the paired differences between two submissions, with intervals and verdicts."""
    from harness.grid import write
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.pairs import compare as sections

    one = BoardFolder(folder)
    labels = one.find(first).label, one.find(second).label
    click.echo(write(sections(_standings(one, jobs), *labels), style), nl=False)


@board.command()
@click.argument("folder", type=FOLDER, metavar="DIR_OR_SITE")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
def serve(folder: Path, port: int, host: str) -> None:
    """Show a board, or a site that was built before, on this machine."""
    import tempfile

    from leaderboards.board.build import MARKER
    from leaderboards.serving import server

    with tempfile.TemporaryDirectory(prefix="moemix-board-") as scratch:
        site = folder if (folder / MARKER).is_file() else Path(scratch) / "site"
        if site != folder:
            _build(folder, site)
        with server(site, host, port) as running:
            click.echo(f"http://{host}:{running.server_address[1]}/ (stop it with Ctrl-C)")
            sys.stdout.flush()
            try:
                running.serve_forever()
            except KeyboardInterrupt:
                click.echo("stopped")


@board.command()
@BOARD
@click.option("--format", "style", required=True, type=click.Choice(["every-eval-ever", "eval-results", "fastchat"]))
@click.option("--out", required=True, type=FOLDER, metavar="FOLDER", help="Where the files go.")
@click.option("--developer", metavar="NAME", help="Organisation behind the models.  [default: the board's name]")
@click.option("--only", metavar="ID", help="Only this submission.")
def export(folder: Path, style: str, out: Path, developer: str | None, only: str | None) -> None:
    """Write a board's submissions in another project's format.

    The formats are Every Eval Ever's records with their samples, the hub's .eval_results YAML, and FastChat's answers
    and judgments.
    """
    from leaderboards.board.exchange import export as write_files
    from leaderboards.board.folder import BoardFolder

    one = BoardFolder(folder)
    standings = _standings(one, only=one.find(only).label if only else None)
    count = write_files(standings, style, out, developer or one.board.name)
    click.echo(f"{out}: {count} records")
    if not count:
        reasons = {"eval-results": "no task of the board comes from a hub data set",
                   "fastchat": "no submission was judged"}  # fmt: skip
        logger.warning(reasons.get(style, "the board has no submission that passes its checks"))
