"""The report: every table and figure as Markdown, as a page to browse, and each by itself in every format."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from harness.files import write_text
from harness.grid import (
    ENDINGS,
    Grid,
    html_page,
    html_section,
    html_table,
    html_text,
    markdown_section,
    markdown_table,
    markdown_text,
)
from harness.progress import duration
from harness.records import ModelManifest, Stage
from leaderboards.paper.claims import claims_csv, claims_grid, findings, heading, in_words
from leaderboards.paper.figures import FIGURES, FigureData, draw_figure, figure_data
from leaderboards.paper.rendering import LEGEND, figure_section, figure_text, needs, table_section, table_text, title
from leaderboards.paper.runs import Experiments, Need
from leaderboards.paper.specs import source, table_names
from leaderboards.paper.tables import PaperTable, agreement, fill

STYLES = ("markdown", "latex", "csv", "json")


def write_report(experiments: Experiments, out: Path, single: Path | None = None) -> list[Path]:
    """Write ``report.md``, ``index.html``, and every table and figure beside them; return the files written.

    The report is also written to the Markdown file ``single``, its figures to the folder of the same name beside it.
    """
    report = _report(experiments)
    figures = report.figures
    texts = {f"{name}{ENDINGS[style]}": table_text(table, style) for name, table in report.tables.items()
             for style in STYLES}  # fmt: skip
    texts |= {
        f"{name}{ENDINGS[style]}": figure_text(figure, experiments, style)
        for name, figure in figures.items()
        for style in ("markdown", "csv", "json")
    }
    texts |= {"report.md": _markdown(report, "."), "index.html": _page(report), "claims.csv": report.claims}
    written = [out / name for name in texts]
    for path, text in zip(written, texts.values(), strict=True):
        write_text(path, text)
    for name, figure in figures.items():
        written += draw_figure(figure, out / name)
    if single is not None:
        folder = single.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.samefile(out):
            for name in figures:
                for kind in ("png", "svg"):
                    shutil.copyfile(out / f"{name}.{kind}", folder / f"{name}.{kind}")
        write_text(folder / "claims.csv", report.claims)
        write_text(single, _markdown(report, os.path.relpath(folder, single.parent)))
        written.append(single)
    return written


@dataclass(frozen=True)
class _Report:
    """What the report shows.

    Attributes:
        parts: title, paragraphs and table of each part before the tables; all of it is computed.
        claims: the claims of the paper as CSV.
    """

    experiments: Experiments
    tables: dict[str, PaperTable]
    figures: dict[str, FigureData]
    title: str
    about: list[str]
    parts: list[tuple[str, list[str], Grid]]
    claims: str


def _report(experiments: Experiments) -> _Report:
    tables = {name: fill(name, experiments) for name in table_names()}
    figures = {name: figure_data(name, experiments) for name in FIGURES}
    found = findings(experiments, tables)
    took, by_stage = wall_time(experiments, [need for name in (*tables, *figures) for need in needs(name)])
    measured = []
    for name, table in tables.items():
        there = sum(cell.ours is not None for cell in table.cells.values())
        agree, of = agreement(table)
        signs = f"{agree} of {of}" if of else ""
        measured.append([heading(name), title(name), f"{there} of {len(table.cells)} cells", signs])
    for name, figure in figures.items():
        points = f"{sum(len(panel.points) for panel in figure.panels)} points"
        measured.append([heading(name), title(name), points + ", some missing" * bool(figure.missing), ""])
    header = ["", "shows", "measured", "sign of the difference to the baseline as in the paper"]
    preset, run = experiments.preset, f"--preset {experiments.preset.name}"
    made = f"Made by `moemix paper report {run}` from the runs of `moemix paper run all {run}`."
    words = in_words(found, tables, figures["figure2"])
    return _Report(
        experiments, tables, figures, f"The paper's tables and figures, preset {preset.name}",
        about=[f"{source()}. {made}", *preset.notes, LEGEND],
        parts=[
            ("What agrees with the paper at this scale, and what does not", words, claims_grid(found)),
            ("How much of it was measured", [], Grid(header, measured, align="llll")),
            ("Wall time", [took], by_stage),
        ],
        claims=claims_csv(found),
    )  # fmt: skip


def _markdown(report: _Report, pictures: str) -> str:
    """Write the report as Markdown, with its figures' pictures in the folder ``pictures``."""
    texts = [f"# {report.title}", *(markdown_text(text).replace("\\`", "`") for text in report.about)]
    for name, paragraphs, grid in report.parts:
        texts += [f"## {markdown_text(name)}", *map(markdown_text, paragraphs)]
        texts += [markdown_table(grid)] if grid.rows else []
    texts += ["## Tables", *(markdown_section(table_section(t, shared=False)) for t in report.tables.values())]
    texts.append("## Figures")
    for name, figure in report.figures.items():
        first, _, rest = markdown_section(figure_section(figure, report.experiments)).partition("\n\n")
        texts.append(f"{first}\n\n![{title(name)}]({pictures}/{name}.png)\n\n{rest}".rstrip())
    return "\n\n".join(texts) + "\n"


def _page(report: _Report) -> str:
    """Write the report as a page without scripts; every text is escaped."""
    about = (text.replace("`", "") for text in report.about)
    body = [f"<h1>{html_text(report.title)}</h1>", *(f"<p>{html_text(text)}</p>" for text in about)]
    links = (f'<a href="#{name}">{heading(name)}</a>' for name in (*report.tables, *report.figures))
    body.append(f"<nav>{' '.join(links)}</nav>")
    for name, paragraphs, grid in report.parts:
        texts = "".join(f"<p>{html_text(text)}</p>" for text in paragraphs)
        body.append(f"<h2>{html_text(name)}</h2>{texts}{html_table(grid) if grid.rows else ''}")
    for name, table in report.tables.items():
        body.append(html_section(table_section(table, shared=False), name))
        body.append(_downloads(name, *(ENDINGS[style].lstrip(".") for style in STYLES)))
    for name, figure in report.figures.items():
        picture = f'<img src="{name}.png" alt="{html_text(figure.title)}">'
        body.append(html_section(figure_section(figure, report.experiments), name, picture))
        body.append(_downloads(name, "png", "svg", "csv", "json"))
    return html_page(report.title, "".join(body))


def _downloads(name: str, *kinds: str) -> str:
    links = (f'<a href="{name}.{kind}">{kind}</a>' for kind in kinds)
    return f"<p><small>{' '.join(links)}</small></p>"


# --- wall time ----------------------------------------------------------------------------------------


STAGES = {"model": "making models", "train": "training", "eval": "evaluating", "judge": "judging",
          "gate-load": "measuring gate loads"}  # fmt: skip


def wall_time(experiments: Experiments, needs: Iterable[Need]) -> tuple[str, Grid]:
    """Return the wall time of the finished jobs behind ``needs``, in words and by stage.

    An interrupted job counts from its last start. Jobs that ran side by side count once in the words.
    """
    ran: dict[str, list[tuple[datetime, datetime]]] = {}
    processors: set[str] = set()

    def add(kind: str, stage: Stage) -> None:
        if stage.seconds is not None and stage.started and stage.finished and kind in STAGES:
            begun, ended = datetime.fromisoformat(stage.started), datetime.fromisoformat(stage.finished)
            ran.setdefault(kind, []).append((begun, ended))

    models: dict[Path, None] = {}
    for model, strategy in sorted({(model, strategy) for model, strategy, _ in needs}):
        for planned in experiments.runs(model, strategy):
            if planned.run.trained:
                manifest = planned.run.manifest
                processors.add(f"{manifest.provenance.processor}, {manifest.provenance.cpu_count} cores")
                models[planned.run.store / "_models" / planned.config.model_id / "model.json"] = None
                for name, stage in manifest.stages.items():
                    add(name.partition(":")[0], stage)
    for path in models:
        if path.is_file():
            add("model", ModelManifest.read(path).stage)
    rows = []
    for kind, words in STAGES.items():
        seconds = [(ended - begun).total_seconds() for begun, ended in ran.get(kind, [])]
        if seconds:
            times = map(duration, (sum(seconds), float(np.median(seconds)), max(seconds)))
            rows.append([words, str(len(seconds)), *times])
    grid = Grid(["stage", "jobs", "total", "median job", "longest job"], rows)
    jobs = sorted(job for stage in ran.values() for job in stage)
    if not jobs:
        return "Nothing has been run yet.", grid
    worked, reached = timedelta(), jobs[0][0]
    for begun, ended in jobs:
        worked += max(timedelta(), ended - max(begun, reached))
        reached = max(reached, ended)
    total = sum((ended - begun).total_seconds() for begun, ended in jobs)
    words = (
        f"The {len(jobs)} jobs took {duration(worked.total_seconds())} of wall time, pauses left out; one after the"
        f" other they would have taken {duration(total)}. Processors: {', '.join(sorted(processors))}."
    )
    return words, grid
