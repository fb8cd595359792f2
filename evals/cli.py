"""``moemix eval`` and ``moemix suites``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from harness.checkpoint_argument import CheckpointArgument
from harness.options import data_root_option, request_option


class Limit(click.ParamType[int | float]):
    """A number of questions, or a share of them."""

    name = "limit"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Return a whole number from 1, or a fraction below 1."""
        try:
            number = float(str(value))
        except ValueError:
            number = 0.0
        if 0 < number < 1:
            return number
        if number < 1 or not number.is_integer():
            self.fail(f"{value!r} is neither a number of questions nor a share between 0 and 1", param, ctx)
        return int(number)


def _pairs(texts: Iterable[str], option: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"expected KEY=VALUE, got {text!r}", param_hint=option)
        yield key.strip(), value


def _settings(text: str, option: str) -> dict[str, object]:
    """Return settings from a JSON object or from ``key=value,…``, whose values are read as YAML."""
    from harness.files import yaml_value

    if text.lstrip().startswith("{"):
        read: object = yaml_value(text, where=option)
        if not isinstance(read, dict):
            raise click.BadParameter(f"not an object: {text}", param_hint=option)
        return read
    pairs = _pairs(filter(None, text.split(",")), option)
    return {key: yaml_value(value, where=f"{option} {key}") for key, value in pairs}


@click.command("eval")
@click.argument("checkpoint", required=False, type=CheckpointArgument())
@click.option("--suite", metavar="NAME|FILE", help="A suite's name (see `moemix suites`) or YAML file.")
@click.option(
    "--tasks",
    metavar="A,B",
    default="",
    help="Only these tasks or columns of the suite; without --suite, any tasks or groups of lm-eval.",
)
@click.option(
    "--apply-chat-template",
    "--apply_chat_template",
    "chat",
    is_flag=True,
    help="Ask with the tokenizer's chat template; few-shot examples are turns.",
)
@click.option(
    "--num-fewshot",
    "--num_fewshot",
    "shots",
    type=click.IntRange(min=0),
    metavar="N",
    help="Few-shot examples of every task.",
)
@click.option(
    "--gen-kwargs",
    "--gen_kwargs",
    "generation",
    metavar="K=V,…",
    help="Generation arguments of every task, such as temperature=0.7,max_gen_toks=512; or a JSON object.",
)
@click.option(
    "--include-path",
    "--include_path",
    "include",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of further lm-eval tasks, which --tasks may name; can be given several times.",
)
@click.option("--limit", type=Limit(), metavar="N|SHARE", help="Questions per task, or a share of them such as 0.1.")
@click.option(
    "--questions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help='Only these questions: JSON of task → numbers, {"arc_easy": [3, 17]}.',
)
@click.option(
    "--engine",
    default="transformers",
    show_default=True,
    metavar="vllm|transformers|URL",
    help="What answers: a vLLM server started for it, this process, or a running OpenAI-compatible server.",
)
@click.option(
    "--engine-arg",
    "--engine_arg",
    "engine_args",
    multiple=True,
    metavar="K=V",
    help="Further argument of the engine, such as tensor_parallel_size=4; can be given several times.",
)
@click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16 or float16.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of sampled generations.")
@data_root_option
@click.option(
    "--unsafe-code", is_flag=True, help="Run generated programs without a sandbox where none works, at your own risk."
)
@click.option("--no-cache", is_flag=True, help="Ask everything anew; neither read nor keep cached answers.")
@click.option(
    "--tracker",
    "trackers",
    multiple=True,
    metavar="NAME",
    help="Log the scores to tensorboard, wandb or trackio; can be given several times.",
)
@click.option("--tracker-project", default="moemix", show_default=True, help="Name of the project in the trackers.")
@click.option("--tracker-offline", is_flag=True, help="Keep W&B's files on this machine, for `wandb sync`.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results, samples and summary.")
@request_option
def eval_command(
    checkpoint: Path | None,
    suite: str | None,
    tasks: str,
    chat: bool,
    shots: int | None,
    generation: str | None,
    include: tuple[Path, ...],
    limit: float | None,
    questions: Path | None,
    engine: str,
    engine_args: tuple[str, ...],
    dtype: str,
    seed: int,
    data_root: str | None,
    unsafe_code: bool,
    no_cache: bool,
    trackers: tuple[str, ...],
    tracker_project: str,
    tracker_offline: bool,
    out: Path | None,
    request: Path | None,
) -> None:
    """Score CHECKPOINT, a folder or a hub id, on a suite or on tasks of lm-eval.

    Writes lm-eval's results.json and samples_<task>.jsonl, and summary.json. The same command again resumes, or does
    nothing if it is finished.
    """
    from evals.runner import evaluate, request_for
    from evals.selection import adapted_suite, read_questions
    from harness.execution import Tracking
    from harness.requests import EvalJobRequest, read_request
    from harness.schema import parse
    from harness.store import data_root as find_data_root
    from harness.store import data_root_of

    if request is not None:
        job = read_request(request, EvalJobRequest)
    elif checkpoint is None or not (suite or tasks) or out is None:
        raise click.UsageError("give a CHECKPOINT, --suite NAME or --tasks A,B, and --out DIR, or --request FILE")
    else:
        only = tuple(name.strip() for name in tasks.split(",") if name.strip())
        if suite is None or include or chat or shots is not None or generation:
            suite, only = (
                adapted_suite(
                    suite,
                    only,
                    out,
                    folders=include,
                    chat_template=chat,
                    shots=shots,
                    generation=_settings(generation or "", "--gen-kwargs"),
                ),
                only if suite else (),
            )
        config = request_for(
            suite,
            tasks=only,
            limit=limit,
            questions=read_questions(questions) if questions else {},
            engine=engine,
            engine_args={key: str(value) for key, value in _pairs(engine_args, "--engine-arg")},
            dtype=dtype,
            seed=seed,
        )
        job = EvalJobRequest(
            config=config,
            checkpoint=checkpoint,
            out=out,
            data_root=find_data_root(data_root) or data_root_of(checkpoint),
            keep_answers=not no_cache,
            unsafe_code=unsafe_code,
            tracking=parse(
                Tracking,
                {"trackers": trackers, "project": tracker_project, "mode": "offline" if tracker_offline else "online"},
                where="--tracker",
            ),
        )
    summary = evaluate(job)
    for name, column in summary.columns.items():
        value = "–" if column.value is None else f"{column.value:.4f}"
        error = "" if column.stderr is None else f" ± {column.stderr:.4f}"
        click.echo(f"{column.title or name}: {value}{error} (n = {column.n})")


@click.command("suites")
def suites() -> None:
    """List the evaluation suites."""
    from evals.suites import load_suite, suite_names

    for name in suite_names():
        suite = load_suite(name)
        click.echo(f"{name}: {suite.description}")
        for column in suite.columns:
            shots = "" if column.shots is None else f", {column.shots}-shot"
            samples = "" if column.samples is None else f" over {column.samples} samples"
            click.echo(f"  {column.title or column.name}: {', '.join(column.tasks)}{shots}, {column.metric}{samples}")
        for average in suite.averages:
            click.echo(f"  {average.title or average.name}: mean of {', '.join(average.of)}")
