"""Compute the data of the site's pages: every number, interval and verdict. The pages only sort, filter and draw."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from harness.provenance import now
from harness.records import RunManifest
from harness.schema import parse
from harness.statistics.ranking import Scores
from leaderboards.board.pairs import has_pair_pages, shortened
from leaderboards.board.reading import PAGE, conversation_rows, has_sample_pages
from leaderboards.board.standings import Standing, Standings, badges, day
from leaderboards.board.strategies import strategy_data
from leaderboards.board.submissions import BoardEntry, Submission
from leaderboards.board.untrusted import read_lines, read_record

MAX_POINTS = 200  # of the drawn line of a mixture weight
MAX_SOURCES = 40
Data = dict[str, object]


def table_data(standings: Standings) -> Data:
    """Return what the table needs, column by column so that it stays small."""
    submissions = [standings.submission(row) for row in range(len(standings.checked))]
    strategies = sorted({s.strategy or "" for s in submissions})
    position = {strategy: i for i, strategy in enumerate(strategies)}
    board = standings.board.board
    return {
        "title": board.title,
        "description": board.description,
        "repository": board.repository,
        "licence": board.licence,
        "page": PAGE,
        "refused": len(standings.refused),
        "strategies": strategies,
        "rows": {
            "id": [s.submission_id for s in submissions],
            "model": [s.model for s in submissions],
            "strategy": [position[s.strategy or ""] for s in submissions],
            "parameters": [s.parameters for s in submissions],
            "active": [s.active_parameters for s in submissions],
            "seed": [s.seed for s in submissions],
            "badges": [list(badges(one)) for one in standings.checked],
            "licence": [s.licence for s in submissions],
            "date": [day(one) for one in standings.checked],
        },
        "history": [[row, status, note] for row, (status, note) in enumerate(standings.status) if status != "current"],
        "suites": [
            _suite_data(standing) | {"models": list(strategy_data(standings, standing))}
            for standing in standings.suites
        ],
        "sizes": _size_axis(submissions),
        "judged": conversation_rows(standings),
        "built": now(),
    }


def _size_axis(submissions: Sequence[Submission]) -> Data:
    """Return where sizes stand on a logarithmic axis from 0 to 1: those of the submissions, and a few round ones."""
    known = {size for one in submissions if (size := one.active_parameters or one.parameters)}
    if not known:
        return {"places": {}, "ticks": []}
    low, high = math.log10(min(known)) - 0.1, math.log10(max(known)) + 0.1
    place = {size: round((math.log10(size) - low) / (high - low), 4) for size in known}
    for steps in ((1, 2, 5), (1,)):
        round_ones = [step * 10**power for power in range(1, 16) for step in steps]
        ticks = [(size, round((math.log10(size) - low) / (high - low), 4)) for size in round_ones]
        ticks = [(size, at) for size, at in ticks if 0 <= at <= 1]
        if len(ticks) <= 6:
            break
    return {"places": place, "ticks": ticks or [(size, place[size]) for size in {min(known), max(known)}]}


def _suite_data(standing: Standing) -> Data:
    suite, columns = standing.suite, standing.shares
    return {
        "key": suite.key,
        "main": suite.main if suite.main in columns else next(iter(columns), ""),
        "higher": suite.higher_is_better,
        "results": [[key.task, key.metric, key.filter] for key in standing.keys],
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
                "title": standing.title(name),
                "shares": [[standing.keys.index(key), share] for key, share in shares.items()],
            }
            for name, shares in columns.items()
        ],
        "rows": standing.rows,
        "pairs": has_pair_pages(standing),
        "samples": has_sample_pages(standing),
        "scores": {
            name: {
                **_score_data(column),
                "b": column.best.tolist(),
                "w": column.worst.tolist(),
                "r": standing.as_recorded(name),
            }
            for name, column in standing.columns.items()
        },
    }


def _score_data(scores: Scores) -> Data:
    """Return scores and what stands after the ±: half the width of the 95 % intervals."""
    return {"v": shortened(scores.values), "h": shortened(scores.half)}


def task_data(standing: Standing) -> Iterator[tuple[str, Data]]:
    """Yield, for each column that is computed from several tasks, the scores of its tasks."""
    for name in standing.columns:
        shares = standing.shares[name]
        if len(shares) > 1:
            yield name, {"tasks": [_score_data(standing.ranking.tasks[key]) | {"r": standing.unconfirmed.get(key, [])}
                                   for key in shares]}  # fmt: skip


def submission_data(
    standings: Standings, row: int, entry: BoardEntry, positions: dict[str, int], pages: dict[str, int]
) -> Data:
    """Return what the page of the submission ``standings.checked[row]`` and its comparisons show besides its record.

    ``positions`` has the position of each suite key in that suite's ranking, ``pages`` the number of pages of judged
    conversations of each bench.
    """
    folder, files = standings.folder(row), entry.submission.files
    columns = {standing.suite.key: standing.columns for standing in standings.suites}
    tasks = {standing.suite.key: standing.ranking.tasks.values() for standing in standings.suites}
    return {
        "beats": {
            key: {name: base64.b64encode(column.beats[at].tobytes()).decode() for name, column in columns[key].items()}
            for key, at in positions.items()
        },
        "mixture": _mixture(folder) if "mixture.jsonl" in files else None,
        "run": _run(folder) if "run.json" in files else None,
        "engine": standings.checked[row].engines,
        "judged": [
            judging.model_dump() | {"bench": bench, "pages": pages.get(bench, 0)}
            for bench, judging in standings.checked[row].judged.items()
        ],
        "tasks": {
            key: {
                "v": shortened(np.array([one.values[at] for one in tasks[key]])),
                "l": shortened(np.array([one.lower[at] for one in tasks[key]])),
                "u": shortened(np.array([one.upper[at] for one in tasks[key]])),
            }
            for key, at in positions.items()
        },
    }


def _mixture(folder: Path) -> Data:
    """Return the weights from step 0 on, thinned to what a drawing can show; the checks have validated the lines."""
    lines = cast("list[dict[str, list[float]]]", [line for _, line in read_lines(folder / "mixture.jsonl")])
    if not lines:
        return {"names": [], "steps": [], "weights": []}
    names = lines[0]["names"][:MAX_SOURCES]
    points = [(0, lines[0]["before"]), *((line["step"], line["after"]) for line in lines)]
    chosen = sorted({round(at) for at in np.linspace(0, len(points) - 1, min(len(points), MAX_POINTS)).tolist()})
    return {
        "names": names,
        "steps": [points[i][0] for i in chosen],
        "weights": [[round(w, 4) for w in points[i][1][: len(names)]] for i in chosen],
    }


def _run(folder: Path) -> Data:
    """Return the options of a run's strategy, its training and its cost."""
    manifest = parse(RunManifest, read_record(folder / "run.json"), where=str(folder / "run.json"))
    config, result = manifest.config, manifest.result
    return {
        "options": config.strategy.options,
        "training": config.training.model_dump(include={"steps", "batch_examples", "max_length", "learning_rate"}),
        "interval": config.mixing.interval,
        "cost": result.model_dump(include={"tokens", "seconds", "mixing_seconds"}) if result else None,
    }
