"""The end of a judging: the score of every row, the summary with what failed, and the summary as text."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from evals.judge.budget import Price, cost_of
from evals.judge.integrity import score_flags
from evals.judge.journal import judge_lines
from evals.judge.records import Bench, Judging, Line, QuestionId
from evals.judge.scores import Tally, components, tally_pairs, tally_single
from evals.judge.tasks import unanswered
from harness.files import write_text
from harness.judging import Judged, JudgeRequest, JudgeSummary, Score
from harness.provenance import provenance

Flags = dict[str, dict[QuestionId, set[str]]]  # model → question → flags of the answer
SCALES = {"single": (1.0, 10.0), "pairwise": (0.0, 1.0), "reference": (0.0, 1.0)}
_SHOWN = 8  # questions that a note names


def summarise(
    judging: Judging,
    flags: Flags,
    *,
    price: Price | None,
    seconds: float,
    checkpoint: str | None = None,
    checkpoint_hash: str | None = None,
    engine: Mapping[str, object] | None = None,
) -> JudgeSummary:
    """Write ``scores.jsonl`` and then ``summary.json``, which marks the judging as finished.

    Args:
        judging: what was judged.
        flags: the flags of every model's answers.
        price: what tokens cost, if known.
        seconds: how long it took.
        checkpoint: folder of the checkpoint that answered, if one did.
        checkpoint_hash: its hash.
        engine: description of the engine that it answered with.
    """
    request, bench, out = judging.request, judging.bench, judging.out
    pairwise = request.mode == "pairwise"
    usage = _Usage(price)
    lines = chain(usage.counted(judge_lines(out, request)), unanswered(judging))
    tallies = tally_pairs(lines) if pairwise else tally_single(lines)
    scale = SCALES["reference" if request.protocol == "reference" else request.mode]
    models = [model for model in request.answers if model != request.baseline] or list(request.answers)
    tallies = {model: tallies.get(model, Tally()) for model in models}
    first, *others = models
    judged = {
        model: _judged(tally, flags.get(model, {}), scale, bench, pairwise=pairwise)
        for model, tally in tallies.items()
    }  # fmt: skip
    _write_scores(out / "scores.jsonl", tallies, bench)
    summary = JudgeSummary(
        **vars(judged[first]),
        request=request,
        title=title(request, bench),
        scale=scale,
        model=first,
        others={model: judged[model] for model in others},
        by_judge={judge.name: tallies[first].score(judge=judge.name) for judge in request.judges},
        variance=components(tallies[first]),
        tokens=usage.tokens,
        cost=None if price is None or pairwise else usage.cost,
        notes=tuple(_notes(request, bench, judged[first])),
        judge_engines=usage.engines,
        seconds=seconds,
        checkpoint=checkpoint,
        checkpoint_hash=checkpoint_hash,
        engine=dict(engine or {}),
        provenance=provenance(),
    )
    summary.write(out / "summary.json")
    return summary


@dataclass
class _Usage:
    """What the judgments used: tokens, money, and the engines of the judges that we served."""

    price: Price | None
    tokens: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "reply": 0})
    cost: float = 0.0
    engines: dict[str, dict[str, object]] = field(default_factory=dict)

    def counted(self, lines: Iterator[Line]) -> Iterator[Line]:
        """Count the lines of a stream as they pass."""
        for line in lines:
            self.tokens["prompt"] += line.get("prompt_tokens", 0)
            self.tokens["reply"] += line.get("reply_tokens", 0)
            if self.price is not None and "prompt_tokens" in line:
                self.cost += cost_of(line, self.price)
            if "engine" in line:
                self.engines[line["judge"][0]] = dict(line["engine"])
            yield line


def title(request: JudgeRequest, bench: Bench) -> str:
    """Return what tables call the judging; it has the published name of a bench only if a judge judged it."""
    if request.protocol == "reference":
        return f"Reference grader ({bench.name})"
    return bench.title + (f" win rate against {request.baseline}" if request.mode == "pairwise" else "")


def _write_scores(path: Path, tallies: Mapping[str, Tally], bench: Bench) -> None:
    """Write a line for each model, question and turn: its score, and how many judgments have and lack a verdict."""
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
    tally: Tally, flags: Mapping[QuestionId, set[str]], scale: tuple[float, float], bench: Bench, *, pairwise: bool
) -> Judged:
    present = {row.category for row in tally.rows.values()}
    categories = [c for c in dict.fromkeys(question.category for question in bench.questions) if c in present]
    flagged: dict[str, list[QuestionId]] = defaultdict(list)
    for identity, kinds in flags.items():
        for kind in kinds:
            flagged[kind].append(identity)
    if not pairwise and scale[0]:
        scores: dict[QuestionId, list[float]] = defaultdict(list)
        for (identity, _), row in tally.scored().items():
            scores[identity].append(row.value)
        for kind, identities in score_flags(scores, *scale).items():
            flagged[kind] = [question.id for question in bench.questions if question.id in identities]
    win, loss, tie = (tally.outcomes[result] for result in ("win", "loss", "tie"))
    games = win + loss + tie
    outcomes = {"win": win, "loss": loss, "tie": tie} if pairwise else {}
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
        adjusted_win_rate=(win + 0.5 * tie) / games if pairwise and games else None,
        **outcomes,
    )


def _notes(request: JudgeRequest, bench: Bench, judged: Judged) -> Iterator[str]:
    failed = sum(judged.failed.values())
    if failed and judged.bounds:
        reasons = ", ".join(f"{count} {reason}" for reason, count in judged.failed.items())
        low, high = judged.bounds
        effect = "every answer has another judgment"
        if low < high:
            effect = f"with any scores for them it would lie between {low:.2f} and {high:.2f}"
        total = judged.judged + failed
        yield f"{failed} of {total} judgments failed ({reasons}); the average leaves them out; {effect}"
    for kind, questions in judged.flags.items():
        shown = ", ".join(map(str, questions[:_SHOWN])) + (", …" if len(questions) > _SHOWN else "")
        yield f"flagged {kind}: {len(questions)} questions ({shown})"
    if request.protocol == "reference":
        unchecked = sum(1 for question in bench.questions if not question.checks)
        skipped = f"; {unchecked} questions have no checkable answer and are not graded" if unchecked else ""
        yield f"graded right or wrong by a fixed rule, not by a judge{skipped}"


def as_text(summary: JudgeSummary) -> str:
    """Return a summary as text: averages, categories, failures and notes."""
    request = summary.request
    judges = ", ".join(judge.name for judge in request.judges)
    lines = [f"{summary.title}: {request.protocol}, {request.mode}, judged by {judges}"]
    for model, judged in {summary.model: summary, **summary.others}.items():
        failed = sum(judged.failed.values())
        lines.append(f"{model}: {_figure(judged.average)} ({judged.judged} judged, {failed} failed)")
        lines.append(f"  first turn {_figure(judged.first_turn)}; second turn {_figure(judged.second_turn)}")
        if judged.win is not None:
            rate = "–" if judged.adjusted_win_rate is None else f"{judged.adjusted_win_rate:.3f}"
            lines.append(f"  {judged.win} won, {judged.loss} lost, {judged.tie} tied; adjusted win rate {rate}")
        lines.append("  " + "; ".join(f"{name} {_figure(score)}" for name, score in judged.by_category.items()))
    if summary.variance.get("judge") is not None:
        within, between = summary.variance["judge"], summary.variance["question"]
        lines.append(f"variance of a score: {between:.3f} between questions, {within:.3f} between repeats")
    return "\n".join([*lines, *(f"note: {note}" for note in summary.notes)]) + "\n"


def _figure(score: Score) -> str:
    if score.value is None:
        return "–"
    return f"{score.value:.2f}" + ("" if score.stderr is None else f" ± {score.stderr:.2f}")
