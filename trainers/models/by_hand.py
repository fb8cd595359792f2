"""Making an MoE from a dense checkpoint by hand: a folder that plain transformers and vLLM load, with its report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import MoemixError
from harness.files import whole_directory, write_json
from harness.recipe import Part, Source, SplitModel, UpcycledModel

REPORT = "report.json"


def make_from_dense(
    model: UpcycledModel | SplitModel, sources: Sequence[Source], root: Path | None, out: Path
) -> dict[str, Any]:
    """Write the checkpoint and ``report.json`` into ``out``; the report.

    Args:
        sources: what routers and clusters are made from; may be empty where neither is asked for.
        root: the data root.

    Raises:
        MoemixError: ``out`` holds something already, or source, model and data do not go together.
    """
    from trainers.models.making import from_dense, size

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MoemixError("exists and is not empty", where=str(out), hint="give a new folder with --out")
    if model.reads_sources and not sources:
        raise MoemixError(
            "routers and clusters are made from data, and none was given",
            hint="--sources RECIPE, or --source NAME=ADAPTER:FILE; or --router-init random",
        )
    with tempfile.TemporaryDirectory() as cache:
        moe, tokenizer, measured = from_dense(model, tuple(sources), root, Path(cache))
    report = {**model.model_dump(mode="json"), **size(moe), **measured}
    with whole_directory(out) as folder:
        moe.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / REPORT, report)
    return report


def describe(report: dict[str, Any]) -> str:
    """The report in sentences."""
    lines = [f"{report['parameters']:,} parameters, {report['moe_layers']} MoE layers of {report['experts']} experts"]
    if "kl_divergence" in report:
        lines.append(
            f"outputs moved from the dense model: KL divergence {report['kl_divergence']:.3g} nats a token, same first"
            f" choice for {report['same_first_choice']:.1%} of tokens, largest change of a logit"
            f" {report['largest_logit_difference']:.3g} (largest logit {report['largest_logit']:.3g})"
        )
        distance, variation = (report["routers"][key] for key in ("distance", "load_cv"))
        mean = sum(distance) / len(distance)
        lines.append(
            f"sources over experts: mean distance of gate loads {mean:.3f} (last layer {distance[-1]:.3f}), unevenness"
            f" of load at most {max(variation):.3f}"
        )
    else:
        lines.append("no data was given, so nothing was measured")
    return "\n".join(lines)


def parse_source(text: str) -> Source:
    """``NAME=ADAPTER:FILE`` as a source."""
    name, equals, rest = text.partition("=")
    adapter, colon, files = rest.partition(":")
    if not (equals and colon and name and adapter and files):
        raise MoemixError(f"{text!r} is no source", where="--source", hint="expected NAME=ADAPTER:FILE")
    return Source(name=name, parts=(Part(adapter=adapter, files=(files,)),))
