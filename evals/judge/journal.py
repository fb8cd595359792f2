"""The files of judgments: written line by line as they come, found again by key, and read as a stream."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from evals.judge.records import Judging, Line
from harness.errors import MoemixError, StageError
from harness.files import read_json, write_bytes, write_json
from harness.judging import CONVERSATIONS, JudgeRequest, JudgeSummary
from harness.requests import FILE, RESOLVED

_SYNC_SECONDS = 1.0
_OF_BOTH = ("question_id", "category", "model_1", "model_2", "judge", "params", "turn", "repeat", "engine")


class Journal:
    """A JSONL file of judgments to which lines are only added.

    A line is handed to the system before :meth:`add` returns, and is on the disk within a second. A torn last line,
    left by a process that was killed, is cut off when the file is opened. A later line with the key of an earlier one
    replaces it. Threads may add lines at the same time.

    Raises:
        MoemixError: a line of the file is not one of our judgments.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failures = 0  # failed judgments added since the file was opened
        self._at: dict[bytes, int] = {}  # key → where its line begins
        self._lock = threading.Lock()
        self._end = self._open()
        self._file = open(path, "ab")  # noqa: SIM115  # closed by close()
        self._synced = time.monotonic()

    def _open(self) -> int:
        """Index the lines, cut off a torn last one, and return the length of the file."""
        if not self.path.is_file():
            return 0
        end = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._at[bytes.fromhex(json.loads(line)["key"])] = end
                except (ValueError, KeyError, TypeError):
                    message, hint = "the line is not a judgment written by moemix", "choose another --out folder"
                    raise MoemixError(message, where=f"{self.path}:{number}", hint=hint) from None
                end += len(line)
        if end != self.path.stat().st_size:
            os.truncate(self.path, end)
        return end

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._at

    def add(self, record: Line) -> None:
        """Append a judgment.

        Raises:
            StageError: the line cannot be written.
        """
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
                if time.monotonic() - self._synced > _SYNC_SECONDS:
                    os.fsync(self._file.fileno())
                    self._synced = time.monotonic()
            except OSError as error:
                raise StageError(f"a judgment cannot be written: {error}", where=str(self.path)) from None
            self._at[bytes.fromhex(record["key"])] = self._end
            self._end += len(line)
            self.failures += bool(record["reason"])

    def forget(self, keys: Iterable[str]) -> None:
        """Treat these judgments as missing; their lines stay in the file until they are replaced."""
        for key in keys:
            self._at.pop(bytes.fromhex(key), None)

    def places(self) -> Iterator[tuple[int, Line]]:
        """Yield every judgment in the order of the file, after the byte at which its line begins."""
        place = 0
        with open(self.path, "rb") as file:
            for raw in file:
                line: Line = json.loads(raw)
                if self._at.get(bytes.fromhex(line["key"])) == place:
                    yield place, line
                place += len(raw)

    def records(self) -> Iterator[Line]:
        """Yield every judgment in the order of the file."""
        return (line for _, line in self.places())

    def close(self) -> None:
        """Write everything to the disk and close the file."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def read_judgments(path: Path) -> Iterator[Line]:
    """Yield the judgments of a file, line by line; a missing file has none."""
    with closing(Journal(path)) as journal:
        yield from journal.records()


def resolved_request(folder: Path) -> JudgeRequest | None:
    """Return the request of the judging in a folder, with the hashes of all files; None if none has begun."""
    for path in (folder / RESOLVED, folder / FILE):  # version 0.1 stored it as request.json
        tree = read_json(path) if path.is_file() else {}
        if "bench_hash" in tree:
            return JudgeRequest.model_validate(tree)
    return None


def claim(out: Path, request: JudgeRequest) -> JudgeSummary | None:
    """Make ``out`` the folder of this request, and return the summary if it is finished.

    Raises:
        MoemixError: the folder has the judging of another request.
    """
    stored = resolved_request(out)
    if stored is None or (stored != request and stored.elsewhere() == request.elsewhere()):
        write_json(out / RESOLVED, request.model_dump(mode="json"))
    elif stored != request:
        one, other = stored.elsewhere(), request.elsewhere()
        different = [name for name in JudgeRequest.model_fields if getattr(one, name) != getattr(other, name)]
        message = f"the folder holds a judging with another {', '.join(different)}"
        raise MoemixError(message, where=str(out), hint="choose another --out, or remove the folder")
    return JudgeSummary.read(out / "summary.json") if (out / "summary.json").is_file() else None


def judge_lines(out: Path, request: JudgeRequest) -> Iterator[Line]:
    """Yield the judgments of all judges as a stream; in pairwise mode, the pairs."""
    for judge in request.judges:
        lines = read_judgments(journal_path(out, judge.name, request.mode))
        yield from join_games(lines) if request.mode == "pairwise" else lines


def journal_path(out: Path, judge: str, mode: str) -> Path:
    """Return the file of a judge's judgments (pairwise: of its single games)."""
    return out / f"{'games' if mode == 'pairwise' else 'judgments'}-{safe_name(judge)}.jsonl"


def safe_name(name: str) -> str:
    """Return a judge's name with only the characters that file names may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_") or "judge"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a JSONL file as a whole, by an atomic rename; half of a surrogate pair becomes `?`."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_bytes(path, text.encode("utf-8", "replace"))


def write_conversations(judging: Judging) -> None:
    """Write every question with the answers to it, for those who read the folder without the bench's files."""
    rows = (
        {
            "question_id": question.id,
            "category": question.category,
            "turns": question.turns,
            "answers": {m: of.answers[question.id] for m, of in judging.answers.items() if question.id in of.answers},
        }
        for question in judging.bench.questions
    )
    write_jsonl(judging.out / CONVERSATIONS, rows)


def write_pairs(out: Path, judge: str) -> None:
    """Write FastChat's file of pairwise judgments from a judge's games."""
    games = read_judgments(journal_path(out, judge, "pairwise"))
    write_jsonl(journal_path(out, judge, "single"), join_games(games))


def match_games(lines: Iterable[Line]) -> Iterator[tuple[Line, Line]]:
    """Yield the first and the second game of every pair; a pair with a missing game is left out."""
    waiting: dict[tuple[object, ...], Line] = {}
    for line in lines:
        key = (line["judge"][0], line["question_id"], line["turn"], line["model_1"], line["model_2"], line["repeat"])
        if (other := waiting.pop(key, None)) is None:
            waiting[key] = line
        else:
            yield (other, line) if other["game"] == 1 else (line, other)


def join_games(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield FastChat's line of every pair, with our fields added."""
    for one, two in match_games(lines):
        yield {name: one[name] for name in _OF_BOTH if name in one} | {
            "g1_winner": one["winner"],
            "g2_winner": two["winner"],
            "keys": [one["key"], two["key"]],
            "g1_user_prompt": one["user_prompt"],
            "g1_judgment": one["judgment"],
            "g2_user_prompt": two["user_prompt"],
            "g2_judgment": two["judgment"],
            **({"preference": one["preference"]} if one.get("preference") is not None else {}),
            "reason": one["reason"] or two["reason"],
            **{name: one[name] + two[name] for name in ("attempts", "prompt_tokens", "reply_tokens")},
            "omitted": sorted({*one.get("omitted", ()), *two.get("omitted", ())}),
            "flags": sorted({*one["flags"], *two["flags"]}),
            "tstamp": max(one["tstamp"], two["tstamp"]),
        }
