"""Test a judge on questions with known answers, before it is believed: ``moemix judge qualify``.

<out>/<judge>/<set>.jsonl                 the questions, with the answers beside them
<out>/<judge>/<set>-scores, <set>-pairs   two judgings of these answers, which `moemix judge report` reads too
<out>/<judge>/qualification.json          last: what the judge showed, and whether it is qualified
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from evals.client import RequestError
from evals.concurrency import as_answered
from evals.judge.accuracy import auc
from evals.judge.biases import position, stability
from evals.judge.journal import Journal, read_judgments, safe_name, write_jsonl
from evals.judge.judges import Budget, Judge, Settings, cost_of, open_judge
from evals.judge.known_answers import INJECTIONS, NOTHING, PADDING, Known, bundled, published
from evals.judge.questions import PROMPTS
from evals.judge.records import JudgingProtocol, Line
from evals.judge.reference import find_error
from evals.judge.run import Confirm, judge_request, judges_of, protocol_of
from evals.judge.verdicts import JudgmentSet, Pair, Rating
from evals.replies import Completion
from harness.errors import MoemixError
from harness.files import hash_value, read_jsonl
from harness.judging import JudgeSpec, JudgeSummary, JudgeTest, Qualification, Score
from harness.provenance import provenance
from harness.requests import JudgeJobRequest
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, as_json

FILE = "qualification.json"
LEAST = 0.7  # what AUC and accuracy must surely exceed for every kind of wrong answer; chance is ½
CHANCE = 0.5  # what they must surely exceed on published sets, which are harder
JUDGED = 0.9  # share of judgments that must have a verdict
REPEATS = 2
_WRONG = {"wrong": "plain", "long_wrong": "verbose", "nothing": "null", "injected": "injected"}  # model → its name
_OWN, _OWN_TOKENS = "answers-own.jsonl", 512

logger = logging.getLogger("moemix.evals")
Interval = BootstrapInterval | None


def qualify(job: JudgeJobRequest, confirm: Confirm | None = None) -> list[Qualification]:
    """Test every judge of a request under the request's conditions; what was tested before is returned.

    The request's limit is that of each kind of question; its bench and answers do not matter. ``confirm`` is called
    with the estimate before anything that costs money is sent, and raises to stop.

    Raises:
        MoemixError: the folder holds the test of another judge, or under other conditions.
        StageError: an endpoint failed, or the budget is used up; run again to resume.
    """
    if not job.config.judges:
        raise MoemixError("there is no judge to test", hint="give --judge-model and --judge-url, or --judge-checkpoint")
    found = []
    for spec in judges_of(job):
        folder = job.out / safe_name(spec.name)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".qualify.lock"):  # jobs that need the same test wait for it
            stored = Qualification.read(folder / FILE) if (folder / FILE).is_file() else None
            found.append(stored or _test(job, spec, folder, confirm))
        _same(found[-1], job, spec, folder)
    return found


def judge_tested(job: JudgeJobRequest, confirm: Confirm | None = None) -> JudgeSummary:
    """Judge as :func:`evals.judge.run.judge_request` does, by judges that were tested where the request names tests.

    Raises:
        MoemixError: the request is invalid, or a judge is not qualified and the request requires it.
        StageError: an endpoint failed; run again to resume.
    """
    return judge_request(job, confirm, tests=_verdicts(job, confirm))


def _verdicts(job: JudgeJobRequest, confirm: Confirm | None) -> dict[str, JudgeTest]:
    """Return what the tests of a request's judges say, by judge; test them first where the request requires it.

    Raises:
        MoemixError: a judge is not qualified, and the request requires it.
    """
    if job.qualification is None and job.require:
        raise MoemixError("--require qualified needs the folder of the tests", hint="give --qualification DIR")
    if job.qualification is None or not job.config.judges:
        return {}
    folders = {spec.name: job.qualification / safe_name(spec.name) for spec in job.config.judges}
    test = job.model_copy(update={"out": job.qualification, "qualification": None, "require": None})
    if job.require:
        found = {one.judge.name: one.verdict for one in qualify(test, confirm)}
    else:
        found = {}
        for spec in judges_of(test):
            if not (folders[spec.name] / FILE).is_file():
                raise MoemixError(f"{spec.name} was not tested", where=str(folders[spec.name]),
                                  hint="run `moemix judge qualify`, or give --require qualified")  # fmt: skip
            record = Qualification.read(folders[spec.name] / FILE)
            _same(record, test, spec, folders[spec.name])
            found[spec.name] = record.verdict
    mode = job.config.mode
    bad = {name: verdict for name, verdict in found.items() if not verdict.of(mode)}
    if bad and job.require:
        what = "; ".join(f"{name}: {'; '.join(verdict.reasons)}" for name, verdict in bad.items())
        raise MoemixError(f"a judge is not qualified for {'pairs' if mode == 'pairwise' else 'scores'} ({what})",
                          where=str(job.qualification), hint="choose another judge")  # fmt: skip
    return found


def _same(found: Qualification, job: JudgeJobRequest, spec: JudgeSpec, folder: Path) -> None:
    """Raise an error if a test is of another judge, or was made under other conditions."""
    protocol, away = _protocol(job), {"url": None, "checkpoint": None, "weight": 1.0}
    same = {
        "judge": (found.judge.model_copy(update=away), spec.model_copy(update=away)),
        "protocol": ((found.protocol, found.protocol_hash), (protocol.name, protocol.fingerprint)),
        "temperature": (found.temperature, job.config.temperature),
    }
    if different := [name for name, (one, other) in same.items() if one != other]:
        message = f"the judge was tested with another {', '.join(different)}"
        hint = "a test holds for its own conditions: choose another folder to test it under these"
        raise MoemixError(message, where=str(folder), hint=hint)


def _protocol(job: JudgeJobRequest) -> JudgingProtocol:
    beside = job.data_root / "mt_bench" / PROMPTS if job.data_root else None
    return protocol_of(job, beside if beside and beside.is_file() else None)


def _test(job: JudgeJobRequest, spec: JudgeSpec, out: Path, confirm: Confirm | None) -> Qualification:
    started = time.monotonic()
    sets = {name: _limited(asked, job.config.limit)
            for name, asked in {"known": bundled(), **published(job.data_root)}.items()}  # fmt: skip
    settings = Settings.of(job)
    budget = None
    if settings.max_cost is not None and settings.price is not None:
        budget = Budget(settings.max_cost, settings.price, sum(cost_of(line, settings.price) for line in _lines(out)))
    with open_judge(spec, job.config, out, settings, budget) as judge:
        for name, questions in sets.items():
            _judge_set(job, spec, judge, name, questions, out, confirm)
    measures = {name: measure(out, name, questions) for name, questions in sets.items()}
    protocol = _protocol(job)
    qualification = Qualification(
        judge=spec,
        protocol=protocol.name,
        protocol_hash=protocol.fingerprint,
        temperature=job.config.temperature,
        questions={name: len(questions) for name, questions in sets.items()},
        verdict=verdict(measures),
        measures=as_json(measures),
        requests=sum(line["attempts"] for line in _lines(out)),
        cost=None if settings.price is None else sum(cost_of(line, settings.price) for line in _lines(out)),
        seconds=time.monotonic() - started,
        provenance=provenance(),
    )
    qualification.write(out / FILE)
    return qualification


def _limited(questions: Sequence[Known], limit: int | None) -> list[Known]:
    """Return the first ``limit`` questions of every kind; None keeps all."""
    kinds: dict[str, list[Known]] = {}
    for one in questions:
        kinds.setdefault(one.kind, []).append(one)
    return [one for of in kinds.values() for one in of[:limit]]


def _lines(out: Path) -> Iterator[Line]:
    """Yield every judgment of a test (of a pair, both games), and the judge's own answers."""
    yield from read_judgments(out / _OWN)
    for folder in sorted(out.glob("*-scores")) + sorted(out.glob("*-pairs")):
        kind = "games" if folder.name.endswith("-pairs") else "judgments"
        for path in folder.glob(f"{kind}-*.jsonl"):
            yield from read_judgments(path)


# --- asking -------------------------------------------------------------------------------------------


def _judge_set(
    job: JudgeJobRequest, spec: JudgeSpec, judge: Judge, name: str, questions: Sequence[Known], out: Path,
    confirm: Confirm | None,
) -> None:  # fmt: skip
    """Write a set's questions and answers; have the judge score all answers, and compare them with the right ones."""
    bench = out / f"{name}.jsonl"
    write_jsonl(bench, ({"question_id": one.id, "category": one.kind, "turns": [one.text]} for one in questions))
    answers = {"right": {one.id: one.right for one in questions}, "wrong": {one.id: one.wrong for one in questions}}
    if name == "known":
        answers |= _variants(questions)
        answers["own"] = _own(judge, questions, job, out / _OWN)
    files = {model: out / f"{name}-{model}.jsonl" for model, given in answers.items() if given}
    for model, file in files.items():
        rows = ({"question_id": key, "model_id": model, "choices": [{"index": 0, "turns": [text]}]}
                for key, text in answers[model].items())  # fmt: skip
        write_jsonl(file, rows)
    for mode in ("single", "pairwise"):
        pairwise = mode == "pairwise"
        config = job.config.model_copy(
            update={"bench": str(bench), "bench_content": None, "mode": mode, "judges": (spec,), "limit": None,
                    "repeats": 1 if pairwise else REPEATS}
        )  # fmt: skip
        given = tuple(file for model, file in files.items() if not (pairwise and model == "right"))
        one = job.model_copy(
            update={"config": config, "out": out / f"{name}-{'pairs' if pairwise else 'scores'}", "answers": given,
                    "baseline": files["right"] if pairwise else None, "checkpoint": None, "max_cost": None,
                    "references": None, "model_name": None,
                    "judge_checkpoints": (Path(spec.checkpoint),) if spec.checkpoint else ()}
        )  # fmt: skip
        judge_request(one, confirm, opened={spec.name: judge})


def _variants(questions: Sequence[Known]) -> dict[str, dict[str, str]]:
    """Return answers that are worth as much as the right and the wrong ones, by what was done to them."""
    return {
        "long_right": {one.id: one.right + PADDING for one in questions},
        "long_wrong": {one.id: one.wrong + PADDING for one in questions},
        "nothing": {one.id: NOTHING for one in questions},
        "injected": {one.id: one.wrong + INJECTIONS[i % len(INJECTIONS)] for i, one in enumerate(questions)},
    }


def _own(judge: Judge, questions: Sequence[Known], job: JudgeJobRequest, file: Path) -> dict[str, str]:
    """Return the judge's own answers to the questions that a rule can check; none where it gives none."""
    limit = min(_OWN_TOKENS, job.config.judge_max_tokens, (judge.context or 2 * _OWN_TOKENS) // 2)
    with closing(Journal(file)) as journal:

        def ask(known: Known, stop: threading.Event) -> None:
            payload = {"model": judge.model, "messages": [{"role": "user", "content": known.text}], "temperature": 0.0,
                       "max_tokens": limit}  # fmt: skip
            text, reason = "", None
            try:
                reply: Completion | RequestError = judge.client.complete("/chat/completions", payload, stop=stop)
            except RequestError as error:
                logger.info("%s gave no answer of its own to %s: %s", judge.model, known.id, error.detail)
                reply, reason = error, error.reason
            else:
                text = reply.text.strip()
            journal.add({"key": key_of(known), "id": known.id, "text": text, "reason": reason,
                         "attempts": reply.attempts, "prompt_tokens": reply.billed.prompt_tokens,
                         "reply_tokens": reply.billed.completion_tokens})  # fmt: skip

        def key_of(known: Known) -> str:
            return hash_value([known.id, known.text])[:32]

        missing = [one for one in questions if one.check and key_of(one) not in journal]
        with as_answered(missing, ask, concurrency=job.concurrency, finish=True) as answered:
            for _, future in answered:
                future.result()
        texts = {str(line["id"]): str(line["text"]) for line in journal.records()}
    return {one.id: texts[one.id] for one in questions if texts.get(one.id)}


# --- measuring ----------------------------------------------------------------------------------------


def measure(out: Path, name: str, questions: Sequence[Known]) -> dict[str, dict[str, object]]:
    """Return what the two judgings of a set show about the judge."""
    right = {one.id: not find_error(one.check, _text(out, name, one.id)) for one in questions if one.check}
    return {
        "scores": _of_scores(_read(out / f"{name}-scores"), right),
        "pairs": _of_pairs(_read(out / f"{name}-pairs"), right),
    }


def _text(out: Path, name: str, identity: str) -> str:
    """Return the judge's own answer to a question; empty where it gave none."""
    file = out / _OWN
    own = {row["id"]: row["text"] for row in read_jsonl(file)} if name == "known" and file.is_file() else {}
    return str(own.get(identity, ""))


def _read(folder: Path) -> JudgmentSet:
    judgments = JudgmentSet()
    judgments.read(folder)
    return judgments


def _of_scores(judgments: JudgmentSet, own_right: Mapping[str, bool]) -> dict[str, object]:
    by_model: dict[str, list[Rating]] = {}
    means: dict[str, dict[str, list[float]]] = {}
    for rating in judgments.ratings:
        by_model.setdefault(rating.model, []).append(rating)
        means.setdefault(rating.model, {}).setdefault(str(rating.question), []).append(rating.score)
    values = {model: {key: sum(own) / len(own) for key, own in of.items()} for model, of in means.items()}
    found: dict[str, object] = {"judged": _judged(judgments)}
    for model, kind in _WRONG.items():
        both = [*by_model.get("right", ()), *by_model.get(model, ())]
        if model in by_model:
            good = [rating.model == "right" for rating in both]
            found[f"auc_{kind}"] = auc([rating.score for rating in both], good, [rating.question for rating in both])
    repeats = stability(judgments.ratings)
    found |= {"reliability": repeats["reliability"], "same_score": repeats["same_score"]} if repeats else {}
    return found | _effects(values, own_right)


def _of_pairs(judgments: JudgmentSet, own_right: Mapping[str, bool]) -> dict[str, object]:
    pairs: dict[str, list[Pair]] = {}
    for pair in judgments.pairs:
        pairs.setdefault(next(model for model in pair.models if model != "right"), []).append(pair)
    values = {model: {str(pair.question): pair.value(model) for pair in of} for model, of in pairs.items()}
    values["right"] = {str(pair.question): 0.0 for pair in judgments.pairs}
    found: dict[str, object] = {"judged": _judged(judgments)}
    for model, kind in _WRONG.items():
        if of := pairs.get(model):
            won = [(pair.value("right") + 1) / 2 for pair in of]
            found[f"accuracy_{kind}"] = ClusterBootstrap(pair.question for pair in of).mean(won)
    if judgments.pairs:
        orders = position(judgments.pairs)
        found |= {"consistency": orders["consistency"], "first_place": orders["first_place"]}
    return found | _effects(values, own_right)


def _judged(judgments: JudgmentSet) -> float:
    asked = sum(judgments.asked.values())
    return 1 - sum(sum(failed.values()) for failed in judgments.failed.values()) / asked if asked else 0.0


def _effects(values: Mapping[str, Mapping[str, float]], own_right: Mapping[str, bool]) -> dict[str, Interval]:
    """Return the mean differences between answers of equal worth: padded, injected, and the judge's own."""
    if "injected" not in values:
        return {}
    peers = {key: values.get("right" if good else "wrong", {}).get(key) for key, good in own_right.items()}
    worth = {**values, "peer": {key: found for key, found in peers.items() if found is not None}}
    pairs = {
        "length_effect": (("long_right", "right"), ("long_wrong", "wrong")),
        "injection_effect": (("injected", "wrong"),),
        "self_preference": (("own", "peer"),),
    }
    effects = {}
    for name, models in pairs.items():
        gaps = [(key, value - worth[other][key]) for one, other in models
                for key, value in worth.get(one, {}).items() if key in worth.get(other, {})]  # fmt: skip
        effects[name] = ClusterBootstrap(key for key, _ in gaps).mean([gap for _, gap in gaps])
    return effects


def verdict(measures: Mapping[str, Mapping[str, Mapping[str, object]]]) -> JudgeTest:
    """Return whether a judge is qualified, and why not."""
    reasons: list[str] = []
    qualified = {}
    for part, prefix in (("scores", "auc"), ("pairs", "accuracy")):
        wrong = []
        for name, of in measures.items():
            found, least = of[part], LEAST if name == "known" else CHANCE
            if float(str(found["judged"])) < JUDGED:
                wrong.append(f"{name}: only {float(str(found['judged'])):.0%} of the {part} have a verdict")
            for key in (key for key in found if key.startswith(prefix)):
                value = found[key]
                if not isinstance(value, BootstrapInterval):
                    wrong.append(f"{name}: no {key.replace('_', ' of ')} answers")
                elif value.low <= least:
                    what = f"{prefix} of {key.removeprefix(prefix)[1:]} answers"
                    interval = f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
                    wrong.append(f"{name}: {what} {interval}, not surely above {least}")
        reasons += [f"not for {part}: {text}" for text in wrong]
        qualified[part] = not wrong
    known = measures["known"]
    return JudgeTest(
        **qualified, reasons=tuple(reasons), auc=_score(known["scores"].get("auc_plain")),
        accuracy=_score(known["pairs"].get("accuracy_plain")),
    )  # fmt: skip


def _score(found: object) -> Score | None:
    if not isinstance(found, BootstrapInterval):
        return None
    return Score(value=found.value, stderr=None, lower=found.low, upper=found.high, n=found.n)


def as_text(found: Qualification) -> str:
    """Return a test as text: a line for each measure, then the verdict."""
    asked = ", ".join(f"{count} questions ({name})" for name, count in found.questions.items())
    lines = [f"judge {found.judge.name}, {found.protocol}: {asked}, {found.requests:,} requests"]
    for name, of in found.measures.items():
        for part, measures in of.items():
            for key, value in measures.items():
                label = f"  {name}, {part}, {key.replace('_', ' ')}"
                if isinstance(value, Mapping):
                    sign = "+" if key.endswith(("effect", "preference", "place")) else ""
                    middle, low, high = (format(value[end], f"{sign}.2f") for end in ("value", "low", "high"))
                    lines.append(f"{label}: {middle} ({low} to {high})")
                elif value is not None:
                    lines.append(f"{label}: {value:.0%}")
    for part in ("scores", "pairs"):
        lines.append(f"{'QUALIFIED' if getattr(found.verdict, part) else 'NOT qualified'} for {part}")
    return "\n".join([*lines, *(f"  {reason}" for reason in found.verdict.reasons)]) + "\n"
