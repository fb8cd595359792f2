"""A view of one's own runs as pages without scripts: jobs, table, curves, samples and conversations (``moemix view``).

It reads records only, never a checkpoint, and finished runs as well as running ones. What models and data sets wrote is
escaped, and the pages load nothing from elsewhere.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

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
from leaderboards.conversations import Conversations, read_conversations
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

    def __init__(self, out: Path, title: str, *, live: bool = False, home: str | None = None) -> None:
        """``live``: whether the pages load themselves again while a job runs; ``home``: link to the other recipes."""
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._title, self._live, self._home = out, title, live, home
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
        links = '<a href="index.html">Jobs and table</a><a href="curves.html">Curves</a>'
        links += f'<a href="{self._home}">All recipes</a>' if self._home else ""
        _write_page(self._out / name, title, f"<nav>{links}</nav>", body, again=again)


def write_overview(out: Path, title: str, recipes: Mapping[str, Sequence[Run]]) -> None:
    """Write the page that lists the recipes of a store, each in its own folder of pages."""
    rows = ""
    for name, runs in recipes.items():
        trained = sum(run.trained for run in runs)
        evaluations = sum(1 for run in runs for _ in run.folder.glob("evals/*/summary.json"))
        link = f'<a href="{quote(name)}/index.html">{html_text(name)}</a>'
        rows += f"<tr><td class=l>{link}</td><td>{len(runs)}</td><td>{trained}</td><td>{evaluations}</td></tr>"
    header = "<tr><th class=l>recipe</th><th>runs</th><th>trained</th><th>evaluations</th></tr>"
    _write_page(out / "index.html", title, "", f"<table>{header}{rows}</table>")


def _write_page(path: Path, title: str, links: str, body: str, *, again: bool = False) -> None:
    head = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    if again:
        head += '<meta http-equiv="refresh" content="15">'
    write_text(path, html_page(title, f"{head}{links}<h1>{html_text(title)}</h1>{body}"))


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
                    model = JudgeSummary.read(folders[0] / "summary.json").model
                    judged[row.label] = read_conversations(folders[0], model, _lines)
            if body := "".join(_conversations(judged)):
                heading = " · ".join(filter(None, (column.title, table.model)))
                yield f"judged-{next(numbers)}.html", (heading, body)


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    return ((f"{path}:{number}", line) for number, line in enumerate(read_jsonl(path), 1))


def _conversations(judged: Mapping[str, Conversations]) -> Iterator[str]:
    questions = {key: question for one in judged.values() for key, question in one.questions.items()}
    if questions:
        yield "<p>The first training seed of each row.</p>"
    for key, question in itertools.islice(questions.items(), MOST_SHOWN):
        texts: list[tuple[str, object]] = []
        for turn, asked in enumerate(question.turns, 1):
            texts.append((f"question, turn {turn}", asked))
            for label, judging in judged.items():
                if own := judging.questions.get(key):
                    given = (
                        (label if model == judging.model else model, turns) for model, turns in own.answers.items()
                    )
                    texts += [(name, turns[turn - 1]) for name, turns in given if len(turns) >= turn]
                    found = own.judgments.get(turn, ())
                    texts += [(f"{one.judge} on {label}", f"{one.verdict}\n{one.text}") for one in found]
        yield _details(f"question {key}: {question.category}", texts)
    if len(questions) > MOST_SHOWN:
        yield f"<p>… and {len(questions) - MOST_SHOWN} more questions; all are in {CONVERSATIONS}.</p>"
