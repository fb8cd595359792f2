"""Write a board's submissions in other projects' formats, from recomputed scores.

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
from datetime import datetime
from pathlib import Path

import yaml

from harness.errors import MoemixError
from harness.files import write_json, write_text
from harness.judging import CONVERSATIONS
from harness.records import EvalSummary
from harness.samples import Sample, parse_samples
from harness.schema import parse
from harness.statistics.columns import Key
from leaderboards.board.folder import is_name
from leaderboards.board.judgings import judgings
from leaderboards.board.rescoring import filtered_answer
from leaderboards.board.standings import Standings
from leaderboards.board.submissions import PinnedSuite, Submission
from leaderboards.board.untrusted import FILE_BYTES, read_lines, read_record

EEE_SCHEMA = "0.3.0"
_FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # dataset paths that do not name a hub data set
_Object = dict[str, object]


@dataclass(frozen=True)
class Evaluated:
    """A current submission on one suite version.

    Attributes:
        folder: of the evaluation.
        scores: result → mean and standard error.
    """

    submission: Submission
    suite: PinnedSuite
    folder: Path
    scores: Mapping[Key, tuple[float, float]]

    @property
    def summary(self) -> EvalSummary:
        """The evaluation's summary."""
        path = self.folder / "summary.json"
        return parse(EvalSummary, read_record(path), where=str(path))

    def hub_dataset(self, task: str) -> str | None:
        """Return the hub data set of a task's questions, or None if they come from elsewhere."""
        path = self.suite.tasks[task].dataset
        return None if not path or path in _FILE_FORMATS or path.startswith(("moemix/", "/", ".")) else path


def evaluated(standings: Standings) -> Iterator[Evaluated]:
    """Yield every current submission on every suite version that it was evaluated on."""
    for standing in standings.suites:
        for at, row in enumerate(standing.rows):
            folder = standings.folder(row) / "evals" / standing.suite.key
            tasks = standing.ranking.tasks.items()
            scores = {key: (float(task.values[at]), float(task.se[at])) for key, task in tasks}
            yield Evaluated(standings.submission(row), standing.suite, folder, scores)


def export(standings: Standings, style: str, out: Path, developer: str) -> int:
    """Write the files of a format and return the number of records.

    Raises:
        MoemixError: the developer's name cannot be the name of a folder.
    """
    if not is_name(developer):
        raise MoemixError("use only letters, digits and ._+-", where=f"--developer {developer}")
    if style == "every-eval-ever":
        return every_eval_ever(standings, out, developer)
    return (eval_results if style == "eval-results" else fastchat)(standings, out)


# --- Every Eval Ever ----------------------------------------------------------------------------------


def every_eval_ever(standings: Standings, out: Path, developer: str) -> int:
    """Write a record and its samples for each submission and suite; return how many."""
    count = 0
    for one in evaluated(standings):
        submission, key = one.submission, one.suite.key
        digest = hashlib.sha256(f"{submission.submission_id} {key}".encode()).digest()
        base = f"data/{one.suite.name}/{developer}/{submission.model}/{uuid.UUID(bytes=digest[:16], version=4)}"
        ids = {"schema_version": EEE_SCHEMA,
               "evaluation_id": f"{key}/{developer}/{submission.model}/{submission.submission_id}"}  # fmt: skip
        samples = [ids | {"model_id": f"{developer}/{submission.model}"} | line for line in _eee_samples(one)]
        text = "".join(map(_json_line, samples))
        detailed = {
            "format": "jsonl", "file_path": f"{base}_samples.jsonl", "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(), "total_rows": len(samples),
        }  # fmt: skip
        record = ids | _eee_record(one, developer) | {"detailed_evaluation_results": detailed}
        write_text(out / f"{base}_samples.jsonl", text)
        write_json(out / f"{base}.json", record)
        count += 1
    return count


def _eee_record(one: Evaluated, developer: str) -> _Object:
    submission, summary = one.submission, one.summary
    details = {
        "checkpoint_sha256": submission.checkpoint_hash,
        "licence": submission.licence,
        "mixing_strategy": submission.strategy or "",
        "parameters": str(submission.parameters or ""),
        "deployment_type": "self_deployed",
        "model_availability": "open_weights" if "weights" in submission.links else "unknown",
    }
    return {
        "evaluation_timestamp": summary.provenance.created,
        "retrieved_timestamp": _seconds_since_1970(submission.created),
        "source_metadata": {
            "source_name": f"moemix board {one.suite.key}", "source_type": "evaluation_run",
            "source_organization_name": developer, "evaluator_relationship": "first_party",
        },
        "eval_library": {"name": "lm_eval", "version": summary.provenance.versions.get("lm_eval", "unknown")},
        "model_info": {
            "name": submission.model, "id": f"{developer}/{submission.model}", "developer": developer,
            "inference_engine": {
                "name": str(summary.engine.get("name", summary.request.engine)),
                "version": str(summary.engine.get("version") or "unknown"),
            },
            "additional_details": {key: value for key, value in details.items() if value},
        },
        "evaluation_results": [_eee_result(one, key) for key in one.scores],
    }  # fmt: skip


def _eee_result(one: Evaluated, key: Key) -> _Object:
    value, error = one.scores[key]
    pinned, hub = one.suite.tasks[key.task], one.hub_dataset(key.task)
    source: _Object = {"dataset_name": pinned.dataset or key.task, "source_type": "hf_dataset" if hub else "other"}
    if hub:
        source |= {"hf_repo": hub, "samples_number": pinned.questions}
        source |= {"hf_split": pinned.split} if pinned.split else {}
    bounded = 0.0 <= value <= 1.0
    uncertainty: _Object = {"num_samples": pinned.questions}
    if math.isfinite(error):
        uncertainty["standard_error"] = {"value": error, "method": "analytic"}
    return {
        "evaluation_result_id": _result_id(key),
        "evaluation_name": key.task,
        "source_data": source,
        "metric_config": {
            "metric_id": key.metric, "metric_name": _metric_name(key),
            "metric_unit": "proportion" if bounded else "points",
            "lower_is_better": not one.suite.higher_is_better, "score_type": "continuous",
            "min_score": 0.0 if bounded else "-Infinity", "max_score": 1.0 if bounded else "Infinity",
            "additional_details": {"shots": str(pinned.shots), "task_version": pinned.version},
        },
        "score_details": {"score": value, "uncertainty": uncertainty},
    }  # fmt: skip


def _metric_name(key: Key) -> str:
    return key.metric if key.filter == "none" else f"{key.metric} ({key.filter})"


def _result_id(key: Key) -> str:
    return f"{key.task}/{key.metric}/{key.filter}"


def _eee_samples(one: Evaluated) -> Iterator[_Object]:
    for task in one.suite.tasks:
        keys = [key for key in one.scores if key.task == task]
        for sample in parse_samples(read_lines(one.folder / f"samples_{task}.jsonl")):
            yield from (_eee_sample(key, sample) for key in keys if key.filter == sample.filter)


def _eee_sample(key: Key, sample: Sample) -> _Object:
    responses, target, prompt = sample.responses, str(sample.target), str(sample.requests[0][0])
    assert isinstance(responses, list)  # the submission was verified
    answer, choices = sample.chosen, sample.choices
    raw = [answer] if answer is not None else [str(text) for text in responses[0]]
    if answer is None:
        answer, choices = filtered_answer(sample), []
    score = sample.score(key.metric)
    return {
        "evaluation_name": key.task,
        "evaluation_result_id": _result_id(key),
        "sample_id": str(sample.doc_id),
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


def _seconds_since_1970(timestamp: str) -> str:
    try:
        return str(datetime.fromisoformat(timestamp).timestamp())
    except ValueError:
        raise MoemixError(f"`created` is not an ISO 8601 timestamp: {timestamp[:40]!r}") from None


# --- the hub's .eval_results ----------------------------------------------------------------------------


def eval_results(standings: Standings, out: Path) -> int:
    """Write ``.eval_results`` YAML for each submission and suite with a task from a hub data set; return how many."""
    count = 0
    for one in evaluated(standings):
        entries = [_hub_entry(one, key, hub) for key in one.scores if (hub := one.hub_dataset(key.task))]
        if entries:
            folder = out / f"{one.submission.model}-{one.submission.submission_id}" / ".eval_results"
            text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
            write_text(folder / f"{one.suite.name}-{one.suite.version}.yaml", text)
            count += 1
    return count


def _hub_entry(one: Evaluated, key: Key, hub: str) -> _Object:
    pinned = one.suite.tasks[key.task]
    value, error = one.scores[key]
    note = f"{_metric_name(key)}, {pinned.shots}-shot"
    note += f", ± {error:.4f} (standard error of {pinned.questions} questions)" if math.isfinite(error) else ""
    return {
        "dataset": {"id": hub, "task_id": key.task},
        "value": round(value, 6),
        "date": one.summary.provenance.created,
        "notes": f"{note}; lm-eval task version {pinned.version}; moemix board {one.suite.key}",
    }


# --- FastChat ---------------------------------------------------------------------------------------------


def fastchat(standings: Standings, out: Path) -> int:
    """Write the answers and judgments of every judged submission, as FastChat's tools read them; return how many."""
    judgments: dict[Path, list[str]] = {}
    count = 0
    for row, (status, _) in enumerate(standings.status):
        if status != "current":
            continue
        submission = standings.submission(row)
        name = f"{submission.model}-{submission.submission_id}"
        for bench, summary in judgings(submission, standings.folder(row)):
            source, target = standings.folder(row) / "judge" / bench, out / "data" / bench
            if answers := [*_answers(source, summary.model)]:
                lines = [_json_line({**line, "model_id": name}) for line in answers]
                write_text(target / "model_answer" / f"{name}.jsonl", "".join(lines))
                count += 1
            for path in sorted(source.glob("judgments-*.jsonl")):
                judge = path.stem.removeprefix("judgments-")
                for _, line in read_lines(path, FILE_BYTES):
                    # the other side of a pair, and other models that were judged beside it, keep their names
                    own = [key for key in ("model", "model_1", "model_2") if line.get(key) == summary.model]
                    kind = "pair" if "g1_winner" in line else "single"
                    renamed = {**line, **dict.fromkeys(own, name)}
                    if own:
                        file = target / "model_judgment" / f"{judge}_{kind}.jsonl"
                        judgments.setdefault(file, []).append(_json_line(renamed))
    for file, lines in judgments.items():
        write_text(file, "".join(lines))
    return count


def _answers(judging: Path, model: str) -> Iterator[Mapping[str, object]]:
    """Yield a model's answers in FastChat's form: those of a checkpoint, or those that somebody gave."""
    if (judging / "answers.jsonl").is_file():
        yield from (line for _, line in read_lines(judging / "answers.jsonl", FILE_BYTES))
    elif (judging / CONVERSATIONS).is_file():
        for _, line in read_lines(judging / CONVERSATIONS, FILE_BYTES):
            answers = line.get("answers")
            if isinstance(answers, dict) and model in answers:
                yield {"question_id": line.get("question_id"), "choices": [{"index": 0, "turns": answers[model]}]}


def _json_line(line: Mapping[str, object]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
