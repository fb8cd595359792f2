"""A summary in words, for a terminal."""

from __future__ import annotations

from harness.records import Judged, JudgeSummary, Score


def show(summary: JudgeSummary) -> str:
    """A few lines: averages, categories, failures and notes."""
    request = summary.request
    judges = ", ".join(judge.name for judge in request.judges)
    lines = [f"{summary.title}: {request.protocol}, {request.mode}, judged by {judges}"]
    for model, judged in {summary.model: summary, **summary.others}.items():
        lines += _model(model, judged)
    if summary.variance.get("judge") is not None:
        within, between = summary.variance["judge"], summary.variance["question"]
        lines.append(f"variance of a score: {between:.3f} between questions, {within:.3f} between repeats")
    return "\n".join([*lines, *(f"note: {note}" for note in summary.notes)]) + "\n"


def _model(model: str, judged: Judged) -> list[str]:
    failed = sum(judged.failed.values())
    lines = [f"{model}: {_text(judged.average)} ({judged.judged} judged, {failed} failed)"]
    lines.append(f"  first turn {_text(judged.first_turn)}; second turn {_text(judged.second_turn)}")
    if judged.win is not None:
        rate = "–" if judged.adjusted_win_rate is None else f"{judged.adjusted_win_rate:.3f}"
        lines.append(f"  {judged.win} won, {judged.loss} lost, {judged.tie} tied; adjusted win rate {rate}")
    lines.append("  " + "; ".join(f"{name} {_text(score)}" for name, score in judged.by_category.items()))
    return lines


def _text(score: Score) -> str:
    if score.value is None:
        return "–"
    return f"{score.value:.2f}" + ("" if score.stderr is None else f" ± {score.stderr:.2f}")
