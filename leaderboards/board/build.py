"""``moemix board build``: a folder of files that any web server, or a browser alone, shows.

``index.html``, ``site.js``, ``style.css``   written by hand (``leaderboards/site``); the first rows are in the page
``data/*.js``                                what the page loads: the table first, a submission when it is opened
``records/<id>.json``                        each submission as it is shown, for download
``board.json``, ``board.csv``, ``board.md``  the whole table for programs and for people

Nothing is fetched from elsewhere and nothing runs but ``site.js``: the page's policy forbids it. Whatever a submission
says is text.
"""

from __future__ import annotations

import functools
import html
import http.server
import io
import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import MoemixError
from harness.provenance import now
from harness.recipe_file import parse
from harness.records import MixtureUpdate, RunManifest
from harness.submissions import BoardEntry, Submission
from leaderboards.board.judging import judgings
from leaderboards.board.standings import Standing, Standings
from leaderboards.board.tables import as_csv, as_json, as_markdown
from leaderboards.board.untrusted import read_lines, read_record
from leaderboards.board.verify import Vector

MARKER = ".moemix-site"  # what may be replaced by a newer site
FIRST_ROWS = 50
MAX_POINTS = 200  # of a mixture's drawn trajectory
MAX_SOURCES = 40
_ASSETS = ("site.js", "style.css")


def build_site(boards: Mapping[str, Standings], out: Path) -> None:
    """Write the site of one board, or of several side by side under their names. An older site is replaced as a whole.

    Raises:
        MoemixError: ``out`` holds something else.
    """
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise MoemixError("the folder holds something that is no site of a board", where=str(out),
                          hint="choose another --out, or empty it")  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        if len(boards) == 1:
            _write_board(next(iter(boards.values())), scratch)
        else:
            for name, standings in boards.items():
                _write_board(standings, scratch / name)
            _write(scratch / "index.html", _overview(boards))
            _copy_assets(scratch)
        _write(scratch / MARKER, "made by `moemix board build`\n")
        if out.exists():
            shutil.rmtree(out)
        os.replace(scratch, out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _write_board(standings: Standings, out: Path) -> None:
    entries = standings.entries()
    for folder in ("data/s", "data/t", "records"):
        (out / folder).mkdir(parents=True)
    _copy_assets(out)
    _write(out / "index.html", _page(standings))
    _write(out / "data" / "board.js", _script("board", table_data(standings)))
    for row, entry in enumerate(entries):
        name = entry.submission.submission_id
        _write(out / "records" / f"{name}.json", entry.model_dump_json(indent=1) + "\n")
        data = submission_data(standings, row, entry)
        _write(out / "data" / "s" / f"{name}.js", _script(f"s/{name}", data, record=entry.model_dump_json()))
    for number, standing in enumerate(standings.suites):
        for name, tasks in _task_tables(standing).items():
            _write(out / "data" / "t" / f"{number}-{name}.js", _script(f"t/{number}-{name}", {"tasks": tasks}))
    _write(out / "board.json", as_json(standings, entries))
    _write(out / "board.csv", as_csv(standings, entries))
    _write(out / "board.md", as_markdown(standings))


def table_data(standings: Standings) -> dict[str, Any]:
    """What the table needs, column by column so that it stays small."""
    submissions = [standings.submission(row) for row in range(len(standings.checked))]
    strategies = sorted({s.strategy or "" for s in submissions})
    position = {strategy: i for i, strategy in enumerate(strategies)}
    board = standings.board.board
    return {
        "title": board.title,
        "description": board.description,
        "built": now(),
        "refused": len(standings.refused),
        "strategies": strategies,
        "rows": {
            "id": [s.submission_id for s in submissions],
            "model": [s.model for s in submissions],
            "strategy": [position[s.strategy or ""] for s in submissions],
            "parameters": [s.parameters for s in submissions],
            "seed": [s.seed for s in submissions],
            "created": [s.created[:10] for s in submissions],
        },
        "history": [[row, status, note] for row, (status, note) in enumerate(standings.status) if status != "current"],
        "suites": [_suite_data(standing) for standing in standings.suites],
    }


def _suite_data(standing: Standing) -> dict[str, Any]:
    suite = standing.suite
    return {
        "key": suite.key,
        "main": suite.main if suite.main in standing.shares else next(iter(standing.shares), ""),
        "higher": suite.higher_is_better,
        "results": [[key.task, key.metric, key.filter] for key in standing.keys],
        "clusters": {task: clusters.tolist() for task, clusters in standing.clusters.items()},
        "tasks": {
            name: {
                "questions": task.questions,
                "shots": task.shots,
                "version": task.version,
                "hash": task.question_hash[:12],
            }
            for name, task in suite.tasks.items()
        },
        "columns": [
            {
                "name": name,
                "title": suite.columns[name].title or name,
                "of": list(suite.columns[name].columns),
                "n": sum(suite.tasks[key.task].questions for key in shares),
                "shares": [[standing.keys.index(key), share] for key, share in shares.items()],
            }
            for name, shares in standing.shares.items()
        ],
        "rows": standing.rows,
        "scores": {
            name: {"v": _short(r.values), "h": _short(r.half), "b": r.best.tolist(), "w": r.worst.tolist()}
            for name, r in standing.columns.items()
        },
    }


def _short(values: Any) -> list[float | None]:
    return [round(v, 5) if math.isfinite(v) else None for v in values.tolist()]


def submission_data(standings: Standings, row: int, entry: BoardEntry) -> dict[str, Any]:
    """What a submission's page shows besides its record: score vectors, mixture over time, run."""
    checked = standings.checked[row]
    where = standings.board.path / "submissions" / checked.label
    vectors = {}
    for standing in standings.suites:
        held = {vector.key: vector for vector in checked.vectors.get(standing.suite.key, ())}
        if held:
            vectors[standing.suite.key] = [_vector(held[key]) for key in standing.keys]
    return {
        "vectors": vectors,
        "mixture": _mixture(where) if "mixture.jsonl" in entry.submission.files else None,
        "run": _run(where) if "run.json" in entry.submission.files else None,
        "engine": checked.engines,
        "judged": _judged(entry.submission, where),
    }


def _vector(vector: Vector) -> dict[str, Any]:
    return {"n": vector.n, "bits": vector.bits} if vector.bits else {"n": vector.n, "floats": _short(vector.values)}


def _mixture(folder: Path) -> dict[str, object]:
    """Return the weights from step 0 on, thinned to what a drawing can show."""
    updates = [MixtureUpdate.model_validate(line) for _, line in read_lines(folder / "mixture.jsonl")]
    if not updates:
        return {"names": [], "steps": [], "weights": []}
    names = updates[0].names[:MAX_SOURCES]
    points = [(0, updates[0].before)] + [(update.step, update.after) for update in updates]
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), MAX_POINTS)).astype(int))
    return {
        "names": names,
        "steps": [points[i][0] for i in chosen],
        "weights": [[round(w, 4) for w in points[i][1][: len(names)]] for i in chosen],
    }


def _judged(submission: Submission, where: Path) -> list[dict[str, Any]]:
    """Title, average and categories of each judging."""
    return [
        {
            "bench": bench,
            "title": summary.title,
            "judges": [judge.name for judge in summary.request.judges],
            "scores": [
                [name, score.value, score.stderr, score.n]
                for name, score in (("average", summary.average), *summary.by_category.items())
            ],
        }
        for bench, summary in judgings(submission, where)
    ]


def _run(folder: Path) -> dict[str, object]:
    """Return the options of a run's strategy, its training and its cost."""
    manifest = parse(RunManifest, read_record(folder / "run.json"), where=str(folder / "run.json"))
    training, result = manifest.config.training, manifest.result
    cost = (result.tokens, result.seconds, result.mixing_seconds) if result else (None, None, None)
    return {
        "options": manifest.config.strategy.options,
        "training": training.model_dump(include={"steps", "batch_examples", "max_length", "learning_rate"}),
        "interval": manifest.config.mixing.interval,
        **dict(zip(("tokens", "seconds", "mixing_seconds"), cost, strict=True)),
    }


def _task_tables(standing: Standing) -> dict[str, Any]:
    """Column → the scores of its tasks, of columns computed from several tasks."""
    tables = {}
    for name, shares in standing.shares.items():
        if len(shares) > 1 and standing.rows:
            tables[name] = [
                {"v": _short(task.values), "h": _short(task.half)}
                for task in map(standing.ranking.tasks.get, shares)
                if task
            ]
    return tables


# --- pages ------------------------------------------------------------------------------------------


def _script(name: str, value: dict[str, Any], **encoded: str) -> str:
    """A data file: a call with one JSON object, some parts of it encoded already. No character in it ends a script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    parts = [f"{json.dumps(key)}:{part}" for key, part in encoded.items()]
    text = f"{{{','.join([*parts, text[1:-1]])}}}".replace("<", "\\u003c")
    return f"moemix.take({json.dumps(name)},{text})\n"


def _page(standings: Standings) -> str:
    """The page with the first rows of the newest suite that has some: to read at once, and without scripts."""
    board = standings.board.board
    header, rows = "", ""
    standing = next((s for s in reversed(standings.suites) if s.rows), None)
    if standing is not None:
        titles = [standing.suite.columns[name].title or name for name in standing.columns]
        header = "".join(f"<th>{_text(t)}</th>" for t in ("", "Rank", "Model", "Strategy", "Size", *titles, "Date"))
        rows = "".join(_row(standings, standing, at) for at in standing.order()[:FIRST_ROWS])
    template = _asset("index.html")
    fields = {"title": _text(board.title), "description": _text(board.description), "header": header, "rows": rows}
    for name, value in fields.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


def _row(standings: Standings, standing: Standing, at: int) -> str:
    submission = standings.submission(standing.rows[at])
    ranked = standing.columns[standing.suite.main]
    best, worst = int(ranked.best[at]), int(ranked.worst[at])
    cells = [
        "",
        f"{best}" if best == worst else f"{best}–{worst}",
        f'<a href="#s/{submission.submission_id}">{_text(submission.model)}</a>',
        _text(submission.strategy or "–"),
        _size(submission.parameters),
        *(_score(float(r.values[at]), float(r.half[at])) for r in standing.columns.values()),
        _text(submission.created[:10]),
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _score(value: float, half: float) -> str:
    shown = f"{100 * value:.1f}"
    return f"{shown} <small>± {100 * half:.1f}</small>" if math.isfinite(half) else shown


def _size(parameters: int | None) -> str:
    """As ``site.js`` writes it."""
    if not parameters:
        return "–"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= limit:
            return f"{parameters / limit:.3g}{unit}"
    return str(parameters)


def _overview(boards: Mapping[str, Standings]) -> str:
    links = "".join(
        f'<li><a href="{_text(name)}/index.html">{_text(standings.board.board.title)}</a> '
        f"{sum(status == 'current' for status, _ in standings.status)} submissions</li>"
        for name, standings in boards.items()
    )
    return _asset("boards.html").replace("{{boards}}", links)


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _asset(name: str) -> str:
    return resources.files("leaderboards").joinpath("site", name).read_text(encoding="utf-8")


def _copy_assets(out: Path) -> None:
    for name in _ASSETS:
        _write(out / name, _asset(name))


def _write(path: Path, text: str) -> None:
    """Without fsync: a site is made anew from the board, and renamed into place as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)


# --- looking at a site ------------------------------------------------------------------------------


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serve the files of one folder with the headers that a careful host sends; no listing, no log."""

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: str | os.PathLike[str]) -> io.BytesIO | None:
        self.send_error(404)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


def server(site: Path, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """Return a server of ``site`` that listens and does not answer yet; port 0 takes a free port."""
    return http.server.ThreadingHTTPServer((host, port), functools.partial(_Handler, directory=str(site)))
