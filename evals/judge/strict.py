"""The ``strict`` protocol: our own templates, quoted answers, bounded scores, and the last verdict of a reply.

The judge must not take an answer for instructions. Every line of an answer is quoted, between marks that contain a hash
of the answer (which no answer can know). Control tokens of chat templates are defused, and passages that pose as
verdicts or as instructions are replaced. The judge replies in JSON where its server can enforce a schema; elsewhere the
last verdict in the reply counts.
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path

from evals.judge.integrity import MASK, PATTERNS, masked
from evals.judge.records import Answer, Match, Prompt, Question, Verdict
from harness.files import hash_value, read_jsonl, read_yaml

LOWEST, HIGHEST = 1, 10
VERSION = 4  # raise when a rule or a text of the templates changes
TEXTS = Path(__file__).with_name("strict.yaml")
CORRECTIONS = Path(__file__).with_name("corrections.jsonl")
_EXPLANATION = 1200  # characters, at most
_TAIL = 4000  # characters that hold an explanation and a verdict
_CHARACTERS_PER_TOKEN, _VERDICT_TOKENS = 2, 40  # leave room for the verdict after an explanation

_NUMBER = r"(-?\d+(?:\.\d+)?)(?:\s*/\s*10)?"
_RATING = re.compile(rf"\[\[\s*{_NUMBER}\s*\]\]")
_RATING_WORD = re.compile(rf"\b(?:rating|score|grade)\b\W{{1,6}}{_NUMBER}", re.IGNORECASE)
_OUT_OF_TEN = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*(?:/|out of)\s*(?:10|ten)\b", re.IGNORECASE)
_WINNER = re.compile(r"\[\[\s*(A|B|C|tie)\s*\]\]", re.IGNORECASE)
_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m sorry|i am sorry|sorry,|i (?:can(?:no|['’])t|am unable to|won['’]t|will not)\b"
    r"|as an ai(?: language)? model,? i can)",
    re.IGNORECASE,
)


class Strict:
    """Our own templates and rules.

    Args:
        reply_tokens: the limit of a reply. The schema limits the explanation accordingly, so that the verdict still
            fits: a weak judge talks until its limit.
    """

    name = "strict"

    def __init__(self, reply_tokens: int = 2048) -> None:
        self.explanation = explanation_length(reply_tokens)
        self.texts: dict[str, str] = read_yaml(TEXTS)

    @property
    def fingerprint(self) -> str:
        """Hash of the templates, the rules for passages, the version and the length of an explanation."""
        return hash_value([VERSION, self.explanation, list(self.texts.values()), read_yaml(PATTERNS)])

    def prompt(self, match: Match) -> Prompt:
        """Return the prompt for a match: instructions as the system message, quoted material as the user's."""
        fence = f"material-{hash_value([match.question.id, list(match.answers)])[:12]}"
        kind, texts = "pair" if match.pairwise else "single", self.texts
        system = texts["task"].format(mask=MASK) + texts[kind]
        system += "" if match.turn == 1 else texts["second" if match.turn == 2 else "later"].format(turn=match.turn)
        rubric = match.question.rubric_of(match.turn)
        system += (texts["guided"] if match.guided else "") + (texts["rubric"] if rubric else "")
        system += texts[f"reply_{kind}"] + texts["marks"].format(fence=fence)
        parts, removed = [], 0
        names = ("Answer A", "Answer B") if match.pairwise else ("Answer",)
        for turn, question in enumerate(match.question.turns[: match.turn]):
            of_turn = "" if match.turn == 1 else f" of turn {turn + 1}"
            asked = "\n".join(match.question.turns[: turn + 1])
            parts.append(_quoted(f"Request{of_turn}", question, fence))
            if match.guided:
                reference = corrected(match.question, turn)
                parts.append(_quoted(f"Reference answer of turn {turn + 1}", reference, fence))
            for name, answer in zip(names, match.answers, strict=True):
                text, count = _defused(answer, turn, asked)
                removed += count
                parts.append(_quoted(f"{name}{of_turn}", text, fence))
        if rubric:
            parts.append(_quoted("Rubric", rubric, fence))
        parts.append("Now grade, as told at the beginning.")
        name = f"strict-{kind}{'-guided' if match.guided else ''}-turn{match.turn}-v{VERSION}"
        return Prompt(name, system, "\n\n".join(parts), _schema(match.pairwise, self.explanation), removed)

    def verdict(self, reply: str, match: Match) -> Verdict:
        """Return the last verdict of a reply: in its last JSON object, else in brackets or after a word for a score."""
        failed = Verdict(reason="refused" if _REFUSAL.search(reply) else "no_verdict")
        stated = _stated(reply, "winner" if match.pairwise else "rating")
        if match.pairwise:
            winner = {"A": "A", "B": "B", "C": "tie", "TIE": "tie"}.get(str(stated).strip().upper())
            if winner is None and (marks := _WINNER.findall(reply)):
                winner = {"A": "A", "B": "B"}.get(marks[-1].upper(), "tie")
            return Verdict(winner=winner) if winner else failed
        score = _number(stated)
        if score is None and (
            marks := _RATING.findall(reply) or _RATING_WORD.findall(reply) or _OUT_OF_TEN.findall(reply)
        ):
            score = _number(marks[-1])
        if score is None:
            return failed
        return Verdict(score=score) if LOWEST <= score <= HIGHEST else Verdict(reason="out_of_range")


def explanation_length(reply_tokens: int) -> int:
    """Return how many characters an explanation may have so that the verdict still fits behind it."""
    return max(40, min(_EXPLANATION, _CHARACTERS_PER_TOKEN * (reply_tokens - _VERDICT_TOKENS)))


def corrected(question: Question, turn: int) -> str:
    """Return the reference answer to a turn (0, 1, …): ours where MT-Bench's published one is wrong.

    Thirteen of the thirty published references (GPT-4's) have a wrong turn. ``corrections.jsonl`` has right answers to
    these eighteen turns in our own words, by the hash of the question's text, so that other benches are not affected.
    """
    return _corrections().get((hash_value(list(question.turns))[:12], turn), question.reference[turn])


@functools.cache
def _corrections() -> dict[tuple[str, int], str]:
    return {(row["question"], row["turn"] - 1): row["reference"] for row in read_jsonl(CORRECTIONS)}


def _schema(pairwise: bool, explanation: int) -> dict[str, object]:
    choice: dict[str, object] = (
        {"winner": {"type": "string", "enum": ["A", "B", "tie"]}}
        if pairwise
        else {"rating": {"type": "integer", "minimum": LOWEST, "maximum": HIGHEST}}
    )
    properties = {"explanation": {"type": "string", "maxLength": explanation}, **choice}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _quoted(label: str, text: str, fence: str) -> str:
    lines = "\n".join(f"> {line}" for line in text.splitlines()) or "> (empty)"
    return f"{label}:\n<{fence}>\n{lines}\n</{fence}>"


def _defused(answer: Answer, turn: int, asked: str) -> tuple[str, int]:
    """Return an answer's text without passages to the judge and control tokens, and how many passages were replaced."""
    text, removed = masked(answer[turn] if turn < len(answer) else "", asked)
    return re.sub(r"<\|([^|\s<>]{1,40})\|>", r"<¦\1¦>", text), removed


def _stated(reply: str, key: str) -> object:
    """Return the value of ``key`` in the last JSON object of a reply that has it; None without one."""
    decoder, value, start = json.JSONDecoder(), None, reply.find("{") if f'"{key}"' in reply else -1
    while start != -1:
        end = start + 1
        try:
            parsed, end = decoder.raw_decode(reply, start)
            if isinstance(parsed, dict) and key in parsed:
                value = parsed[key]
        except ValueError:
            pass
        except (
            RecursionError
        ):  # a verdict behind thousands of braces is near the end; trying each of them takes seconds
            end = max(end, len(reply) - _TAIL)
        start = reply.find("{", end)
    return value


def _number(value: object) -> float | None:
    if isinstance(value, str):
        match = re.fullmatch(rf"\s*(?:\[\[)?\s*{_NUMBER}\s*(?:\]\])?\s*", value)
        value = float(match.group(1)) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number with hundreds of digits
        return math.inf if value > 0 else -math.inf
