"""``moemix model``: making MoE checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.errors import MoemixError


@click.group()
def model() -> None:
    """Make MoE checkpoints."""


@model.command()
@click.argument("folder", metavar="MODEL_DIR", type=click.Path(path_type=Path))
def make(folder: Path) -> None:
    """Make the model that MODEL_DIR/model.json describes, into MODEL_DIR/checkpoint.

    A model that is finished is left as it is.
    """
    if not (folder / "model.json").is_file():
        raise MoemixError("there is no model.json in this folder", where=str(folder), hint="`moemix plan` lists models")
    from transformers.utils import logging

    from trainers.models.making import make_model

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    click.echo(make_model(folder.resolve()))
