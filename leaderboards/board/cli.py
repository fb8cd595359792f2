"""``moemix submit`` and ``moemix board``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.checkpoint_argument import CheckpointArgument

if TYPE_CHECKING:
    from harness.submissions import Verdict

BOARD = click.Path(file_okay=False, path_type=Path)


def engine_options(command: Any) -> Any:
    """How an evaluation is run, where one has to be."""
    for option in (
        click.option("--data-root", metavar="DIR", help="Folder of local benchmark files. [env: MOEMIX_DATA_ROOT]"),
        click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16 or float16."),
        click.option(
            "--engine", metavar="vllm|transformers|URL", help="What answers where an evaluation has to be run."
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("source", type=CheckpointArgument(), metavar="RUN_OR_CHECKPOINT")
@click.option("--board", "folder", type=BOARD, required=True, help="The board's folder.")
@click.option("--name", help="The model's name on the board.  [default: what it was trained as, or the folder's name]")
@click.option("--licence", help="Licence of the weights, as an SPDX identifier.")
@click.option("--contact", help="Who answers for it: a mail address, an account.")
@click.option("--description", help="What a reader should know, in plain text.")
@click.option("--base-model", help="What the training started from.  [default: the run's]")
@click.option("--link", "links", multiple=True, metavar="KIND=URL", help="weights, code, paper or data.")
@click.option(
    "--supersedes", metavar="ID", help="An earlier submission that this one replaces; it stays in the history."
)
@click.option(
    "--suite", "suites", multiple=True, metavar="NAME[@VERSION]", help="[default: each suite's newest version]"
)
@engine_options
def submit(source: Path, folder: Path, name: str | None, links: tuple[str, ...], supersedes: str | None,
           suites: tuple[str, ...], engine: str | None, dtype: str, data_root: str | None,
           **stated: Any) -> int:  # fmt: skip
    """Submit a run or a checkpoint to a board.

    Evaluates what the board pins and is missing, gathers metadata, mixture trace, lm-eval's samples and judgments, and
    places the submission in the board's folder, verified: commit it there and open a pull request. A folder that does
    not exist yet becomes a board that pins this run's own evaluations.
    """
    from harness.errors import MoemixError
    from leaderboards.board.bundle import Engine, evaluate_missing, open_board, open_source, place
    from leaderboards.board.execution import execute
    from leaderboards.board.verify import verify

    given = open_source(source)
    board = open_board(folder, given)
    if supersedes:
        supersedes = board.find(supersedes).name
    chosen = [board.suite(key) for key in suites or {suite.name: 0 for suite in board.board.suites}]
    if not chosen:
        raise MoemixError("the board pins no suite yet", where=str(folder), hint="`moemix board pin` adds one")
    how = Engine(engine or "transformers", dtype, data_root)
    evaluations = evaluate_missing(board, given, chosen, how)
    pairs = dict(_pair(link) for link in links)
    where = place(board, given, evaluations, model=name, supersedes=supersedes, links=pairs, **stated)
    verdicts = execute(board, verify(board, only=where.label))[0].verdicts
    _tell(verdicts, every=True)
    failed = any(verdict.verdict == "fail" for verdict in verdicts)
    said = "it fails its checks: see above" if failed else "ready for review: commit it and open a pull request"
    click.echo(f"{where.path}: {said}")
    return 1 if failed else 0


def _pair(text: str) -> tuple[str, str]:
    from harness.errors import MoemixError

    kind, equals, url = text.partition("=")
    if not equals:
        raise MoemixError("expected KIND=URL", where=f"--link {text}", hint="weights=https://…")
    return kind, url


@click.group()
def board() -> None:
    """A leaderboard in a folder: make it, check it, build its site."""


@board.command()
@click.argument("folder", type=BOARD, metavar="DIR")
@click.option("--pin", "evaluations", multiple=True, required=True, metavar="EVALUATION",
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A finished evaluation folder; its suite, questions and scoring become the board's.")  # fmt: skip
@click.option("--title", help="[default: the folder's name]")
@click.option("--description", default="")
def init(folder: Path, evaluations: tuple[Path, ...], title: str | None, description: str) -> None:
    """Make a board that pins the suites of EVALUATIONs."""
    from harness.recipe_file import parse
    from harness.submissions import Board
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.pins import pin

    suites = [pin(evaluation).model_dump(mode="json") for evaluation in evaluations]
    name = folder.resolve().name
    tree = {"name": name, "title": title or name, "description": description, "suites": suites}
    made = BoardFolder.create(folder, parse(Board, tree, where="the new board"))
    click.echo(f"{folder}: pins {', '.join(suite.key for suite in made.board.suites)}")


@board.command("pin")
@click.argument("folder", type=BOARD, metavar="DIR")
@click.argument("evaluation", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--version", "number", required=True, help="The new version; older ones stay, with their submissions.")
@click.option("--name", help="[default: the suite's]")
def pin_command(folder: Path, evaluation: Path, number: str, name: str | None) -> None:
    """Add a suite version to a board."""
    from harness.recipe_file import parse
    from harness.submissions import PinnedSuite
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.pins import add_pin, pin

    held = BoardFolder(folder)
    suite = pin(evaluation, version=number, name=name)
    add_pin(held, parse(PinnedSuite, suite.model_dump(mode="json"), where="the new pin"))
    click.echo(f"{folder}: pins {suite.key} now")


@board.command()
@click.argument("folder", type=BOARD, metavar="DIR")
@click.option("--format", "style", type=click.Choice(["terminal", "json"]), default="terminal", show_default=True)
@click.option("--only", metavar="ID", help="Tell only about this submission.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="[default: one per core]")
@click.option("--execute/--no-execute", "running", default=True, show_default=True,
              help="Run the programs among the responses again, in the sandbox if there is one.")  # fmt: skip
@click.option("--replay", "count", type=click.IntRange(min=1), metavar="N",
              help="Have the checkpoint answer N random questions of each suite again.")  # fmt: skip
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="DIR",
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Where a submission's checkpoint is, for --replay; found by its hash.")  # fmt: skip
@click.option("--replay-seed", type=int, metavar="N", help="Draw these questions again.  [default: unpredictable]")
@engine_options
def verify(folder: Path, style: str, only: str | None, jobs: int | None, running: bool, count: int | None,
           checkpoints: tuple[Path, ...], replay_seed: int | None, engine: str | None, dtype: str,
           data_root: str | None) -> int:  # fmt: skip
    """Check every submission of a board; the exit status is 1 if any fails.

    Files, schema, hashes, suite version and questions; every score again from the responses, programs among them by
    running them; every average and standard error again from the scores; copies of other submissions, constant
    outputs, contamination report, judge flags.
    """
    from leaderboards.board import verify as verifying
    from leaderboards.board.bundle import Engine
    from leaderboards.board.execution import execute
    from leaderboards.board.folder import boards_in
    from leaderboards.board.replay import replay

    verdicts: list[Verdict] = []
    for held in boards_in(folder):
        found = verifying.verify(held, only=only, jobs=jobs)
        for checked in execute(held, found) if running else found:
            verdicts += checked.verdicts
            if count is not None:
                given = Engine(engine, dtype, data_root) if engine else None
                verdicts.append(replay(held, checked, count, checkpoints, given, replay_seed, data_root))
    if style == "json":
        click.echo(json.dumps([verdict.model_dump() for verdict in verdicts], indent=1, ensure_ascii=False))
    else:
        _tell(verdicts, every=only is not None)
    return 1 if any(verdict.verdict == "fail" for verdict in verdicts) else 0


def _tell(verdicts: Any, *, every: bool) -> None:
    """What a person has to look at, and how much was fine."""
    from harness.grid import plain

    labels = {verdict.submission for verdict in verdicts}
    for verdict in verdicts:
        if every or verdict.verdict in ("fail", "warn"):
            click.echo(f"{verdict.verdict:4}  {plain(verdict.submission)}  {verdict.check}: {plain(verdict.detail)}")
    failed = {verdict.submission for verdict in verdicts if verdict.verdict == "fail"}
    warned = {verdict.submission for verdict in verdicts if verdict.verdict == "warn"} - failed
    click.echo(f"{len(labels)} submissions: {len(labels - failed - warned)} pass, {len(warned)} to look at, "
               f"{len(failed)} fail")  # fmt: skip


@board.command()
@click.argument("folder", type=BOARD, metavar="DIR")
@click.argument("submission_id", metavar="ID")
@click.option("--reason", required=True, help="Shown in the history.")
def withdraw(folder: Path, submission_id: str, reason: str) -> None:
    """Take a submission out of the ranking; its files and its history stay."""
    from harness.provenance import now
    from harness.recipe_file import parse
    from harness.submissions import Withdrawal
    from leaderboards.board.folder import WITHDRAWN, BoardFolder

    where = BoardFolder(folder).find(submission_id)
    tree = {"submission_id": where.name, "reason": reason, "date": now()}
    parse(Withdrawal, tree, where="--reason").write(where.path / WITHDRAWN)
    click.echo(f"{where.label}: withdrawn")


@board.command()
@click.argument("folder", type=BOARD, metavar="DIR")
@click.option("--out", required=True, type=BOARD, metavar="SITE", help="Where the site goes; an older one is replaced.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="[default: one per core]")
def build(folder: Path, out: Path, jobs: int | None) -> None:
    """Build a board's site: files that a browser opens as they are.

    What fails its checks is left out, and named. DIR may also hold several boards; each gets its own pages.
    """
    from leaderboards.board.build import board_name, build_site

    found = {board_name(held): held for held in _boards(folder)}
    standings = {name: _standings(held, jobs) for name, held in found.items()}
    build_site(standings, out)
    count = sum(len(one.checked) for one in standings.values())
    click.echo(f"{out / 'index.html'}: {count} submissions")


def _boards(folder: Path) -> Any:
    from leaderboards.board.folder import boards_in

    return boards_in(folder)


def _standings(held: Any, jobs: int | None, only: str | None = None) -> Any:
    from harness.grid import plain
    from leaderboards.board.standings import rank_submissions
    from leaderboards.board.verify import verify as check

    standings = rank_submissions(held, check(held, only=only, jobs=jobs))
    for label, reason in standings.refused.items():
        print(f"{plain(label)}: left out, it fails {plain(reason)}", file=sys.stderr)
    return standings


@board.command()
@click.argument("folder", type=BOARD, metavar="DIR_OR_SITE")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
def serve(folder: Path, port: int, host: str) -> None:
    """Show a board, or a site that is built already, on this machine."""
    import tempfile

    from leaderboards.board.build import MARKER, board_name, build_site
    from leaderboards.board.serving import server

    with tempfile.TemporaryDirectory(prefix="moemix-board-") as scratch:
        site = folder
        if not (folder / MARKER).is_file():
            site = Path(scratch) / "site"
            build_site({board_name(held): _standings(held, None) for held in _boards(folder)}, site)
        with server(site, host, port) as running:
            click.echo(f"http://{host}:{running.server_address[1]}/ (Ctrl-C ends it)")
            sys.stdout.flush()
            try:
                running.serve_forever()
            except KeyboardInterrupt:
                click.echo("stopped")


@board.command()
@click.argument("folder", type=BOARD, metavar="DIR")
@click.option("--format", "style", required=True, type=click.Choice(["every-eval-ever", "eval-results", "fastchat"]))
@click.option("--out", required=True, type=BOARD, metavar="FOLDER")
@click.option(
    "--developer", metavar="NAME", help="Organisation that stands for the models.  [default: the board's name]"
)
@click.option("--only", metavar="ID", help="Only this submission.")
def export(folder: Path, style: str, out: Path, developer: str | None, only: str | None) -> None:
    """Write a board's submissions in another project's format.

    Every Eval Ever's records with their samples, the hub's .eval_results YAML, or FastChat's answers and judgments.
    """
    from harness.errors import MoemixError
    from leaderboards.board import exchange
    from leaderboards.board.folder import BoardFolder, is_member

    held = BoardFolder(folder)
    name = developer or held.board.name
    if not is_member(f"judge/{name}/x.json"):
        raise MoemixError("letters, digits and ._+- only", where=f"--developer {name}")
    standings = _standings(held, None, held.find(only).label if only else None)
    if style == "every-eval-ever":
        count = exchange.every_eval_ever(standings, out, name)
    else:
        count = (exchange.eval_results if style == "eval-results" else exchange.fastchat)(standings, out)
    click.echo(f"{out}: {count} records")
    if not count:
        told = {"eval-results": "no task of the board is from a hub data set", "fastchat": "no submission was judged"}
        click.echo(told.get(style, "the board has no submission that passes its checks"), err=True)
