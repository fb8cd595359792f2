"""Judgments of FastChat, AlpacaEval and Arena-Hard: read into a judging folder of ours, and written from one.

FastChat     question.jsonl, model_answer/*.jsonl, model_judgment/*_single.jsonl and *_pair.jsonl
AlpacaEval   annotations.json: instruction, output_1, generator_1, output_2, generator_2, annotator, preference (1 to 2)
Arena-Hard   question.jsonl, model_answer/*.jsonl, model_judgment/<judge>/<model>.jsonl with two games: in the first, A
             is the baseline
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.judge.integrity import answer_flags
from evals.judge.journal import (
    Journal,
    journal_path,
    match_games,
    read_judgments,
    resolved_request,
    safe_name,
    write_conversations,
    write_jsonl,
)
from evals.judge.journal import write_pairs as write_pairs_file
from evals.judge.records import Answer, Answers, Bench, Judging, Line, Match, Prompt, Question, QuestionId, Verdict
from evals.judge.scores import summarise, title
from evals.judge.style import style_of
from evals.judge.transcript import write_transcript
from evals.judge.verdicts import pair_of
from harness.errors import MoemixError
from harness.files import hash_value, read_json, read_jsonl, write_json
from harness.judging import CONVERSATIONS, JudgeConfig, JudgeRequest, JudgeSpec, JudgeSummary
from harness.requests import RESOLVED, JudgeJobRequest

_SIGNS = {"A>>B": ("A", 3), "A>B": ("A", 1), "A=B": ("tie", 1), "B=A": ("tie", 1), "B>A": ("B", 1), "B>>A": ("B", 3),
          "A<<B": ("B", 3), "A<B": ("B", 1), "B<A": ("A", 1), "B<<A": ("A", 3)}  # fmt: skip
_UNNAMED = "baseline"
Row = dict[str, Any]


@dataclass
class _Found:
    """What a folder holds.

    Attributes:
        lines: judgments in our fields, without key; a game has ``game``.
        texts: question → its turns.
        answers: model → question → its texts, where the folder has them.
    """

    format: str
    lines: list[Line] = field(default_factory=list)
    texts: dict[QuestionId, Answer] = field(default_factory=dict)
    categories: dict[QuestionId, str] = field(default_factory=dict)
    answers: dict[str, dict[QuestionId, Answer]] = field(default_factory=dict)
    baseline: str | None = None


class _Elsewhere:
    """The protocol of judgments that were made elsewhere: nothing is asked, and nothing is parsed."""

    def __init__(self, name: str) -> None:
        self.name, self.fingerprint = name, hash_value(["made elsewhere", name])

    def prompt(self, match: Match) -> Prompt:
        """Return nothing: judgments are not made here."""
        raise NotImplementedError

    def verdict(self, reply: str, match: Match) -> Verdict:
        """Return nothing: judgments are not made here."""
        raise NotImplementedError


# --- in -----------------------------------------------------------------------------------------------


def import_judging(
    folder: Path, out: Path, *, mode: str | None = None, model: str | None = None, baseline: str | None = None,
    bench: str | None = None,
) -> JudgeSummary:  # fmt: skip
    """Make a judging folder of judgments that were made elsewhere, and return its summary.

    Args:
        folder: of FastChat, AlpacaEval or Arena-Hard; the files say which.
        out: the judging's folder.
        mode: ``single`` or ``pairwise``, for a FastChat folder with both; default: single.
        model: the model that the summary is about; default: the first.
        baseline: the baseline's name, which files of Arena-Hard do not have.
        bench: what to call the bench; default: the folder's name.

    Raises:
        MoemixError: the folder has no judgments, or a line is not one (with file and line).
    """
    if (out / RESOLVED).is_file():
        raise MoemixError("the folder holds a judging already", where=str(out), hint="choose another --out")
    found = _read(folder, mode, baseline)
    pairwise = "game" in found.lines[0]
    models = list(dict.fromkeys(name for line in found.lines for name in _models(line)))
    if model is not None and model not in models:
        raise MoemixError(f"no judgment is of {model!r}", where=str(folder), hint=f"models: {', '.join(models)}")
    models.sort(key=lambda name: (name != model, name == found.baseline))
    questions = tuple(
        Question(key, found.categories.get(key, "general"), found.texts.get(key) or _unknown(found, key))
        for key in dict.fromkeys(line["question_id"] for line in found.lines)
    )
    named = Bench(bench or folder.resolve().name, bench or folder.resolve().name, questions)
    known = {name: Answers(name, _whole(found, name)) for name in models}
    judges = tuple(JudgeSpec(name=name) for name in dict.fromkeys(line["judge"][0] for line in found.lines))
    protocol = _Elsewhere("faithful" if found.format == "fastchat" else found.format)
    request = JudgeRequest.model_validate({
        "bench": named.name, "bench_hash": named.fingerprint, "mode": "pairwise" if pairwise else "single",
        "judges": judges, "answers": {name: of.fingerprint for name, of in known.items()}, "baseline": found.baseline,
        "protocol": protocol.name, "protocol_hash": protocol.fingerprint, "imported": found.format,
    })  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    config = JudgeConfig(bench=named.name, mode=request.mode, judges=request.judges)
    JudgeJobRequest(config=config, out=out).save()
    write_json(out / RESOLVED, request.model_dump(mode="json"))
    flags = {name: answer_flags(of, questions) for name, of in known.items() if name in found.answers}
    for judge in judges:
        with closing(Journal(journal_path(out, judge.name, request.mode))) as journal:
            for line in found.lines:
                if line["judge"][0] == judge.name:
                    journal.add(_complete(line, found))
        if pairwise:
            write_pairs_file(out, judge.name)
    judging = Judging(request, named, known, {name: flags.get(name, {}) for name in known}, protocol, out)
    write_conversations(judging)
    write_transcript(judging, title(request, named))
    return summarise(judging, price=None, seconds=0.0)


def _models(line: Line) -> tuple[str, ...]:
    return (line["model_1"], line["model_2"]) if "game" in line else (line["model"],)


def _unknown(found: _Found, key: QuestionId) -> Answer:
    """Return stand-ins for the turns of a question whose text is not in the folder."""
    turns = max(line["turn"] for line in found.lines if line["question_id"] == key)
    return tuple(f"(turn {turn + 1} of question {key})" for turn in range(turns))


def _whole(found: _Found, model: str) -> dict[QuestionId, Answer]:
    """Return a model's answers; empty texts where the folder has judgments and no answers."""
    turns: dict[QuestionId, int] = {}
    for line in found.lines:
        if model in _models(line):
            turns[line["question_id"]] = max(turns.get(line["question_id"], 0), line["turn"])
    known = found.answers.get(model, {})
    return {key: known.get(key) or ("",) * count for key, count in turns.items()}


def _complete(line: Line, found: _Found) -> Line:
    """Return a line with every field that a judgment of ours has."""
    texts = [found.answers.get(name, {}).get(line["question_id"], ()) for name in _models(line)]
    of_turn = [own[line["turn"] - 1] if len(own) >= line["turn"] else "" for own in texts]
    identity = [line["judge"], line["question_id"], line["turn"], _models(line), line.get("game"), line["repeat"]]
    whole: Line = {
        "key": hash_value(identity)[:32], "category": found.categories.get(line["question_id"], "general"),
        "reason": None, "attempts": 0, "prompt_tokens": 0, "reply_tokens": 0,
        "lengths": [len(text) for text in of_turn],
        "system_prompt": "", "user_prompt": "", "judgment": "", "params": {}, "flags": [], "detail": "",
        "tstamp": time.time(),
    }  # fmt: skip
    return {**whole, **({"styles": [style_of(text) for text in of_turn]} if "game" in line else {}), **line}


def _read(folder: Path, mode: str | None, baseline: str | None) -> _Found:
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.json*"))
    found: _Found | None = None
    extra: list[tuple[Path, Row]] = []
    repeats: dict[object, int] = {}
    for file in files:
        for number, row in enumerate(_rows(file), 1):
            kind = _kind(row)
            if kind is None:
                extra.append((file, row))
                continue
            if kind == "fastchat" and mode and ("g1_winner" in row) != (mode == "pairwise"):
                continue
            found = found or _Found(kind)
            if found.format != kind:
                raise MoemixError(f"the folder has judgments of {found.format} and of {kind}", where=f"{file}:{number}")
            try:
                lines = _PARSERS[kind](row, found, file, baseline)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise MoemixError(f"not a judgment of {kind}: {error!r}", where=f"{file}:{number}") from None
            if found.lines and ("game" in found.lines[0]) != ("game" in lines[0]):
                if mode:
                    continue
                raise MoemixError("the folder has single and pairwise judgments", where=f"{file}:{number}",
                                  hint="say which with --mode single or --mode pairwise")  # fmt: skip
            for line in lines:
                same = (line["judge"][0], line["question_id"], line["turn"], _models(line), line.get("game"))
                line["repeat"] = repeats[same] = repeats.get(same, -1) + 1
            found.lines += lines
    if found is None:
        raise MoemixError("the folder has no judgments of FastChat, AlpacaEval or Arena-Hard", where=str(folder),
                          hint="give the folder with model_judgment/, or an annotations.json")  # fmt: skip
    for file, row in extra:
        _add_texts(row, found, file)
    return found


def _rows(file: Path) -> Iterator[Row]:
    if file.suffix == ".json":
        tree = read_json(file)
        yield from (row for row in (tree if isinstance(tree, list) else []) if isinstance(row, dict))
    else:
        yield from (row for row in read_jsonl(file) if isinstance(row, dict))


def _kind(row: Row) -> str | None:
    """Return whose judgment a row is; None for questions and answers."""
    if "generator_2" in row and "preference" in row:
        return "alpaca_eval"
    if "games" in row:
        return "arena_hard"
    return "fastchat" if "judge" in row and ("score" in row or "g1_winner" in row) else None


def _fastchat(row: Row, found: _Found, file: Path, baseline: str | None) -> list[Line]:
    judge = row["judge"] if isinstance(row["judge"], list) else [row["judge"], ""]
    line: Line = {"question_id": row["question_id"], "turn": int(row.get("turn", 1)),
                  "judge": [str(judge[0]), judge[-1]], "protocol": "faithful",
                  "tstamp": row.get("tstamp", 0.0)}  # fmt: skip
    if "g1_winner" not in row:
        score = float(row["score"])
        return [{**line, "model": row["model"], "score": score, "reason": "no_verdict" if score == -1 else None,
                 "user_prompt": row.get("user_prompt", ""), "judgment": row.get("judgment", "")}]  # fmt: skip
    found.baseline = baseline or found.baseline
    return [
        {**line, "model_1": row["model_1"], "model_2": row["model_2"], "game": game,
         "winner": _winner(row[f"g{game}_winner"]),
         "reason": "no_verdict" if row[f"g{game}_winner"] == "error" else None,
         "user_prompt": row.get(f"g{game}_user_prompt", ""), "judgment": row.get(f"g{game}_judgment", "")}
        for game in (1, 2)
    ]  # fmt: skip


def _winner(stated: str) -> str:
    if stated not in ("model_1", "model_2", "tie", "error"):
        raise ValueError(f"the winner is {stated!r}, expected model_1, model_2, tie or error")
    return stated


def _alpaca_eval(row: Row, found: _Found, file: Path, baseline: str | None) -> list[Line]:
    key = hash_value(row["instruction"])[:12]
    found.texts[key], found.categories[key] = (row["instruction"],), str(row.get("dataset") or "general")
    found.baseline = str(row["generator_1"])
    names = (str(row["generator_2"]), found.baseline)
    for name, text in zip(names, (row["output_2"], row["output_1"]), strict=True):
        found.answers.setdefault(name, {})[key] = (str(text),)
    stated = row["preference"]
    line: Line = {"question_id": key, "turn": 1, "judge": [str(row.get("annotator") or "annotator"), ""],
                  "protocol": "alpaca_eval", "model_1": names[0], "model_2": names[1]}  # fmt: skip
    preference = None if stated is None or stated != stated else 0.5 if float(stated) == 0 else float(stated) - 1
    if preference is not None and not 0 <= preference <= 1:
        raise ValueError(f"the preference {stated} is not between 1 and 2")
    winner = "error" if preference is None else "tie" if preference == 0.5 else f"model_{2 - (preference > 0.5)}"
    line |= {"winner": winner, "preference": preference, "reason": "no_verdict" if preference is None else None,
             "judgment": str(row.get("raw_completion") or "")}  # fmt: skip
    return [{**line, "game": game} for game in (1, 2)]  # one order was shown; the second line only completes the pair


def _arena_hard(row: Row, found: _Found, file: Path, baseline: str | None) -> list[Line]:
    key = row.get("question_id", row.get("uid"))
    if key is None:
        raise KeyError("question_id or uid")
    found.baseline = baseline or str(row.get("baseline") or _UNNAMED)
    if row.get("category"):
        found.categories[key] = str(row["category"])
    judge = str(row.get("judge") or file.parent.name)
    lines: list[Line] = []
    for number, game in enumerate(row["games"][:2]):  # first A is the baseline, then the model: our second game first
        stated = (game or {}).get("score")
        side, strength = _SIGNS[stated] if stated else ("error", 1)
        model_is = "B" if number == 0 else "A"
        winner = side if side in ("tie", "error") else "model_1" if side == model_is else "model_2"
        text = (game or {}).get("judgment", "")
        lines.append({
            "question_id": key, "turn": 1, "judge": [judge, ""], "protocol": "arena_hard", "model_1": row["model"],
            "model_2": found.baseline, "game": 2 - number, "winner": winner, "strength": strength,
            "reason": None if stated else "no_verdict",
            "judgment": text if isinstance(text, str) else str((text or {}).get("answer", "")),
        })  # fmt: skip
    if len(lines) < 2:
        raise ValueError("a row needs two games")
    return lines


_PARSERS = {"fastchat": _fastchat, "alpaca_eval": _alpaca_eval, "arena_hard": _arena_hard}


def _add_texts(row: Row, found: _Found, file: Path) -> None:
    """Take over a question, or an answer, in the shape of either project."""
    key = row.get("question_id", row.get("uid"))
    if key is None:
        return
    if "choices" in row or "messages" in row:
        model = str(row.get("model_id") or row.get("model") or file.stem)
        turns = (
            row["choices"][0]["turns"] if "choices" in row else [m for m in row["messages"] if m["role"] == "assistant"]
        )
        found.answers.setdefault(model, {})[key] = tuple(_text(turn) for turn in turns)
    elif "turns" in row or "prompt" in row:
        found.texts[key] = tuple(_text(turn) for turn in row.get("turns") or [row["prompt"]])
        found.categories.setdefault(key, str(row.get("category") or "general"))


def _text(turn: object) -> str:
    """Return the text of a turn, which Arena-Hard wraps in ``content`` and ``answer``."""
    while isinstance(turn, dict):
        turn = turn.get("content", turn.get("answer", ""))
    return str(turn)


# --- out ----------------------------------------------------------------------------------------------


def export_judging(folder: Path, style: str, out: Path) -> list[Path]:
    """Write a pairwise judging against a baseline as AlpacaEval's or Arena-Hard's files; return them.

    Both know one turn: judgments of later turns are left out.

    Raises:
        MoemixError: the folder has no pairwise judging against a baseline.
    """
    request = resolved_request(folder)
    if request is None or request.mode != "pairwise" or request.baseline is None:
        raise MoemixError("only a pairwise judging against a baseline can be written in this format", where=str(folder))
    texts, answers = dict[QuestionId, str](), dict[str, dict[QuestionId, Answer]]()
    for row in read_jsonl(folder / CONVERSATIONS):
        texts[row["question_id"]] = row["turns"][0]
        for model, turns in row["answers"].items():
            answers.setdefault(model, {})[row["question_id"]] = tuple(turns)
    order = {key: place for place, key in enumerate(texts)}  # judgments are in the order of their arrival
    written: list[Path] = []
    for judge in request.judges:
        games: dict[str, list[tuple[Line, Line]]] = {}
        for both in match_games(read_judgments(journal_path(folder, judge.name, "pairwise"))):
            if both[0]["turn"] == 1:
                games.setdefault(both[0]["model_1"], []).append(both)
        for model, unordered in games.items():
            pairs = sorted(unordered, key=lambda both: order[both[0]["question_id"]])
            if style == "alpaca_eval":
                rows = [_as_annotation(both, judge.name, texts, answers, request.bench) for both in pairs]
                written.append(out / safe_name(model) / safe_name(judge.name) / "annotations.json")
                write_json(written[-1], rows)
            else:
                written.append(out / "model_judgment" / safe_name(judge.name) / f"{safe_name(model)}.jsonl")
                written[-1].parent.mkdir(parents=True, exist_ok=True)
                write_jsonl(written[-1], (_as_games(both, judge.name) for both in pairs))
    if style == "arena_hard":
        for model, of in answers.items():
            written.append(out / "model_answer" / f"{safe_name(model)}.jsonl")
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(written[-1], ({"question_id": key, "model_id": model, "choices": [
                {"index": 0, "turns": [{"content": turns[0]}]}]} for key, turns in of.items()))  # fmt: skip
    return written


def _as_annotation(
    both: tuple[Line, Line], judge: str, texts: Mapping[QuestionId, str],
    answers: Mapping[str, Mapping[QuestionId, Sequence[str]]], bench: str,
) -> Row:  # fmt: skip
    one = both[0]
    key, model, baseline = one["question_id"], one["model_1"], one["model_2"]
    failed = any(game["reason"] for game in both)
    return {
        "instruction": texts[key], "output_1": answers[baseline][key][0], "generator_1": baseline, "dataset": bench,
        "output_2": answers[model][key][0], "generator_2": model, "annotator": judge,
        "preference": None if failed else 1.5 + pair_of(*both).value(model) / 2,
    }  # fmt: skip


def _as_games(both: tuple[Line, Line], judge: str) -> Row:
    def label(line: Line) -> str | None:
        if line["reason"]:
            return None
        first = "model_1" if line["game"] == 1 else "model_2"  # who is A
        sign = ">>" if line.get("strength", 1) > 1 else ">"
        return "A=B" if line["winner"] == "tie" else f"A{sign}B" if line["winner"] == first else f"B{sign}A"

    games = [{"user_prompt": line["user_prompt"], "judgment": line["judgment"], "score": label(line)}
             for line in reversed(both)]  # fmt: skip
    one = both[0]
    return {"question_id": one["question_id"], "model": one["model_1"], "judge": judge, "baseline": one["model_2"],
            "category": one["category"], "games": games}  # fmt: skip
