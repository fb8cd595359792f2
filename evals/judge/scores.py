"""From judgments to scores: means of rows, clustered by question, and the summary that also counts failures."""

from __future__ import annotations

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from evals.judge.integrity import score_flags
from evals.judge.journal import judge_lines, write_jsonl
from evals.judge.judges import Price, cost_of
from evals.judge.records import Bench, Judging, Line, QuestionId, pair_outcome, unanswered
from harness.judging import Judged, JudgeRequest, JudgeSummary, JudgeTest, Score
from harness.provenance import provenance
from harness.statistics.bootstrap import variance_components
from harness.statistics.clusters import number_clusters
from harness.statistics.estimates import Part, bounds_of, estimate

SCALES = {"single": (1.0, 10.0), "pairwise": (0.0, 1.0), "reference": (0.0, 1.0)}
_SHOWN = 8  # questions that a note names


@dataclass
class Row:
    """All judgments of a model's answer to one turn of a question."""

    category: str
    weights: Mapping[str, float]
    by_judge: dict[str, list[float]] = field(default_factory=dict)
    failed: int = 0

    @property
    def values(self) -> list[float]:
        """The values of all judgments with a verdict."""
        return [value for values in self.by_judge.values() for value in values]

    @property
    def value(self) -> float:
        """The mean over all judgments with a verdict, each with the weight of its judge."""
        weights = [self.weights.get(judge, 1.0) for judge, values in self.by_judge.items() for _ in values]
        return math.fsum(map(operator.mul, weights, self.values)) / math.fsum(weights)


@dataclass
class Tally:
    """All judgments of one model, by question and turn.

    Attributes:
        weights: judge → its weight, where it is not 1.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    rows: dict[tuple[QuestionId, int], Row] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)  # by reason
    judged: int = 0
    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # pairwise: win, loss and tie

    def add(self, line: Line, value: float | None) -> None:
        """Count a judgment; ``value`` is None where it failed."""
        row = self.rows.setdefault((line["question_id"], line["turn"]), Row(line["category"], self.weights))
        self.requests += line["attempts"]
        if value is None:
            row.failed += 1
            self.failed[line["reason"]] += 1
        else:
            row.by_judge.setdefault(line["judge"][0], []).append(value)
            self.judged += 1

    def add_side(self, pair: Line, side: str) -> None:
        """Count a pair for one of its models, ``model_1`` or ``model_2``: 1 for a win, 0 for a loss, ½ for a tie.

        A judge elsewhere may have stated a preference between 0 and 1 in place of a winner.
        """
        winner = pair_outcome(pair["g1_winner"], pair["g2_winner"])
        outcome = winner if winner in ("tie", "error") else "win" if winner == side else "loss"
        stated = pair.get("preference")
        graded = {"win": 1.0, "loss": 0.0, "tie": 0.5}.get(outcome)
        self.add(pair, graded if stated is None else stated if side == "model_1" else 1.0 - stated)
        if outcome != "error":
            self.outcomes[outcome] += 1

    def scored(self) -> dict[tuple[QuestionId, int], Row]:
        """Return the rows with at least one verdict."""
        return {key: row for key, row in self.rows.items() if row.by_judge}

    def score(self, *, turn: int | None = None, category: str | None = None, judge: str | None = None) -> Score:
        """Return the mean of the rows, or of those of one turn, one category or one judge."""
        values, questions = [], []
        for (question, number), row in self.rows.items():
            own = row.by_judge.get(judge or "", [])
            if (
                (own or (judge is None and row.by_judge))
                and turn in (None, number)
                and category in (None, row.category)
            ):
                values.append(row.value if judge is None else math.fsum(own) / len(own))
                questions.append(question)
        return clustered(values, questions)

    def bounds(self, scale: tuple[float, float]) -> tuple[float, float] | None:
        """Return the average if all rows without a verdict had the lowest, or the highest, score; None without rows."""
        if not self.rows:
            return None
        known = [row.value for row in self.scored().values()]
        missing = len(self.rows) - len(known)
        low, high = (math.fsum([*known, *[end] * missing]) / len(self.rows) for end in scale)
        return low, high

    def components(self) -> dict[str, float | None]:
        """Return the variance of a score between turns of questions, and between repeated judgments of one answer.

        ``judge_stderr`` is the part of the average's standard error that more judgments would remove. Repeats by one
        judge and the judges of a panel count alike. Every value is None if nothing was judged twice.
        """
        found = variance_components([row.values for row in self.scored().values()])
        return dict(zip(("question", "judge", "judge_stderr"), found or (None, None, None), strict=True))


def clustered(values: Sequence[float], questions: Sequence[QuestionId]) -> Score:
    """Return the mean of one value per row with its standard error; the turns of a question are one cluster."""
    if not values:
        return Score(value=None, stderr=None, n=0)
    scores = np.array([values], dtype=np.float64)
    found = estimate([Part(1.0, scores, number_clusters(questions))])
    mean = math.fsum(values) / len(values)  # exact, whatever the order of the judgments
    if math.isnan(found.se):
        return Score(value=mean, stderr=None, n=len(values))
    lower, upper = found.interval(bounds_of(scores))
    return Score(value=mean, stderr=found.se, lower=lower, upper=upper, n=len(values))


def title(request: JudgeRequest, bench: Bench) -> str:
    """Return what tables call the judging; it has the published name of a bench only if a judge judged it."""
    if request.protocol == "reference":
        return f"Reference grader ({bench.name})"
    return bench.title + (f" win rate against {request.baseline}" if request.mode == "pairwise" else "")


def summarise(
    judging: Judging, *, price: Price | None, seconds: float, checkpoint: str | None = None,
    checkpoint_hash: str | None = None, engine: Mapping[str, object] | None = None,
    tested: Mapping[str, JudgeTest] | None = None,
) -> JudgeSummary:  # fmt: skip
    """Write ``scores.jsonl`` and then ``summary.json``, which marks the judging as finished.

    ``checkpoint`` is the folder of the one that answered, if one did, with its hash and a description of the engine;
    ``tested`` is what the judges' qualification says.
    """
    request, bench, pairwise = judging.request, judging.bench, judging.request.mode == "pairwise"
    weights = {judge.name: judge.weight for judge in request.judges if judge.weight != 1}
    tallies: dict[str, Tally] = defaultdict(lambda: Tally(weights))
    tokens, engines, cost = {"prompt": 0, "reply": 0}, {}, 0.0
    omitted: dict[str, set[str]] = defaultdict(set)
    for line in chain(judge_lines(judging.out, request), unanswered(judging)):
        if pairwise:
            for side in ("model_1", "model_2"):
                tallies[line[side]].add_side(line, side)
        else:
            tallies[line["model"]].add(line, None if line["reason"] else float(line["score"]))
        tokens["prompt"] += line.get("prompt_tokens", 0)
        tokens["reply"] += line.get("reply_tokens", 0)
        cost += cost_of(line, price) if price and line["attempts"] else 0.0
        omitted[line["judge"][0]].update(line.get("omitted", ()))
        if "engine" in line:
            engines[line["judge"][0]] = line["engine"]
    models = [model for model in request.answers if model != request.baseline] or list(request.answers)
    judged = {model: _judged(tallies[model], judging.flags.get(model, {}), judging) for model in models}
    first, *others = models
    write_jsonl(judging.out / "scores.jsonl", (row for model in models for row in _rows(model, tallies[model], bench)))
    summary = JudgeSummary(
        **vars(judged[first]),
        request=request,
        title=title(request, bench),
        scale=_scale(request),
        model=first,
        others={model: judged[model] for model in others},
        by_judge={judge.name: tallies[first].score(judge=judge.name) for judge in request.judges},
        variance=tallies[first].components(),
        tokens=tokens,
        cost=None if price is None else cost,
        omitted={judge: tuple(sorted(names)) for judge, names in omitted.items() if names},
        tested=dict(tested or {}),
        notes=(
            *_notes(judging, judged[first]),
            *(
                f"the server of {judge} does not accept {', '.join(sorted(names))}; requests went without"
                for judge, names in omitted.items()
                if names
            ),
        ),
        judge_engines=engines,
        seconds=seconds,
        checkpoint=checkpoint,
        checkpoint_hash=checkpoint_hash,
        engine=dict(engine or {}),
        provenance=provenance(),
    )
    summary.write(judging.out / "summary.json")
    return summary


def _scale(request: JudgeRequest) -> tuple[float, float]:
    return SCALES["reference" if request.protocol == "reference" else request.mode]


def _rows(model: str, tally: Tally, bench: Bench) -> Iterator[dict[str, object]]:
    """Yield a line for each question and turn: its score, and how many judgments have and lack a verdict."""
    order = {question.id: number for number, question in enumerate(bench.questions)}
    for (question, turn), row in sorted(tally.rows.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        yield {
            "model": model,
            "question_id": question,
            "turn": turn,
            "category": row.category,
            "score": row.value if row.by_judge else None,
            "judgments": len(row.values),
            "failed": row.failed,
        }


def _judged(tally: Tally, flags: Mapping[QuestionId, set[str]], judging: Judging) -> Judged:
    scale, questions = _scale(judging.request), judging.bench.questions
    present = {row.category for row in tally.rows.values()}
    turns = sorted({turn for _, turn in tally.rows})
    categories = [c for c in dict.fromkeys(question.category for question in questions) if c in present]
    flagged: dict[str, list[QuestionId]] = defaultdict(list)
    for identity, kinds in flags.items():
        for kind in kinds:
            flagged[kind].append(identity)
    if scale == SCALES["single"]:
        scores: dict[QuestionId, list[float]] = defaultdict(list)
        for (identity, _), row in tally.scored().items():
            scores[identity].append(row.value)
        for kind, identities in score_flags(scores, *scale).items():
            flagged[kind] = [question.id for question in questions if question.id in identities]
    outcomes: dict[str, int] = {}
    if judging.request.mode == "pairwise":
        outcomes = {outcome: tally.outcomes[outcome] for outcome in ("win", "loss", "tie")}
    pairs = sum(outcomes.values())
    return Judged(
        average=tally.score(),
        first_turn=tally.score(turn=1),
        second_turn=tally.score(turn=2),
        by_turn={turn: tally.score(turn=turn) for turn in turns} if turns[2:] else {},
        by_category={category: tally.score(category=category) for category in categories},
        judged=tally.judged,
        failed=dict(sorted(tally.failed.items())),
        bounds=tally.bounds(scale),
        flags={kind: tuple(identities) for kind, identities in sorted(flagged.items())},
        requests=tally.requests,
        adjusted_win_rate=(outcomes["win"] + 0.5 * outcomes["tie"]) / pairs if pairs else None,
        **outcomes,
    )


def _notes(judging: Judging, judged: Judged) -> Iterator[str]:
    failed = sum(judged.failed.values())
    if failed and judged.bounds:
        reasons = ", ".join(f"{count} {reason}" for reason, count in judged.failed.items())
        low, high = judged.bounds
        effect = f"with any scores for them it would lie between {low:.2f} and {high:.2f}"
        yield (
            f"{failed} of {judged.judged + failed} judgments failed ({reasons}); the average leaves them out; "
            + (effect if low < high else "every answer has another judgment")
        )  # fmt: skip
    for kind, questions in judged.flags.items():
        shown = ", ".join(map(str, questions[:_SHOWN])) + (", …" if len(questions) > _SHOWN else "")
        yield f"flagged {kind}: {len(questions)} questions ({shown})"
    if judging.request.protocol == "reference":
        unchecked = sum(1 for question in judging.bench.questions if not question.checks)
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
        lines.append("  " + _turns(judged))
        if judged.win is not None:
            rate = "–" if judged.adjusted_win_rate is None else f"{judged.adjusted_win_rate:.3f}"
            lines.append(f"  {judged.win} won, {judged.loss} lost, {judged.tie} tied; adjusted win rate {rate}")
        lines.append("  " + "; ".join(f"{name} {_figure(score)}" for name, score in judged.by_category.items()))
    if summary.variance.get("judge") is not None:
        within, between = summary.variance["judge"], summary.variance["question"]
        lines.append(f"variance of a score: {between:.3f} between questions, {within:.3f} between repeats")
    if summary.cost is not None:
        lines.append(f"cost {summary.cost:.4g} for {summary.requests:,} requests")
    return "\n".join([*lines, *(f"note: {note}" for note in summary.notes)]) + "\n"


def _turns(judged: Judged) -> str:
    if judged.by_turn:
        return "; ".join(f"turn {turn} {_figure(score)}" for turn, score in judged.by_turn.items())
    return f"first turn {_figure(judged.first_turn)}; second turn {_figure(judged.second_turn)}"


def _figure(score: Score) -> str:
    if score.value is None:
        return "–"
    return f"{score.value:.2f}" + ("" if score.stderr is None else f" ± {score.stderr:.2f}")
