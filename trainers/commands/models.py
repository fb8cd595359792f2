"""``moemix model``: make MoE checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from harness.errors import MoemixError
from harness.options import data_root_option, request_option

if TYPE_CHECKING:
    from harness.recipe import SplitModel, UpcycledModel


@click.group(invoke_without_command=True)
@request_option
@click.pass_context
def model(context: click.Context, request: Path | None) -> None:
    """Make MoE checkpoints."""
    if request is not None:
        from harness.requests import ModelJobRequest, read_request
        from harness.store import create_model

        _make(create_model(read_request(request, ModelJobRequest)))
    elif context.invoked_subcommand is None:
        raise click.UsageError("give a command (make, upcycle or split), or --request FILE")


@model.command()
@click.argument("folder", metavar="MODEL_DIR", type=click.Path(path_type=Path))
def make(folder: Path) -> None:
    """Make the model that MODEL_DIR/model.json describes, into MODEL_DIR/checkpoint.

    A model that already exists is not made again.
    """
    if not (folder / "model.json").is_file():
        raise MoemixError("the folder has no model.json", where=str(folder), hint="`moemix plan` lists models")
    _make(folder.resolve())


@model.command()
@click.argument("kinds", nargs=-1, metavar="[MODEL_TYPE]…")
def architectures(kinds: tuple[str, ...]) -> None:
    """Try every MoE architecture of the installed transformers, and print the table of docs/models.md.

    Each is tried as a small random model on this machine's CPU: right, refused (with an error that says why), or not.
    """
    from trainers.making.support import CHECKS, check, served_by_vllm
    from trainers.making.support_ranks import STRATEGIES, check_on_two_processes
    from trainers.models.architectures import moe_types

    named = list(kinds or moe_types())
    together, serving = check_on_two_processes(named), served_by_vllm(named)
    columns = (*CHECKS, *STRATEGIES, "vLLM")
    click.echo(f"| architecture | {' | '.join(columns)} |")
    click.echo("|---" * (len(columns) + 1) + "|")
    for kind in named:
        click.echo(f"| `{kind}` | {' | '.join((check(kind) | together[kind]).values())} | {serving[kind]} |")


def _make(folder: Path) -> None:
    from transformers.utils import logging

    from trainers.making.stage import make_model

    if not sys.stderr.isatty():
        cast("Callable[[], None]", logging.disable_progress_bar)()  # transformers declares no type
    click.echo(make_model(folder))


def _from_dense_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that upcycling and splitting share."""
    for option in (
        data_root_option,
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--router-examples", type=click.IntRange(min=1), default=32, show_default=True),
        click.option(
            "--router-init",
            type=click.Choice(["data", "random"]),
            help="Make routers from hidden states of the data, or at random.  [default: data if there is some]",
        ),
        click.option("--source", "given", metavar="NAME=ADAPTER:FILE", multiple=True, help="One source of the data."),
        click.option("--sources", "recipe", metavar="RECIPE", help="Take the data from the sources of a recipe."),
        click.option("--top-k", type=click.IntRange(min=1), default=2, show_default=True, help="Experts per token."),
        click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new folder."),
        click.option("--revision", help="Commit or tag of a hub id."),
        click.argument("source"),
    ):
        command = option(command)
    return command


@model.command()
@_from_dense_options
@click.option("--experts", type=click.IntRange(min=2), default=4, show_default=True, help="Copies of each block.")
def upcycle(**options: Any) -> None:
    """Copy the feed-forward blocks of a dense SOURCE into experts.

    SOURCE is a checkpoint folder, a hub id, or package:NAME for the weights in a Python package. At first the new model
    computes the same function as SOURCE. The checkpoint and report.json are written to DIR.
    """
    from harness.recipe import UpcycledModel

    _make_from_dense(UpcycledModel, "upcycle", options)


@model.command()
@_from_dense_options
@click.option("--experts", type=click.IntRange(min=2), default=8, show_default=True, help="Parts of each block.")
@click.option(
    "--partition",
    type=click.Choice(["contiguous", "random", "clustered"]),
    default="random",
    show_default=True,
    help="Which neurons form an expert; clustered: neurons that are active on the same tokens of the data.",
)
@click.option(
    "--architecture",
    type=click.Choice(["mixtral", "llama_moe"]),
    default="mixtral",
    show_default=True,
    help="Architecture of the checkpoint.",
)
def split(**options: Any) -> None:
    """Divide the feed-forward neurons of a dense SOURCE among experts (the LLaMA-MoE way).

    If all experts are selected, the new model computes the same function as SOURCE; with fewer it needs training. The
    checkpoint and report.json are written to DIR.
    """
    from harness.recipe import SplitModel

    _make_from_dense(SplitModel, "split", options)


def _make_from_dense(schema: type[UpcycledModel] | type[SplitModel], kind: str, options: dict[str, Any]) -> None:
    from harness.recipe_file import load_recipe
    from harness.schema import parse
    from harness.store import data_root
    from trainers.making.stage import describe, make_from_dense, parse_source

    out, recipe, given = (options.pop(name) for name in ("out", "recipe", "given"))
    root = data_root(options.pop("data_root"))
    sources = tuple(load_recipe(recipe).data.sources if recipe else ()) + tuple(parse_source(text) for text in given)
    options["router_init"] = options["router_init"] or ("data" if sources else "random")
    made = parse(schema, {"kind": kind, "name": out.name, **options}, where=f"moemix model {kind}")
    click.echo(describe(make_from_dense(made, sources, root, out)))
    click.echo(out)
