"""One question scored again from the responses alone, by lm-eval's rules, without lm-eval.

Multiple choice from the log-likelihoods, exact match from the answers (the filters are applied again too), greedy
log-likelihood from its flag. What runs code, or asks another model, cannot be scored from a text file: for such metrics
:func:`rescore` knows nothing. A rule is used on a board only where it gave lm-eval's own scores on every question of
the evaluation that was pinned (``Scorer.recomputed``).
"""

from __future__ import annotations

import ast
import functools
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.submissions import Scorer

_STEPS: dict[str, Callable[[list[str]], list[str]]] = {
    "remove_whitespace": lambda answers: [answer.strip() for answer in answers],
    "lowercase": lambda answers: [answer.lower() for answer in answers],
    "uppercase": lambda answers: [answer.upper() for answer in answers],
}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)


class Contradiction(ValueError):
    """A sample that contradicts itself."""


def scorer_of(config: Mapping[str, Any]) -> Scorer:
    """The scoring rules in a task's configuration (``configs`` of lm-eval's results)."""
    custom = config.get("process_results") is not None
    metrics = {
        str(entry["metric"]): {k: v for k, v in entry.items() if k not in ("metric", "aggregation", "higher_is_better")}
        for entry in config.get("metric_list") or ()
    }
    filters = {str(f["name"]): tuple(f["filter"]) for f in config.get("filter_list") or ()}
    return Scorer(
        output_type=f"{config.get('output_type')}{' with its own scoring' if custom else ''}",
        target_delimiter=config.get("target_delimiter", " ") or "",
        metrics=metrics,
        filters=filters or {"none": ({"function": "take_first"},)},
    )


def rescore(sample: Mapping[str, Any], metric: str, scorer: Scorer) -> float | None:
    """The metric of one sample; None if it cannot be had from the sample.

    Raises:
        Contradiction: the recorded filtered answer is not what the filter makes of the response, a log-likelihood is
            no number, …
    """
    if scorer.output_type == "multiple_choice":
        return _multiple_choice(sample, metric, scorer.target_delimiter)
    if scorer.output_type == "generate_until" and metric == "exact_match":
        answer = _filtered(sample, scorer.filters.get(sample["filter"]))
        return None if answer is None else _exact_match(answer, sample["target"], scorer.metrics.get(metric, {}))
    if scorer.output_type == "loglikelihood" and metric == "acc":
        return float(_likelihoods(sample)[1][0])
    return None


def filtered_answer(sample: Mapping[str, Any]) -> str:
    """The answer as the filter left it, for people to read."""
    first = sample["filtered_resps"][0] if sample.get("filtered_resps") else ""
    return str(first[0] if isinstance(first, list) and first else first)


def known_filter(steps: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether an answer can be filtered again here."""
    return steps is not None and all(step.get("function") in ("take_first", "regex", *_STEPS) for step in steps)


def filtered_programs(sample: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """The programs that a known filter makes of the responses, which must be those recorded: several where a task
    samples several answers to a question, which stay as they are.

    Raises:
        Contradiction: they are others, or there is none.
    """
    try:
        recorded = sample["filtered_resps"][0]
        if isinstance(recorded, list) and recorded != sample["resps"][0]:
            raise Contradiction("the programs are not the responses")
        programs: list[Any] = recorded if isinstance(recorded, list) else [_filtered(sample, steps)]
    except Contradiction as error:
        raise Contradiction(f"{where}: {error}") from None
    except (KeyError, IndexError, TypeError):
        raise Contradiction(f"{where}: no sample of a generated text") from None
    if not programs or not all(isinstance(program, str) for program in programs):
        raise Contradiction(f"{where}: there is no program")
    return programs


def _likelihoods(sample: Mapping[str, Any]) -> tuple[list[float], list[bool]]:
    """Log-likelihood and greedy flag of each continuation."""
    try:
        pairs = [(float(reply[0][0]), reply[0][1] in ("True", True)) for reply in sample["resps"]]
    except (TypeError, ValueError, IndexError, KeyError):
        raise Contradiction("a response is no pair of log-likelihood and greedy flag") from None
    if not pairs or not all(math.isfinite(value) for value, _ in pairs):
        raise Contradiction("a log-likelihood is not a finite number")
    if sample.get("filter") == "none" and [list(r[0]) for r in sample["resps"]] != [
        list(f) for f in sample.get("filtered_resps") or ()
    ]:
        raise Contradiction("the filtered responses are not the responses")
    return [value for value, _ in pairs], [greedy for _, greedy in pairs]


def _multiple_choice(sample: Mapping[str, Any], metric: str, delimiter: str) -> float | None:
    if metric not in ("acc", "acc_norm", "acc_bytes"):
        return None
    values, _ = _likelihoods(sample)
    requests = sample["arguments"]
    choices = [str(requests[f"gen_args_{i}"]["arg_1"]) for i in range(len(values))]
    choices = [choice.removeprefix(delimiter) for choice in choices]
    if metric == "acc_norm":
        values = [value / (len(choice) or math.nan) for value, choice in zip(values, choices, strict=True)]
    elif metric == "acc_bytes":
        values = [value / (len(choice.encode()) or math.nan) for value, choice in zip(values, choices, strict=True)]
    best = max(range(len(values)), key=values.__getitem__)
    gold = _gold(str(sample["target"]), choices)
    return None if gold is None else float(best in gold)


def _gold(target: str, choices: Sequence[str]) -> Sequence[int] | None:
    """The right choices: a number, a list of numbers, or the text of one."""
    if re.fullmatch(r"-?\d{1,9}", target):
        return (int(target),)
    if re.fullmatch(r"\[[\d, ]{1,200}\]", target):
        return tuple(int(item) for item in ast.literal_eval(target))
    return (choices.index(target),) if target in choices else None


def _filtered(sample: Mapping[str, Any], steps: Sequence[Mapping[str, Any]] | None) -> str | None:
    """The first answer after the filter, which must be the one recorded; None for a filter not known here."""
    recorded = sample["filtered_resps"][0]
    if steps is None or not isinstance(recorded, str):
        return None
    answers = [str(answer) for answer in sample["resps"][0]]
    for step in steps:
        name = step.get("function")
        if name == "take_first":
            answers = answers[:1]
        elif name == "regex":
            answers = [_extract(answer, step) for answer in answers]
        elif name in _STEPS:
            answers = _STEPS[name](answers)
        else:
            return None
    if answers[:1] != [recorded]:
        raise Contradiction(f"the filter {sample['filter']!r} does not make {recorded[:60]!r} of the response")
    return recorded


def _extract(answer: str, step: Mapping[str, Any]) -> str:
    fallback = str(step.get("fallback", "[invalid]"))
    found = _compiled(step.get("regex_pattern", r"#### (\-?[0-9\.\,]+)")).findall(answer)
    if not found:
        return fallback
    try:
        match = found[step.get("group_select", 0)]
    except IndexError:
        raise Contradiction("the filter selects a match that is not there") from None
    if isinstance(match, tuple):
        match = next((group for group in match if group), fallback)
    return str(match).strip()


def _exact_match(answer: str, target: Any, options: Mapping[str, Any]) -> float:
    sides = [answer, str(target)]
    for pattern in options.get("regexes_to_ignore") or ():
        sides = [_compiled(pattern).sub("", side) for side in sides]
    if options.get("ignore_case"):
        sides = [side.lower() for side in sides]
    if options.get("ignore_punctuation"):
        sides = [side.translate(_PUNCTUATION) for side in sides]
    if options.get("ignore_numbers"):
        sides = [side.translate(_DIGITS) for side in sides]
    # numpy's fixed-width text, which lm-eval compares, drops trailing NULs
    return float(sides[0].rstrip("\0") == sides[1].rstrip("\0"))


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
