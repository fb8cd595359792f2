"""``moemix judge``: answer and judge, or judge given answers; further commands test and measure judges."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.checkpoint_argument import CheckpointArgument
from harness.errors import StageError
from harness.options import data_root_option, format_option, request_option

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


KEYS = click.option("--judge-key-env", multiple=True, metavar="NAME", help="Environment variable with the judge's key; "
                    "repeat for a panel, `-` for none.  [default: MOEMIX_JUDGE_API_KEY, OPENAI_API_KEY]")  # fmt: skip
ASKING = (
    click.option("--protocol", type=click.Choice(["faithful", "strict"]), default="strict", show_default=True,
                 help="faithful: FastChat's templates, parsing and averaging."),
    click.option("--judge-prompts", type=FILE, help="FastChat's judge_prompts.jsonl, for `faithful`.  [default: beside "
                 "the bench, or in the data root]"),
    click.option("--judge-temperature", type=click.FloatRange(min=0), default=0.0, show_default=True),
    click.option("--judge-max-tokens", type=click.IntRange(min=16), default=2048, show_default=True),
    click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16 or float16."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of sampled answers."),
    click.option("--concurrency", type=click.IntRange(min=1), default=16, show_default=True,
                 help="Judgments at once."),
    click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N",
                 help="Requests a minute, at most."),
    click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True,
                 help="Seconds for one request."),
    click.option("--attempts", type=click.IntRange(min=1), default=6, show_default=True,
                 help="Requests for a judgment."),
    click.option("--max-cost", type=click.FloatRange(min=0), metavar="SUM", help="Spend no more; needs --price."),
    click.option("--price", metavar="IN,OUT", help="Of a million prompt and a million reply tokens."),
    click.option("--yes", is_flag=True, help="Spend without asking first."),
)  # fmt: skip
Command = TypeVar("Command", bound=Callable[..., object])


def asking_options(function: Command) -> Command:
    """Add the options that say how a judge is asked."""
    for option in reversed(ASKING):
        function = option(function)
    return function


class JudgeGroup(click.Group):
    """A group whose default command is ``run``, so that ``judge CHECKPOINT`` judges and ``judge report`` reports."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` before arguments that name no command."""
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and leave ``run`` out of usage lines, since nobody types it."""
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == "run" else name), command, rest


@click.group("judge", cls=JudgeGroup)
def judge() -> None:
    """Judge open-ended answers."""


@judge.command("run", hidden=True)
@click.argument("checkpoint", required=False, type=CheckpointArgument())
@click.option(
    "--bench", metavar="NAME|FILE", help="mt_bench, vicuna_bench, quickstart, quickstart_long, or a JSONL file."
)
@click.option("--answers", type=FILE, multiple=True, help="Judge these FastChat answers instead; may be repeated.")
@data_root_option
@click.option("--references", type=FILE, help="FastChat answer file with the reference answers.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Questions per category.")
@click.option("--engine", default="transformers", show_default=True, metavar="vllm|transformers|URL",
              help="What answers for CHECKPOINT.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Of an answer.")
@click.option("--chat-template", type=FILE, help="In place of the checkpoint's own.")
@click.option("--model-name", help="What to call the model.  [default: the checkpoint's folder]")
@click.option("--judge-url", multiple=True, metavar="URL/v1", help="OpenAI-compatible endpoint of a judge.")
@click.option("--judge-model", multiple=True, metavar="NAME", help="Name of the judge there; repeat for a panel.")
@KEYS
@click.option("--judge-weight", multiple=True, type=click.FloatRange(min=0, min_open=True), metavar="W",
              help="Of the judge's verdicts in averages; repeat for a panel.  [default: 1]")  # fmt: skip
@click.option("--judge-checkpoint", multiple=True, type=CheckpointArgument(),
              help="A checkpoint to serve with vLLM as a judge; repeat for a panel.")  # fmt: skip
@click.option("--mode", type=click.Choice(["single", "pairwise"]), default="single", show_default=True)
@click.option("--baseline", type=FILE, help="Pairwise: FastChat answers to compare with. Without it, all pairs.")
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Judgments of each answer.")
@asking_options
@click.option("--qualification", type=FOLDER, help="Folder with the test of the judge (`moemix judge qualify`).")
@click.option("--require", type=click.Choice(["qualified"]), help="Test the judge first, and refuse a bad one.")
@click.option("--min-judged", type=click.FloatRange(0, 1), default=0.5, show_default=True, metavar="SHARE",
              help="Exit with status 1 if a smaller share of the judgments has a verdict.")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="Ask again for what the endpoint failed to answer.")
@click.option("--out", type=FOLDER, help="Folder for answers, judgments, transcript and summary.")
@request_option
def run(**options: Any) -> None:
    """Judge CHECKPOINT's answers to a bench, or the answers in --answers files.

    Without a judge (--judge-model or --judge-checkpoint) the reference grader checks what can be checked. The key of
    an endpoint is read from MOEMIX_JUDGE_API_KEY or OPENAI_API_KEY. Writes answers.jsonl, judgments-*.jsonl,
    scores.jsonl, transcript.html and summary.json. The same command again resumes at the single judgment.

    `moemix judge qualify JUDGE` tests a judge on known answers; `moemix judge report FOLDER…` measures one at work.
    """
    from evals.judge.qualify import judge_tested
    from evals.judge.run import request_from
    from evals.judge.scores import as_text
    from harness.requests import JudgeJobRequest, read_request

    file, confirmed = options.pop("request"), options.pop("yes")
    if file is None and options["out"] is None:
        raise click.UsageError("give --out DIR, or --request FILE")
    job = read_request(file, JudgeJobRequest) if file else request_from(**options)
    summary = judge_tested(job, confirm=None if confirmed or not sys.stdin.isatty() else _confirm)
    click.echo(as_text(summary), nl=False)
    if summary.judged_share < job.min_judged:
        share = f"{summary.judged_share:.0%} of the judgments have a verdict, less than {job.min_judged:.0%}"
        raise StageError(
            share, where=str(job.out), hint="summary.json names the reasons; see --retry-failed, --min-judged"
        )


def _confirm(estimate: str) -> None:
    """Ask whether to spend what is estimated."""
    if not click.confirm(f"{estimate}. Go on?", err=True):
        raise click.Abort


@judge.command("qualify")
@click.argument("name", metavar="JUDGE")
@click.option("--judge-url", metavar="URL/v1", help="OpenAI-compatible endpoint that knows JUDGE by this name.")
@KEYS
@data_root_option
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Questions of each kind.")
@asking_options
@click.option("--out", type=FOLDER, required=True, help="Folder for the test; each judge has one of its own in it.")
@format_option
def qualify_command(name: str, judge_url: str | None, style: str, **options: Any) -> None:
    """Test JUDGE on questions with known answers, before it is believed.

    JUDGE is a name at --judge-url, or a checkpoint (a folder or a hub id), which is served with vLLM. The judge scores
    and compares right and wrong answers, in both orders, twice, and again when they are padded, empty, or address the
    judge. Files of JudgeBench and RewardBench in the data root (judgebench/, rewardbench/) are asked as well. The exit
    status is 1 if the judge is qualified neither for scores nor for pairs.
    """
    from evals.judge.qualify import as_text, qualify
    from evals.judge.run import request_from

    confirmed = options.pop("yes")
    checkpoints = () if judge_url else (CheckpointArgument().convert(name, None, None),)
    job = request_from(
        bench=None, judge_url=(judge_url,) if judge_url else (), judge_model=(name,) if judge_url else (),
        judge_checkpoint=checkpoints, judge_weight=(), checkpoint=None, **options,
    )  # fmt: skip
    (found,) = qualify(job, confirm=None if confirmed or not sys.stdin.isatty() else _confirm)
    click.echo(found.model_dump_json(indent=1) if style == "json" else as_text(found).rstrip())
    if not (found.verdict.scores or found.verdict.pairs):
        sys.exit(1)


@judge.command("import")
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=FOLDER, required=True, help="Folder of the judging.")
@click.option("--mode", type=click.Choice(["single", "pairwise"]), help="For a FastChat folder that has both.")
@click.option("--model-name", metavar="NAME", help="The model that the summary is about.  [default: the first]")
@click.option("--baseline-name", metavar="NAME", help="Of the baseline, which Arena-Hard's files do not have.")
@click.option("--bench", metavar="NAME", help="What to call the questions.  [default: the folder's name]")
def import_command(
    folder: Path, out: Path, mode: str | None, model_name: str | None, baseline_name: str | None, bench: str | None
) -> None:
    """Make a judging of judgments from FastChat, AlpacaEval or Arena-Hard.

    The result is a judging folder like any other: `judge report` measures its judge. In a run's folder (as judge/NAME)
    it becomes a column of `moemix table`, and goes with `moemix submit`.
    """
    from evals.judge.exchange import import_judging
    from evals.judge.scores import as_text

    summary = import_judging(folder, out, mode=mode, model=model_name, baseline=baseline_name, bench=bench)
    click.echo(as_text(summary), nl=False)


@judge.command("export")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--format", "style", type=click.Choice(["alpaca_eval", "arena_hard"]), required=True)
@click.option("--out", type=FOLDER, required=True)
def export_command(folder: Path, style: str, out: Path) -> None:
    """Write a pairwise judging FOLDER as the files of AlpacaEval or Arena-Hard; FastChat's are in it already."""
    from evals.judge.exchange import export_judging

    for path in export_judging(folder, style, out):
        click.echo(f"{path}: written")


@judge.command("report")
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--human", type=FILE, help="People's verdicts: JSONL with model_a, model_b, winner, turn, judge.")
@format_option
@click.option("--out", type=FILE, help="Write the report here instead.")
def report(folders: tuple[Path, ...], human: Path | None, style: str, out: Path | None) -> None:
    """Measure the judges of judging FOLDERS.

    Position consistency, the pull of length, self-preference, use of the scale, failures, stability under repeats,
    agreement between judges and with people, and win rates, plain and length-controlled: each with a 95 % interval
    over questions.
    """
    import json

    from evals.judge.report import as_text, make_report
    from harness.files import write_text

    measured = make_report(folders, human)
    text = json.dumps(measured, indent=1, ensure_ascii=False) + "\n" if style == "json" else as_text(measured)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
