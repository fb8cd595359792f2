"""The end of a judging: scores of every row, and the summary that says what is known and what failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.judge.answers import Answers
from evals.judge.budget import Price, cost
from evals.judge.integrity import score_flags
from evals.judge.matches import unanswered
from evals.judge.questions import Bench
from evals.judge.run import Flags, judge_lines
from evals.judge.scores import Tally, components, tally_pairs, tally_single
from harness.files import write_text
from harness.provenance import provenance
from harness.records import Judged, JudgeRequest, JudgeSummary

SCALES = {"single": (1.0, 10.0), "pairwise": (0.0, 1.0), "reference": (0.0, 1.0)}


def summarise(
    request: JudgeRequest,
    bench: Bench,
    answers: Mapping[str, Answers],
    flags: Flags,
    out: Path,
    *,
    price: Price | None,
    seconds: float,
    checkpoint: str | None = None,
    checkpoint_hash: str | None = None,
    engine: dict[str, Any] | None = None,
) -> JudgeSummary:
    """Write ``scores.jsonl`` and, last, ``summary.json``."""
    pairwise = request.mode == "pairwise"
    tokens = {"prompt": 0, "reply": 0}
    spent = [0.0]
    engines: dict[str, Any] = {}

    def lines() -> Any:
        for line in judge_lines(out, request):
            tokens["prompt"] += line.get("prompt_tokens", 0)
            tokens["reply"] += line.get("reply_tokens", 0)
            if price is not None and not pairwise:
                spent[0] += cost([line], price)
            if "engine" in line:
                engines[line["judge"][0]] = line["engine"]
            yield line
        for line in unanswered(request, bench, answers):
            yield {**line, "g1_winner": "error", "g2_winner": "error", "attempts": 0}

    tallies = tally_pairs(lines()) if pairwise else tally_single(lines())
    scale = SCALES["reference" if request.protocol == "reference" else request.mode]
    models = [model for model in request.answers if model != request.baseline] or list(request.answers)
    empty = Tally()
    judged = {
        model: _judged(tallies.get(model, empty), flags.get(model, {}), scale, bench, pairwise=pairwise)
        for model in models
    }
    first = tallies.get(models[0], empty)
    write_scores(out / "scores.jsonl", {model: tallies[model] for model in models if model in tallies}, bench)
    summary = JudgeSummary(
        **vars(judged[models[0]]),
        request=request,
        title=title(request, bench),
        scale=scale,
        model=models[0],
        others={model: judged[model] for model in models[1:]},
        by_judge={judge.name: first.score(judge=judge.name) for judge in request.judges},
        variance=components(first),
        tokens=tokens,
        cost=spent[0] if price is not None and not pairwise else None,
        notes=tuple(_notes(request, bench, judged[models[0]])),
        checkpoint=checkpoint,
        checkpoint_hash=checkpoint_hash,
        engine=engine or {},
        judge_engines=engines,
        seconds=seconds,
        provenance=provenance(),
    )
    summary.write(out / "summary.json")
    return summary


def title(request: JudgeRequest, bench: Bench) -> str:
    """What tables call it: a bench by its published name only if a judge judged it."""
    if request.protocol == "reference":
        return f"Reference grader ({bench.name})"
    return bench.title + (f" win rate against {request.baseline}" if request.mode == "pairwise" else "")


def write_scores(path: Path, tallies: Mapping[str, Tally], bench: Bench) -> None:
    """A line for each model, question and turn: its score, the judgments behind it, and those that failed."""
    order = {question.id: number for number, question in enumerate(bench.questions)}
    lines = []
    for model, tally in tallies.items():
        for (question, turn), row in sorted(tally.rows.items(), key=lambda item: (order[item[0][0]], item[0][1])):
            line = {
                "model": model,
                "question_id": question,
                "turn": turn,
                "category": row.category,
                "score": row.value if row.by_judge else None,
                "judgments": len(row.values),
                "failed": row.failed,
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def _judged(
    tally: Tally, flags: Mapping[Any, set[str]], scale: tuple[float, float], bench: Bench, *, pairwise: bool
) -> Judged:
    present = {row.category for row in tally.rows.values()}
    categories = [c for c in dict.fromkeys(question.category for question in bench.questions) if c in present]
    flagged: dict[str, list[Any]] = {}
    for question, kinds in flags.items():
        for kind in sorted(kinds):
            flagged.setdefault(kind, []).append(question)
    if not pairwise:
        scored = {key: row.value for key, row in tally.scored().items()}
        patterns = score_flags(list(scored.values()), *scale) if scale[0] else set()
        for kind in sorted(patterns):
            odd = [q for (q, _), v in scored.items() if kind != "score_out_of_range" or not scale[0] <= v <= scale[1]]
            flagged[kind] = [question.id for question in bench.questions if question.id in odd]
    outcomes = tally.outcomes
    games = sum(outcomes.values())
    return Judged(
        average=tally.score(),
        first_turn=tally.score(turn=1),
        second_turn=tally.score(turn=2),
        by_category={category: tally.score(category=category) for category in categories},
        judged=tally.judged,
        failed=dict(sorted(tally.failed.items())),
        bounds=tally.bounds(scale),
        flags={kind: tuple(questions) for kind, questions in sorted(flagged.items())},
        requests=tally.requests,
        win=outcomes["win"] if pairwise else None,
        loss=outcomes["loss"] if pairwise else None,
        tie=outcomes["tie"] if pairwise else None,
        adjusted_win_rate=(outcomes["win"] + 0.5 * outcomes["tie"]) / games if pairwise and games else None,
    )


def _notes(request: JudgeRequest, bench: Bench, judged: Judged) -> list[str]:
    notes = []
    total = judged.judged + sum(judged.failed.values())
    if judged.failed and judged.bounds:
        reasons = ", ".join(f"{count} {reason}" for reason, count in judged.failed.items())
        low, high = judged.bounds
        span = f"would lie between {low:.2f} and {high:.2f} whatever the rows without one deserve"
        notes.append(
            f"{total - judged.judged} of {total} judgments failed ({reasons}); the average is of the others, and "
            + (span if low < high else "every answer has one of those")
        )
    for kind, questions in judged.flags.items():
        shown = ", ".join(map(str, questions[:8])) + (", …" if len(questions) > 8 else "")
        notes.append(f"flagged {kind}: {len(questions)} questions ({shown})")
    if request.protocol == "reference":
        unchecked = sum(1 for question in bench.questions if not question.checks)
        notes.append(
            "graded right or wrong by a fixed rule, not by a judge"
            + (f"; {unchecked} questions have no checkable answer and are not graded" if unchecked else "")
        )
    return notes
