"""A view of one's own runs as pages without scripts: jobs, table, curves, samples and conversations (``moemix view``).

It reads records only, never a checkpoint, and finished runs as well as running ones. What models and data sets wrote is
escaped, and the pages load nothing from elsewhere.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.files import read_jsonl, write_text
from harness.grid import Grid, html_page, html_section, html_table, html_text
from harness.judging import CONVERSATIONS, JudgeSummary
from harness.progress import duration
from harness.records import HeldOutLosses, MixtureUpdate, StepMetrics
from harness.samples import Sample, read_samples
from harness.schema import parse_lines
from harness.status import JobStatus
from harness.store import Run
from leaderboards.drawing import Panel, Point, draw_panels
from leaderboards.judged import PREFIX
from leaderboards.layout import lay_out
from leaderboards.selection import Selection
from leaderboards.table import Comparison, Row, Table

MOST_SHOWN = 100  # questions of a task that one row gained or lost
MOST_LETTERS = 2000  # of a text
_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Jobs:
    """The jobs of a recipe, and the seconds that they still need, if that is known."""

    rows: Sequence[JobStatus] = ()
    left: float | None = None

    @property
    def running(self) -> bool:
        """Whether anything can still change."""
        return any(row.state in ("running", "queued") for row in self.rows)


class Pages:
    """The pages of runs: ``index.html``, ``curves.html`` with its figures, and pages of samples and conversations.

    Only the index is written each time; what else there is, only after a record that it shows has changed.
    """

    def __init__(self, out: Path, title: str, *, live: bool = False) -> None:
        """``live``: whether the pages load themselves again while a job runs."""
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._title, self._live = out, title, live
        self._results: object = None  # what the tables were made from
        self._logs: object = None  # what the curves were drawn from
        self._comparisons: Sequence[Comparison] = ()
        self._tables = ""

    def write(self, selection: Selection, jobs: Jobs) -> None:
        """Write what is new since the last time."""
        again = self._live and jobs.running
        results = replace(selection, runs=()), _stamps(_results(selection))
        files = (path for run in selection.runs for path in (run.metrics, run.mixture, run.held_out))
        logs = results, again, _stamps(files)
        if results != self._results:
            self._comparisons = selection.compare()
            self._tables = self._written(self._comparisons)
            self._results = results
        if logs != self._logs:
            figures = "".join(_figures(self._comparisons[0], self._out))
            body = figures or "<p>Nothing has been trained yet.</p>"
            self._page("curves.html", f"{self._title}: curves", body, again=again)
            self._logs = logs
        self._page("index.html", self._title, _jobs(jobs) + self._tables, again=again)

    def _written(self, comparisons: Sequence[Comparison]) -> str:
        """Write the pages of samples and conversations; return the tables with the links to these pages."""
        text = "".join(
            html_section(section)
            for number, comparison in enumerate(comparisons)
            for section in lay_out(comparison, training=not number)  # all comparisons have the same runs
        )
        pages = {"Samples": _samples_pages(comparisons), "Judged conversations": _judged_pages(comparisons)}
        for group, made in pages.items():
            links = []
            for name, (heading, body) in made:
                self._page(name, f"{self._title}: {heading}", body)
                links.append(f'<li><a href="{name}">{html_text(heading)}</a></li>')
            text += f"<h2>{group}</h2><ul>{''.join(links)}</ul>" if links else ""
        return text

    def _page(self, name: str, title: str, body: str, *, again: bool = False) -> None:
        head = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        if again:
            head += '<meta http-equiv="refresh" content="15">'
        links = '<nav><a href="index.html">Jobs and table</a><a href="curves.html">Curves</a></nav>'
        write_text(self._out / name, html_page(title, f"{head}{links}<h1>{html_text(title)}</h1>{body}"))


def _results(selection: Selection) -> Iterator[Path]:
    """Yield the files that are written last of all that a comparison reads."""
    for run in selection.runs:
        if run.manifest_path.is_file():
            yield run.manifest_path
            yield from (run.store / "_contamination").glob("*.json")
    for by_run in (*selection.evaluations.values(), *selection.judgings.values()):
        yield from (folder / "summary.json" for folder in by_run.values())


def _stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Return when the files that exist were last written, in nanoseconds, and their sizes."""
    found = {path: path.stat() for path in paths if path.is_file()}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


def _jobs(jobs: Jobs) -> str:
    if not jobs.rows:
        return ""
    text = ", ".join(f"{count} {state}" for state, count in Counter(row.state for row in jobs.rows).items())
    text += f"; about {duration(jobs.left)} left" if jobs.left else ""
    grid = Grid(("state", "job", ""), [(row.state, row.title, row.detail) for row in jobs.rows], align="lll")
    opened = "" if all(row.state == "done" for row in jobs.rows) else " open"
    return f"<details{opened}><summary>{html_text(text)}</summary>{html_table(grid)}</details>"


# --- curves -------------------------------------------------------------------------------------------


def _figures(comparison: Comparison, out: Path) -> Iterator[str]:
    """Draw each figure as SVG, and yield the HTML that shows it."""
    for table in comparison.tables:
        runs = {row.label: [_Logs.read(member.run) for member in row.members] for row in table.rows}
        groups = {
            "Training loss": _losses(runs),
            "Held-out loss": _held_out(runs),
            "Weights": _weights(runs),
            "Gate loads": _gate_loads(runs),
        }
        for title, panels in groups.items():
            if panels:
                parts = (title, *((table.model_id,) if len(comparison.tables) > 1 else ()))
                name = re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()) + ".svg"  # the same when it is drawn again
                draw_panels(panels, "", out / name)
                heading = " · ".join(filter(None, (title, table.model)))
                yield f'<h2>{html_text(heading)}</h2><img src="{name}" alt="{html_text(heading)}">'


@dataclass(frozen=True)
class _Logs:
    """What a run recorded so far."""

    metrics: Sequence[StepMetrics]
    updates: Sequence[MixtureUpdate]
    held_out: Sequence[HeldOutLosses]

    @classmethod
    def read(cls, run: Run) -> _Logs:
        """Read the files that exist.

        Raises:
            MoemixError: a line is not such a record, with file and line.
        """
        return cls(
            list(parse_lines(StepMetrics, run.metrics)),
            list(parse_lines(MixtureUpdate, run.mixture)),
            list(parse_lines(HeldOutLosses, run.held_out)),
        )


Runs = Mapping[str, Sequence[_Logs]]
"""Label of a row → what its runs recorded, one for each seed."""


def _over_seeds(series: Mapping[str, Sequence[Mapping[int, float]]]) -> tuple[Point, ...]:
    """Return the mean over seeds at each step that all of them have."""
    points = []
    for label, seeds in series.items():
        seen = [seed for seed in seeds if seed]
        for step in sorted(set.intersection(*(set(seed) for seed in seen))) if seen else ():
            points.append(Point(label, step, float(np.mean([seed[step] for seed in seen]))))
    return tuple(points)


def _panels(by_name: Mapping[str, Mapping[str, Sequence[Mapping[int, float]]]], unit: str) -> list[Panel]:
    found = [(name, _over_seeds(series)) for name, series in by_name.items()]
    return [Panel(name, "steps", "optimizer step", unit, points) for name, points in found if points]


def _losses(runs: Runs) -> list[Panel]:
    names: dict[str, dict[str, list[dict[int, float]]]] = {"all sources": {}}
    for label, members in runs.items():
        for run in members:
            lines = run.metrics
            names["all sources"].setdefault(label, []).append({line.step: line.loss for line in lines})
            for source in lines[0].source_loss if lines else ():
                known = {line.step: loss for line in lines if (loss := line.source_loss.get(source)) is not None}
                names.setdefault(source, {}).setdefault(label, []).append(known)
    return _panels(names, "nats per target token")


def _held_out(runs: Runs) -> list[Panel]:
    names: dict[str, dict[str, list[dict[int, float]]]] = {}
    for label, members in runs.items():
        for run in members:
            seed: dict[str, dict[int, float]] = {}
            for losses in run.held_out:
                seed.setdefault(losses.set, {})[losses.step] = sum(losses.nats) / max(sum(losses.targets), 1)
            for name, by_step in seed.items():
                names.setdefault(name, {}).setdefault(label, []).append(by_step)
    return _panels(names, "nats per target token")


def _weights(runs: Runs) -> list[Panel]:
    names: dict[str, dict[str, list[dict[int, float]]]] = {}
    for label, members in runs.items():
        for run in members:
            last = max((line.step for line in run.metrics), default=0)
            for at, source in enumerate(run.updates[0].names if run.updates else ()):
                by_step = {update.step: update.after[at] for update in run.updates}
                by_step.setdefault(last, run.updates[-1].after[at])  # in force until then
                names.setdefault(label, {}).setdefault(source, []).append(by_step)
    found = _panels(names, "weight")
    top = 1.05 * max((point.y for panel in found for point in panel.points), default=1.0)
    return [replace(panel, y_range=(0.0, top)) for panel in found]


def _gate_loads(runs: Runs) -> list[Panel]:
    """Return how far apart the sources' gate loads are, where a strategy measures them."""
    points: list[Point] = []
    for label, members in runs.items():
        series = []
        for run in members:
            seed = {}
            for update in run.updates:
                loads = np.array(update.observation.get("gate_load") or (), dtype=np.float64)
                if loads.ndim == 3 and len(loads) > 1:  # sources, layers, experts
                    shares = loads / loads.sum(axis=2, keepdims=True)
                    gaps = [np.linalg.norm(a - b, axis=1) for a, b in itertools.combinations(shares, 2)]
                    seed[update.step] = float(np.mean(gaps))
            series.append(seed)
        points += _over_seeds({label: series})
    title = "distance between the loads of two sources (mean over pairs and layers)"
    return [Panel(title, "steps", "optimizer step", "Euclidean distance", tuple(points))] if points else []


# --- samples ------------------------------------------------------------------------------------------


def _samples_pages(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield file name, heading and body of a page for each row beside the baseline, and each suite."""
    numbers = itertools.count(1)
    for comparison in comparisons:
        for table in comparison.tables:
            base = next((row for row in table.rows if row.strategy == table.baseline), None)
            for row in table.rows:
                pair = _common(row, base) if base is not None and row is not base else None
                if pair is None:
                    continue
                mine, other, seed = pair
                body = "".join(_compared_tasks(table, mine, other, row.label))
                heading = " · ".join(filter(None, (comparison.suite, table.model, f"{row.label} and {table.baseline}")))
                if body:
                    intro = (
                        f"<p>Questions that {html_text(row.label)} answers better than {html_text(table.baseline)} and"
                        f" worse, with the training seed {seed}. One run each: what is gained here may be luck.</p>"
                    )
                    yield f"samples-{next(numbers)}.html", (heading, intro + body)


def _common(row: Row, base: Row) -> tuple[Path, Path, int] | None:
    """Return the folders of the evaluations of two rows under the first seed that both have."""
    here, there = row.evaluations, base.evaluations
    if not row.varies:
        here = dict.fromkeys(there, next(iter(here.values()))) if here else {}
    seed = next((seed for seed in here if seed in there), None)
    return None if seed is None else (here[seed].folder, there[seed].folder, seed)


def _compared_tasks(table: Table, mine: Path, other: Path, label: str) -> Iterator[str]:
    keys = dict.fromkeys(key for column in table.columns for key in column.shares)
    for key in keys:
        path = f"samples_{key.task}.jsonl"
        if not ((mine / path).is_file() and (other / path).is_file()):
            continue
        here, there = (
            {s.doc_id: s for s in read_samples(f / path) if s.filter == key.filter and key.metric in s.record}
            for f in (mine, other)
        )
        if not here:  # a measure that was made of the samples, and is in none of them
            continue
        changes: dict[str, list[tuple[Sample, Sample]]] = {"gained": [], "lost": []}
        for number in sorted(here.keys() & there.keys()):
            gap = here[number].score(key.metric) - there[number].score(key.metric)
            if gap:
                changes["gained" if gap > 0 else "lost"].append((here[number], there[number]))
        both = f"{len(changes['gained'])} gained, {len(changes['lost'])} lost, of {len(here)}"
        yield f"<h2>{html_text(key.task)} ({html_text(key.metric)}): {both}</h2>"
        for name, pairs in changes.items():
            for one, two in pairs[:MOST_SHOWN]:
                yield _question(name, one, two, label, table.baseline)
            if len(pairs) > MOST_SHOWN:
                yield f"<p>… and {len(pairs) - MOST_SHOWN} more {name}; all are in {html_text(path)}.</p>"


def _question(change: str, one: Sample, two: Sample, label: str, other: str) -> str:
    prompt = one.requests[0][0] if one.requests and one.requests[0] else one.doc
    answers = [sample.filtered if sample.chosen is None else sample.chosen for sample in (one, two)]
    texts = [("question", prompt), ("right answer", one.right), *zip((label, other), answers, strict=True)]
    return _details(f"{change}: question {one.doc_id}", texts)


def _details(summary: str, texts: Iterable[tuple[str, object]]) -> str:
    """Return texts with their names as a table that is opened by a click."""
    rows = "".join(f"<tr><th class=l>{html_text(name)}</th><td class=l>{_text(value)}</td></tr>"
                   for name, value in texts)  # fmt: skip
    return f"<details><summary>{html_text(summary)}</summary><table>{rows}</table></details>"


def _text(value: object) -> str:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = str(value)
    cut = text if len(text) <= MOST_LETTERS else f"… {text[-MOST_LETTERS:]}"  # the end of a prompt is the question
    return "<br>".join(map(html_text, cut.splitlines()))


# --- judged conversations -----------------------------------------------------------------------------


def _judged_pages(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield file name, heading and body of a page for each judging: its questions, all rows' answers and verdicts."""
    numbers = itertools.count(1)
    for table in (table for comparison in comparisons for table in comparison.tables):
        for column in (column for column in table.columns if column.name.startswith(PREFIX)):
            judged = {}
            for row in table.rows:
                held = next((scores for scores in row.scored(column.name).values()), {})
                folders = [scores.path.parent for scores in held.values()]
                if folders and (folders[0] / CONVERSATIONS).is_file():
                    judged[row.label] = _Conversations.read(folders[0])
            if body := "".join(_conversations(judged)):
                heading = " · ".join(filter(None, (column.title, table.model)))
                yield f"judged-{next(numbers)}.html", (heading, body)


@dataclass(frozen=True)
class _Conversations:
    """A judging of one run: its questions with the answers, and the verdicts on each turn."""

    model: str
    rows: Mapping[str, Mapping[str, Any]]
    verdicts: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]

    @classmethod
    def read(cls, folder: Path) -> _Conversations:
        summary = JudgeSummary.read(folder / "summary.json")
        kind = "games" if summary.request.mode == "pairwise" else "judgments"
        lines = {line["key"]: line for file in sorted(folder.glob(f"{kind}-*.jsonl")) for line in read_jsonl(file)}
        verdicts = defaultdict(list)
        for line in lines.values():
            if summary.model in (line.get("model"), line.get("model_1"), line.get("model_2")):
                verdicts[str(line["question_id"]), int(line["turn"])].append(line)
        rows = {str(row["question_id"]): row for row in read_jsonl(folder / CONVERSATIONS)}
        return cls(summary.model, rows, verdicts)


def _conversations(judged: Mapping[str, _Conversations]) -> Iterator[str]:
    questions = {key: row for one in judged.values() for key, row in one.rows.items()}
    if questions:
        yield "<p>The first training seed of each row.</p>"
    for key, question in itertools.islice(questions.items(), MOST_SHOWN):
        texts: list[tuple[str, object]] = []
        for turn, asked in enumerate(question["turns"], 1):
            texts.append((f"question, turn {turn}", asked))
            for label, one in judged.items():
                answers = one.rows.get(key, {}).get("answers", {})
                for model, given in answers.items():
                    if len(given) >= turn:
                        texts.append((label if model == one.model else model, given[turn - 1]))
                texts += [_verdict(label, line) for line in one.verdicts.get((key, turn), ())]
        yield _details(f"question {key}: {question['category']}", texts)
    if len(questions) > MOST_SHOWN:
        yield f"<p>… and {len(questions) - MOST_SHOWN} more questions; all are in {CONVERSATIONS}.</p>"


def _verdict(label: str, line: Mapping[str, Any]) -> tuple[str, object]:
    """Return what a judge says of a row's answer: the verdict, and its words."""
    shown = f", shown {'first' if line['game'] == 1 else 'second'}" if "game" in line else ""
    stated = line.get("winner", line.get("score"))
    verdict = line["reason"] or line.get(str(stated), stated)
    return f"{line['judge'][0]} on {label}{shown}", f"{verdict}\n{line['judgment']}"
