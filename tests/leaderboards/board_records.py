"""Boards and submissions made from nothing: evaluations in lm-eval's format, with responses that earn their scores.

Three tasks stand for the ways of scoring: ``pick`` (multiple choice by log-likelihood), ``count`` (exact match after a
regular expression) and ``run`` (a program with its test, so not to be recomputed from text).
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.files import hash_file, hash_value
from harness.records import Column, EvalRequest, EvalResult, EvalSummary, MixtureUpdate, Provenance
from leaderboards.board.folder import BoardFolder, SubmissionFolder
from leaderboards.board.pins import pin
from leaderboards.board.submissions import Board, FileEntry, Submission

PROVENANCE = Provenance(
    git_sha="0" * 40,
    git_dirty=False,
    versions={"moemix": "0.1.0", "lm_eval": "0.4.13"},
    python="3.11",
    platform="test",
    processor="test",
    cpu_count=2,
    created="2026-01-01T00:00:00+00:00",
)
FILTERS = {"pick": "none", "count": "answer", "run": "none"}
METRICS = {"pick": "acc", "count": "exact_match", "run": "pass_at_1"}
CONFIGS: dict[str, dict[str, Any]] = {
    "pick": {"dataset_path": "allenai/ai2_arc", "test_split": "test",
             "output_type": "multiple_choice", "target_delimiter": " ", "metric_list": [{"metric": "acc"}]},
    "count": {
        "dataset_path": "json",
        "output_type": "generate_until",
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "aggregation": "mean"}],
        "filter_list": [
            {"name": "answer", "filter": [{"function": "regex", "regex_pattern": r"#### (-?\d+)"},
                                          {"function": "take_first"}]}
        ],
    },
    "run": {"dataset_path": "moemix/quickstart",
            "output_type": "generate_until", "process_results": "def passes(doc, results): ...",
            "metric_list": [{"metric": "pass_at_1"}]},
}  # fmt: skip

SIZES = {"pick": 40, "count": 30, "run": 20}  # questions by task, of a board to be tampered with


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def questions(sizes: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Task → what is the same in every submission's samples."""
    found: dict[str, list[dict[str, Any]]] = {}
    for task, count in sizes.items():
        held = found.setdefault(task, [])
        for i in range(count):
            target = {"pick": str(i % 4), "count": str(7 * i), "run": f"assert f(1) == {7 * i}"}[task]
            doc = {"prompt": f"question {i} of {task}: how many?", "answer": target}
            prompt = f"Question: {doc['prompt']}\nAnswer:"
            options = {"until": ["\n"], "do_sample": False}
            requests = [(prompt, f" choice {k}") for k in range(4)] if task == "pick" else [(prompt, options)]
            held.append(
                {
                    "doc_id": i,
                    "doc": doc,
                    "target": target,
                    "arguments": {f"gen_args_{k}": {"arg_0": a, "arg_1": b} for k, (a, b) in enumerate(requests)},
                    "filter": FILTERS[task],
                    "metrics": [METRICS[task]],
                    "doc_hash": digest(json.dumps(doc, indent=2, ensure_ascii=False)),
                    "prompt_hash": digest(prompt),
                    "target_hash": digest(target),
                }
            )
    return found


def answered(question: Mapping[str, Any], right: bool, rng: np.random.Generator) -> dict[str, Any]:
    """A sample: the question with a response that is right or not, and its score."""
    task, i = question["metrics"][0], question["doc_id"]
    if task == "acc":
        values = [-2.0 - float(v) for v in np.round(rng.random(4), 4)]
        best = int(question["target"]) if right else (int(question["target"]) + 1 + int(rng.integers(3))) % 4
        values[best] = -1.0 - round(float(rng.random()), 4)
        pairs = [[str(value), "False"] for value in values]
        return {**question, "resps": [[pair] for pair in pairs], "filtered_resps": pairs, "acc": float(right)}
    if task == "exact_match":
        number = question["target"] if right else str(7 * i + 1 + int(rng.integers(5)))
        text = f"{rng.integers(100)} and {rng.integers(100)} make\n#### {number}"
        return {**question, "resps": [[text]], "filtered_resps": [number], "exact_match": float(right)}
    total = 7 * i if right else 7 * i + 1 + int(rng.integers(5))
    text = f"def f(x): return {total} * x  # {rng.integers(1000)}"
    return {**question, "resps": [[text]], "filtered_resps": [text], "pass_at_1": float(right)}


def write_evaluation(
    folder: Path,
    asked: Mapping[str, list[dict[str, Any]]],
    *,
    ability: float = 0.5,
    seed: int = 0,
    checkpoint_hash: str = "c" * 64,
) -> Path:
    """An evaluation folder as ``moemix eval`` leaves it: results.json, samples, summary.json."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    results = []
    for task, held in asked.items():
        hard = np.random.default_rng(9).random(len(held))  # the same questions are hard for everybody
        chances = 1 / (1 + np.exp(-6 * (ability - hard)))
        samples = [answered(q, bool(rng.random() < p), rng) for q, p in zip(held, chances, strict=True)]
        lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        (folder / f"samples_{task}.jsonl").write_text(lines, encoding="utf-8")
        scores = np.array([sample[METRICS[task]] for sample in samples])
        requests = [[[r["arg_0"], r["arg_1"]] for r in sample["arguments"].values()] for sample in samples]
        results.append(
            EvalResult(
                task=task,
                metric=METRICS[task],
                filter=FILTERS[task],
                value=float(scores.mean()),
                stderr=float(scores.std(ddof=1) / math.sqrt(len(scores))),
                n=len(scores),
                shots=0,
                task_version="1.0",
                prompt_hash=hash_value(requests),
            )
        )
    columns = {
        r.task: Column(value=r.value, stderr=r.stderr, n=r.n, tasks=(r.task,), metric=r.metric, filter=r.filter,
                       title=r.task.title())
        for r in results
    }  # fmt: skip
    columns["average"] = Column(
        value=float(np.mean([r.value for r in results])),
        stderr=math.sqrt(sum((r.stderr or 0.0) ** 2 for r in results)) / len(results),
        n=sum(r.n for r in results),
        columns=tuple(asked),
        title="Avg",
    )
    EvalSummary(
        request=EvalRequest(suite="made", suite_hash="5" * 64, engine="transformers"),
        checkpoint="checkpoint",
        checkpoint_hash=checkpoint_hash,
        engine={"name": "transformers", "version": "5.19.0", "dtype": "float32", "args": {}},
        results=tuple(results),
        columns=columns,
        seconds=1.0,
        provenance=PROVENANCE,
    ).write(folder / "summary.json")
    (folder / "results.json").write_text(json.dumps({"configs": {t: CONFIGS[t] for t in asked}, "chat_template": None}))
    return folder


def make_board(path: Path, sizes: Mapping[str, int]) -> tuple[BoardFolder, dict[str, list[dict[str, Any]]]]:
    """A board that pins the made suite, and its questions."""
    asked = questions(sizes)
    suite = pin(write_evaluation(path.parent / f"{path.name}-pinned", asked, seed=10**6))
    return BoardFolder.create(path, Board(name="board", title="A board", suites=(suite,))), asked


def write_submission(
    board: BoardFolder,
    asked: Mapping[str, list[dict[str, Any]]],
    model: str,
    *,
    ability: float = 0.5,
    seed: int = 0,
    updates: int = 3,
    draw: int | None = None,
    **stated: Any,
) -> SubmissionFolder:
    """A submission in a board's folder, without the syncing of real ones. ``draw`` seeds its answers, else ``seed``."""
    scratch = board.path / "submissions" / model / "new"
    fingerprint = digest(f"{model} {seed}")
    write_evaluation(scratch / "evals" / "made@1", asked, ability=ability, seed=seed if draw is None else draw,
                     checkpoint_hash=fingerprint)  # fmt: skip
    names, third = ("chat", "code", "math"), (1 / 3, 1 / 3, 1 / 3)
    rng = np.random.default_rng(seed)
    with open(scratch / "mixture.jsonl", "w") as file:
        for number in range(1, updates + 1):
            after = tuple(float(w) for w in rng.dirichlet(np.ones(3)))
            update = MixtureUpdate(step=10 * number, names=names, before=third, after=after, requested=third,
                                   realised_examples=(1, 1, 1), realised_tokens=(9, 9, 9))  # fmt: skip
            file.write(json.dumps(update.model_dump(mode="json")) + "\n")
            third = after
    return seal(board, scratch, model, checkpoint_hash=fingerprint, seed=seed, **stated)


VERDICTS = ((81, 1, 8), (81, 1, 6), (81, 2, 4), (82, 1, 9), (82, 2, None))


def write_judging(where, verdicts=VERDICTS, text: str = "", **changes: Any) -> None:
    """A judging of ``tiny``: question, turn and score of each judgment, by default one turn twice and one without."""
    folder = where.path / "judge" / "mt_bench"
    folder.mkdir(parents=True)
    lines = [
        {"question_id": q, "turn": turn, "model": "tiny", "judge": ["j", "single-v1"], "score": -1 if s is None else s,
         "reason": "no_verdict" if s is None else None, "judgment": f"[[{s}]] {text}".strip(), "category": "writing"}
        for q, turn, s in verdicts
    ]  # fmt: skip
    (folder / "judgments-j.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = [
        {"question_id": q, "category": "writing", "turns": [f"ask {q}", f"more {q}"],
         "answers": {"tiny": [f"say {q} {text}", f"add {q}"]}}
        for q in dict.fromkeys(q for q, *_ in verdicts)
    ]  # fmt: skip
    (folder / "conversations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    turns: dict[tuple[int, int], list[float]] = {}
    for q, turn, s in verdicts:
        if s is not None:
            turns.setdefault((q, turn), []).append(s)
    score = {"value": float(np.mean([np.mean(held) for held in turns.values()])), "stderr": 1.0, "n": len(turns)}
    request = {"bench": "mt_bench", "bench_hash": "0", "answers": {"tiny": "0"}, "protocol": "strict",
               "protocol_hash": "0", "judges": [{"name": "j"}]}  # fmt: skip
    summary = {
        "average": score, "first_turn": score, "second_turn": score, "by_category": {"writing": score},
        "judged": sum(s is not None for *_, s in verdicts), "failed": {"no_verdict": 1}, "requests": len(verdicts),
        "request": request, "title": "MT-Bench", "scale": [1, 10], "model": "tiny", "seconds": 1.0,
        "provenance": PROVENANCE.model_dump(), **changes,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))


def seal(board: BoardFolder, folder: Path, model: str, **stated: Any) -> SubmissionFolder:
    """Write ``submission.json`` for what lies in a folder, with true hashes, and give the folder its name."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=hash_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "submission.json"
    }
    fields = {
        "submission_id": "0" * 12, "identity": "everything", "model": model,
        "strategy": "dynamic", "parameters": 1_000_000,
        "checkpoint_hash": "c" * 64, "suites": ["made@1"], "created": "2026-01-01T00:00:00+00:00", "licence": "MIT",
        "contact": "someone@example.org", "provenance": PROVENANCE.model_dump(), "files": files, **stated,
    }  # fmt: skip
    submission = Submission.model_validate(fields)
    submission = submission.model_copy(update={"submission_id": submission.content_id})
    text = json.dumps(submission.model_dump(mode="json"))
    (folder / "submission.json").write_text(text)
    place = folder.parent / submission.submission_id
    folder.rename(place)
    return SubmissionFolder(model, submission.submission_id, place)


def reseal(board: BoardFolder, where: SubmissionFolder, **changes: Any) -> SubmissionFolder:
    """The submission again with hashes and id of what its files are now: a forger who covers the tracks."""
    old = json.loads((where.path / "submission.json").read_text())
    kept = {
        k: v for k, v in old.items() if k not in ("files", "submission_id", "schema_version", "model", "provenance")
    }
    folder = where.path.with_name("resealed")
    where.path.rename(folder)
    (folder / "submission.json").unlink()
    return seal(board, folder, where.model, **(kept | changes))


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as somebody."""
    identity = ("-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(("git", "-C", str(folder), *identity, *arguments), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(board: BoardFolder, message: str = "a step") -> None:
    """Commit all that lies in a board's folder, which becomes a repository."""
    if not (board.path / ".git").exists():
        git(board.path, "init", "--quiet")
    git(board.path, "add", "--all")
    git(board.path, "commit", "--quiet", "--message", message)


def outcomes(checked) -> dict[str, str]:
    return {verdict.check: verdict.verdict for verdict in checked.verdicts}


def failing(checked) -> list[str]:
    return [verdict.check for verdict in checked.verdicts if verdict.verdict == "fail"]


def detail(checked, check: str) -> str:
    return next(verdict.detail for verdict in checked.verdicts if verdict.check == check)


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_samples(where, task: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = where.path / "evals" / "made@1" / f"samples_{task}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
