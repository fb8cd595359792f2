"""The commands ``moemix submit`` and ``moemix board``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click

from harness.checkpoint_argument import CheckpointArgument

if TYPE_CHECKING:
    from harness.submissions import Verdict
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.standings import Standings

logger = logging.getLogger("moemix.leaderboards")
Command = TypeVar("Command", bound=Callable[..., object])
FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class Statements(TypedDict):
    """Options of ``moemix submit`` that only the submitter knows: fields of the submission."""

    licence: str | None
    contact: str | None
    description: str | None
    base_model: str | None
    supersedes: str | None


class EngineOptions(TypedDict):
    """Options that say how an evaluation is run."""

    engine: str | None
    dtype: str
    data_root: str | None


class SubmitOptions(Statements, EngineOptions):
    """Options of ``moemix submit``."""


class ReplayOptions(EngineOptions):
    """Options of ``moemix board verify`` that replay submissions."""

    count: int | None
    checkpoints: tuple[Path, ...]
    replay_seed: int | None


def engine_options(command: Command) -> Command:
    """Add the options that say how an evaluation is run, where one is needed."""
    for option in (
        click.option("--data-root", metavar="DIR", help="Folder of local benchmark files. [env: MOEMIX_DATA_ROOT]"),
        click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16 or float16."),
        click.option(
            "--engine", metavar="vllm|transformers|URL", help="What answers the questions if an evaluation is needed."
        ),
    ):
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
@click.option(
    "--supersedes", metavar="ID", help="An earlier submission that this one replaces; it stays in the history."
)
@click.option(
    "--suite", "suites", multiple=True, metavar="NAME[@VERSION]", help="[default: each suite's newest version]"
)
@engine_options
def submit(source: Path, folder: Path, name: str | None, links: tuple[str, ...], suites: tuple[str, ...],
           **options: Unpack[SubmitOptions]) -> int:  # fmt: skip
    """Submit a run or a checkpoint to a board.

    Runs the evaluations that the board pins and that are missing. Then gathers metadata, mixture trace, lm-eval's
    samples and judgments in the board's folder, and verifies them: commit the new folder and open a pull request.
    A board's folder that does not exist yet becomes a board that pins this run's own evaluations.
    """
    from harness.errors import MoemixError
    from leaderboards.board.bundle import evaluate_missing, open_board, open_source, place
    from leaderboards.board.evaluation import Engine
    from leaderboards.board.execution import execute
    from leaderboards.board.verify import verify

    submitted = open_source(source)
    board = open_board(folder, submitted)
    engine = Engine(options["engine"] or "transformers", options["dtype"], options["data_root"])
    stated = {key: value for key, value in options.items() if key in Statements.__annotations__}
    if options["supersedes"]:
        stated["supersedes"] = board.find(options["supersedes"]).name
    chosen = [board.suite(key) for key in suites or {suite.name: 0 for suite in board.board.suites}]
    if not chosen:
        raise MoemixError("the board pins no suite yet", where=str(folder), hint="`moemix board pin` adds one")
    evaluations = evaluate_missing(board, submitted, chosen, engine)
    stated["links"] = dict(_parse_link(link) for link in links)
    where = place(board, submitted, evaluations, name, stated)
    verdicts = execute(board, verify(board, only=where.label))[0].verdicts
    _print_verdicts(verdicts, every=True)
    failed = any(verdict.verdict == "fail" for verdict in verdicts)
    next_step = "fails its checks, see above" if failed else "ready for review: commit it and open a pull request"
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
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--pin", "evaluations", multiple=True, required=True, metavar="EVALUATION", type=EXISTING_FOLDER,
              help="A finished evaluation's folder; the board adopts its suite, questions and scoring.")  # fmt: skip
@click.option("--title", help="[default: the folder's name]")
@click.option("--description", default="", help="Shown above the table.")
def init(folder: Path, evaluations: tuple[Path, ...], title: str | None, description: str) -> None:
    """Make a board that pins the suites of EVALUATIONs."""
    from harness.recipe_file import parse
    from harness.submissions import Board
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.pins import pin

    suites = [pin(evaluation).model_dump(mode="json") for evaluation in evaluations]
    name = folder.resolve().name
    tree = {"name": name, "title": title or name, "description": description, "suites": suites}
    created = BoardFolder.create(folder, parse(Board, tree, where="the new board"))
    click.echo(f"{folder}: pins {', '.join(suite.key for suite in created.board.suites)}")


@board.command("pin")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("evaluation", type=EXISTING_FOLDER)
@click.option("--version", "number", required=True, help="The new version; older versions keep their submissions.")
@click.option("--name", help="[default: the suite's]")
def pin_command(folder: Path, evaluation: Path, number: str, name: str | None) -> None:
    """Add a suite version to a board."""
    from harness.recipe_file import parse
    from harness.submissions import PinnedSuite
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.pins import pin

    suite = pin(evaluation, version=number, name=name)
    BoardFolder(folder).add_suite(parse(PinnedSuite, suite.model_dump(mode="json"), where="the new pin"))
    click.echo(f"{folder}: now also pins {suite.key}")


@board.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--format", "style", type=click.Choice(["terminal", "json"]), default="terminal", show_default=True)
@click.option("--only", metavar="ID", help="Report only on this submission.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="[default: one per core]")
@click.option("--execute/--no-execute", "executing", default=True, show_default=True,
              help="Run the programs among the responses again, if there is a sandbox.")  # fmt: skip
@click.option("--replay", "count", type=click.IntRange(min=1), metavar="N",
              help="Let the checkpoint answer N random questions of each suite again.")  # fmt: skip
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="DIR", type=EXISTING_FOLDER,
              help="A submission's checkpoint for --replay; it is recognised by its hash.")  # fmt: skip
@click.option("--replay-seed", type=int, metavar="N", help="Seed of the draw of questions.  [default: unpredictable]")
@engine_options
def verify(folder: Path, style: str, only: str | None, jobs: int | None, executing: bool,
           **options: Unpack[ReplayOptions]) -> int:  # fmt: skip
    """Check every submission of a board; the exit status is 1 if any fails.

    Checks files, schema, hashes, suite version and questions. Recomputes every score from the responses (programs are
    run), every average and standard error from the scores. Searches for copies of other submissions and constant
    outputs, and reads the contamination report and the judge's flags.
    """
    from leaderboards.board import verify as verifying
    from leaderboards.board.evaluation import Engine
    from leaderboards.board.execution import execute
    from leaderboards.board.folder import boards_in
    from leaderboards.board.replay import Replay, replay

    root = options["data_root"]
    engine = Engine(options["engine"], options["dtype"], root) if options["engine"] else None
    verdicts: list[Verdict] = []
    for held in boards_in(folder):
        results = verifying.verify(held, only=only, jobs=jobs)
        for checked in execute(held, results) if executing else results:
            verdicts += checked.verdicts
            if options["count"] is not None:
                how = Replay(options["count"], options["checkpoints"], engine, options["replay_seed"], root)
                verdicts.append(replay(held, checked, how))
    if style == "json":
        click.echo(json.dumps([verdict.model_dump() for verdict in verdicts], indent=1, ensure_ascii=False))
    else:
        _print_verdicts(verdicts, every=only is not None)
    return 1 if any(verdict.verdict == "fail" for verdict in verdicts) else 0


def _print_verdicts(verdicts: Sequence[Verdict], *, every: bool) -> None:
    """Print the verdicts that a person has to look at (or every one), and how many submissions pass."""

    from harness.grid import plain

    labels = {verdict.submission for verdict in verdicts}
    for verdict in verdicts:
        if every or verdict.verdict in ("fail", "warn"):
            click.echo(f"{verdict.verdict:4}  {plain(verdict.submission)}  {verdict.check}: {plain(verdict.detail)}")
    failed = {verdict.submission for verdict in verdicts if verdict.verdict == "fail"}
    warned = {verdict.submission for verdict in verdicts if verdict.verdict == "warn"} - failed
    click.echo(f"{len(labels)} submissions: {len(labels - failed - warned)} pass, {len(warned)} with warnings, "
               f"{len(failed)} fail")  # fmt: skip


@board.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("submission_id", metavar="ID")
@click.option("--reason", required=True, help="Shown in the history.")
def withdraw(folder: Path, submission_id: str, reason: str) -> None:
    """Remove a submission from the ranking; its files stay, and the history shows it."""
    from harness.provenance import now
    from harness.recipe_file import parse
    from harness.submissions import Withdrawal
    from leaderboards.board.folder import WITHDRAWN, BoardFolder

    where = BoardFolder(folder).find(submission_id)
    tree = {"submission_id": where.name, "reason": reason, "date": now()}
    parse(Withdrawal, tree, where="--reason").write(where.path / WITHDRAWN)
    click.echo(f"{where.label}: withdrawn")


@board.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--out", required=True, type=FOLDER, metavar="SITE", help="The site's folder; an older site is replaced.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="[default: one per core]")
def build(folder: Path, out: Path, jobs: int | None) -> None:
    """Build a board's site: files that a browser opens as they are.

    Submissions that fail their checks are left out and named. DIR may also hold several boards; each gets its own
    pages.
    """
    from leaderboards.board.build import build_site
    from leaderboards.board.folder import boards_in

    boards = {held.name: _standings(held, jobs) for held in boards_in(folder)}
    build_site(boards, out)
    click.echo(f"{out / 'index.html'}: {sum(len(one.checked) for one in boards.values())} submissions")


def _standings(held: BoardFolder, jobs: int | None = None, only: str | None = None) -> Standings:
    """Verify and rank a board's submissions; name those that are left out."""
    from harness.grid import plain
    from leaderboards.board.standings import rank_submissions
    from leaderboards.board.verify import verify as check

    standings = rank_submissions(held, check(held, only=only, jobs=jobs))
    for label, reason in standings.refused.items():
        logger.warning("%s: left out, it fails %s", plain(label), plain(reason))
    return standings


@board.command("compare")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("first", metavar="ID")
@click.argument("second", metavar="ID")
@click.option("--format", "style", type=click.Choice(["terminal", "markdown", "latex", "html"]), default="terminal",
              show_default=True)  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="[default: one per core]")
def compare_command(folder: Path, first: str, second: str, style: str, jobs: int | None) -> None:
    """Show the paired differences between two submissions, with intervals and verdicts."""
    from harness.grid import write
    from leaderboards.board.folder import BoardFolder
    from leaderboards.board.pairs import compare

    held = BoardFolder(folder)
    labels = held.find(first).label, held.find(second).label
    click.echo(write(compare(_standings(held, jobs), *labels), style), nl=False)


@board.command()
@click.argument("folder", type=FOLDER, metavar="DIR_OR_SITE")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
def serve(folder: Path, port: int, host: str) -> None:
    """Show a board, or a site that was built before, on this machine."""
    import tempfile

    from leaderboards.board.build import MARKER, build_site, server
    from leaderboards.board.folder import boards_in

    with tempfile.TemporaryDirectory(prefix="moemix-board-") as scratch:
        site = folder
        if not (folder / MARKER).is_file():
            site = Path(scratch) / "site"
            build_site({held.name: _standings(held) for held in boards_in(folder)}, site)
        with server(site, host, port) as running:
            click.echo(f"http://{host}:{running.server_address[1]}/ (stop it with Ctrl-C)")
            sys.stdout.flush()
            try:
                running.serve_forever()
            except KeyboardInterrupt:
                click.echo("stopped")


@board.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--format", "style", required=True, type=click.Choice(["every-eval-ever", "eval-results", "fastchat"]))
@click.option("--out", required=True, type=FOLDER, metavar="FOLDER", help="Where the files go.")
@click.option("--developer", metavar="NAME", help="Organisation behind the models.  [default: the board's name]")
@click.option("--only", metavar="ID", help="Only this submission.")
def export(folder: Path, style: str, out: Path, developer: str | None, only: str | None) -> None:
    """Write a board's submissions in another project's format.

    The formats are Every Eval Ever's records with their samples, the hub's .eval_results YAML, and FastChat's answers
    and judgments.
    """
    from harness.errors import MoemixError
    from leaderboards.board import exchange
    from leaderboards.board.folder import BoardFolder, is_name

    held = BoardFolder(folder)
    name = developer or held.board.name
    if not is_name(name):
        raise MoemixError("use only letters, digits and ._+-", where=f"--developer {name}")
    standings = _standings(held, only=held.find(only).label if only else None)
    if style == "every-eval-ever":
        count = exchange.every_eval_ever(standings, out, name)
    else:
        count = (exchange.eval_results if style == "eval-results" else exchange.fastchat)(standings, out)
    click.echo(f"{out}: {count} records")
    if not count:
        reasons = {
            "eval-results": "no task of the board comes from a hub data set",
            "fastchat": "no submission was judged",
        }
        logger.warning(reasons.get(style, "the board has no submission that passes its checks"))
