"""A board's submissions in other projects' formats, from recomputed scores.

``every-eval-ever``  ``data/<suite>/<developer>/<model>/<uuid>.json`` with ``<uuid>_samples.jsonl`` (EvalEval's schema)
``eval-results``     ``<model>-<id>/.eval_results/<suite>.yaml``, to be put into the model's repository on the hub
``fastchat``         ``data/<bench>/model_answer/<model>.jsonl`` and ``model_judgment/<judge>_{single,pair}.jsonl``
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import MoemixError
from harness.files import write_json, write_text
from harness.records import EvalSummary
from harness.statistics.columns import Key
from harness.submissions import PinnedSuite, Submission
from leaderboards.board.rescoring import filtered_answer
from leaderboards.board.standings import Standing, Standings
from leaderboards.board.untrusted import FILE_BYTES, read_lines, read_record

EEE_SCHEMA = "0.3.0"
_LOADERS = ("json", "csv", "parquet", "text", "arrow")  # dataset paths that name a file format and no data set


@dataclass(frozen=True)
class Evaluated:
    """A current submission on one suite version.

    Attributes:
        scores: result → mean, standard error.
    """

    submission: Submission
    suite: PinnedSuite
    folder: Path
    scores: Mapping[Key, tuple[float, float]]

    @property
    def summary(self) -> EvalSummary:
        return EvalSummary.model_validate(read_record(self.folder / "summary.json"))

    def hub(self, task: str) -> str | None:
        """The hub data set of a task's questions; None where they are from elsewhere."""
        path = self.suite.tasks[task].dataset
        return None if not path or path in _LOADERS or path.startswith(("moemix/", "/", ".")) else path


def evaluated(standings: Standings) -> Iterator[Evaluated]:
    """Every current submission on every suite version that it was evaluated on."""
    for standing in standings.suites:
        for at, row in enumerate(standing.rows):
            where = standings.board.path / "submissions" / standings.checked[row].label
            scores = {key: _score(standing, key, at) for key in standing.keys}
            folder = where / "evals" / standing.suite.key
            yield Evaluated(standings.submission(row), standing.suite, folder, scores)


def _score(standing: Standing, key: Key, at: int) -> tuple[float, float]:
    scores = standing.ranking.tasks[key]
    return float(scores.values[at]), float(scores.se[at])


# --- Every Eval Ever ----------------------------------------------------------------------------------


def every_eval_ever(standings: Standings, out: Path, developer: str) -> int:
    """Write an aggregate record and its samples for each submission and suite; how many."""
    count = 0
    for one in evaluated(standings):
        submission = one.submission
        name = uuid.UUID(bytes=hashlib.sha256(f"{submission.submission_id} {one.suite.key}".encode()).digest()[:16],
                         version=4)  # fmt: skip
        folder = f"data/{one.suite.name}/{developer}/{submission.model}"
        samples = [line for task in one.suite.tasks for line in _eee_samples(one, task, developer)]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in samples)
        record = _eee_record(one, developer)
        record["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": f"{folder}/{name}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(samples),
        }
        write_text(out / folder / f"{name}_samples.jsonl", text)
        write_json(out / folder / f"{name}.json", record)
        count += 1
    return count


def _eee_id(one: Evaluated, developer: str) -> str:
    return f"{one.suite.key}/{developer}/{one.submission.model}/{one.submission.submission_id}"


def _eee_record(one: Evaluated, developer: str) -> dict[str, Any]:
    submission, summary = one.submission, one.summary
    made = summary.provenance
    details = {
        "checkpoint_sha256": submission.checkpoint_hash,
        "licence": submission.licence,
        "mixing_strategy": submission.strategy or "",
        "parameters": str(submission.parameters or ""),
        "deployment_type": "self_deployed",
        "model_availability": "open_weights" if "weights" in submission.links else "unknown",
    }
    return {
        "schema_version": EEE_SCHEMA,
        "evaluation_id": _eee_id(one, developer),
        "evaluation_timestamp": made.created,
        "retrieved_timestamp": _epoch(submission.created),
        "source_metadata": {
            "source_name": f"moemix board {one.suite.key}",
            "source_type": "evaluation_run",
            "source_organization_name": developer,
            "evaluator_relationship": "first_party",
        },
        "eval_library": {"name": "lm_eval", "version": made.versions.get("lm_eval", "unknown")},
        "model_info": {
            "name": submission.model,
            "id": f"{developer}/{submission.model}",
            "developer": developer,
            "inference_engine": {
                "name": str(summary.engine.get("name", summary.request.engine)),
                "version": str(summary.engine.get("version") or "unknown"),
            },
            "additional_details": {key: value for key, value in details.items() if value},
        },
        "evaluation_results": [_eee_result(one, key) for key in one.scores],
    }


def _eee_result(one: Evaluated, key: Key) -> dict[str, Any]:
    value, error = one.scores[key]
    pinned = one.suite.tasks[key.task]
    hub = one.hub(key.task)
    source: dict[str, Any] = {
        "dataset_name": pinned.dataset or key.task,
        "source_type": "hf_dataset" if hub else "other",
    }
    if hub:
        source |= {"hf_repo": hub, "samples_number": pinned.questions}
        source |= {"hf_split": pinned.split} if pinned.split else {}
    bounded = 0.0 <= value <= 1.0
    uncertainty: dict[str, Any] = {"num_samples": pinned.questions}
    if math.isfinite(error):
        uncertainty["standard_error"] = {"value": error, "method": "analytic"}
    return {
        "evaluation_result_id": _eee_result_id(key),
        "evaluation_name": key.task,
        "source_data": source,
        "metric_config": {
            "metric_id": key.metric,
            "metric_name": key.metric if key.filter == "none" else f"{key.metric} ({key.filter})",
            "metric_unit": "proportion" if bounded else "points",
            "lower_is_better": not one.suite.higher_is_better,
            "score_type": "continuous",
            "min_score": 0.0 if bounded else "-Infinity",
            "max_score": 1.0 if bounded else "Infinity",
            "additional_details": {"shots": str(pinned.shots), "task_version": pinned.version},
        },
        "score_details": {"score": value, "uncertainty": uncertainty},
    }


def _eee_result_id(key: Key) -> str:
    return f"{key.task}/{key.metric}/{key.filter}"


def _eee_samples(one: Evaluated, task: str, developer: str) -> Iterator[dict[str, Any]]:
    keys = [key for key in one.scores if key.task == task]
    for _, sample in read_lines(one.folder / f"samples_{task}.jsonl"):
        for key in keys:
            if key.filter != sample["filter"]:
                continue
            requests = list(sample["arguments"].values())
            choices = [str(request.get("arg_1", "")) for request in requests] if len(requests) > 1 else None
            prompt, target = str(requests[0]["arg_0"]), str(sample["target"])
            answer = _chosen(sample, choices) if choices else filtered_answer(sample)
            raw = [answer] if choices else [str(text) for text in sample["resps"][0]]
            score = float(sample[key.metric])
            yield {
                "schema_version": EEE_SCHEMA,
                "evaluation_id": _eee_id(one, developer),
                "model_id": f"{developer}/{one.submission.model}",
                "evaluation_name": task,
                "evaluation_result_id": _eee_result_id(key),
                "sample_id": str(sample["doc_id"]),
                "sample_hash": hashlib.sha256((prompt + target).encode("utf-8", "backslashreplace")).hexdigest(),
                "interaction_type": "single_turn",
                "input": {"raw": prompt, "reference": [target]} | ({"choices": choices} if choices else {}),
                "output": {"raw": raw},
                "answer_attribution": [
                    {"turn_idx": 0, "source": "output.raw", "extracted_value": answer,
                     "extraction_method": "log-likelihood" if choices else key.filter, "is_terminal": True}
                ],
                "evaluation": {"score": score, "is_correct": score >= 1.0},
            }  # fmt: skip


def _chosen(sample: Mapping[str, Any], choices: list[str]) -> str:
    """The likeliest choice."""
    values = [float(reply[0][0]) for reply in sample["resps"]]
    return choices[max(range(len(values)), key=values.__getitem__)]


def _epoch(moment: str) -> str:
    from datetime import datetime

    try:
        return str(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        raise MoemixError(f"`created` is no moment: {moment[:40]!r}") from None


# --- the hub's .eval_results ----------------------------------------------------------------------------


def eval_results(standings: Standings, out: Path) -> int:
    """Write ``.eval_results`` YAML for each submission and suite with a task from a hub data set; how many."""
    count = 0
    for one in evaluated(standings):
        entries = [entry for key in one.scores if (entry := _hub_entry(one, key))]
        if entries:
            folder = out / f"{one.submission.model}-{one.submission.submission_id}" / ".eval_results"
            text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
            write_text(folder / f"{one.suite.name}-{one.suite.version}.yaml", text)
            count += 1
    return count


def _hub_entry(one: Evaluated, key: Key) -> dict[str, Any] | None:
    hub = one.hub(key.task)
    if hub is None:
        return None
    pinned = one.suite.tasks[key.task]
    value, error = one.scores[key]
    said = f"{key.metric}{'' if key.filter == 'none' else f' ({key.filter})'}, {pinned.shots}-shot"
    said += f", ± {error:.4f} (standard error of {pinned.questions} questions)" if math.isfinite(error) else ""
    return {
        "dataset": {"id": hub, "task_id": key.task},
        "value": round(value, 6),
        "date": one.summary.provenance.created,
        "notes": f"{said}; lm-eval task version {pinned.version}; moemix board {one.suite.key}",
    }


# --- FastChat ---------------------------------------------------------------------------------------------


def fastchat(standings: Standings, out: Path) -> int:
    """Write the answers and judgments of every submission that has some, as FastChat's tools read them; how many."""
    judgments: dict[Path, list[str]] = {}
    count = 0
    for row, checked in enumerate(standings.checked):
        submission = standings.submission(row)
        if standings.status[row][0] != "current":
            continue
        where = standings.board.path / "submissions" / checked.label
        paths = [Path(path) for path in sorted(submission.files) if path.startswith("judge/")]
        name = f"{submission.model}-{submission.submission_id}"
        for path in paths:
            bench = path.parts[1]
            if path.name == "answers.jsonl":
                lines = [_dumped({**line, "model_id": name}) for _, line in read_lines(where / path, FILE_BYTES)]
                write_text(out / "data" / bench / "model_answer" / f"{name}.jsonl", "".join(lines))
                count += 1
            elif path.name.startswith("judgments-"):
                judge = path.stem.removeprefix("judgments-")
                for _, line in read_lines(where / path, FILE_BYTES):
                    pair = "g1_winner" in line or "winner" in line
                    file = out / "data" / bench / "model_judgment" / f"{judge}_{'pair' if pair else 'single'}.jsonl"
                    judgments.setdefault(file, []).append(_dumped(_renamed(line, name)))
    for file, lines in judgments.items():
        write_text(file, "".join(lines))
    return count


def _renamed(line: dict[str, Any], name: str) -> dict[str, Any]:
    """A judgment under the submission's name; the other side of a pair keeps its own."""
    return {**line, "model_1": name} if "model_1" in line else {**line, "model": name}


def _dumped(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
