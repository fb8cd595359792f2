"""Score one question again from its responses alone, by lm-eval's rules but without lm-eval.

Multiple choice is scored from the log-likelihoods, exact match from the answers (the filters are applied again, too),
greedy log-likelihood from its flag. Metrics that run code or ask another model cannot be scored from a text file;
:func:`rescore` returns None for them. A board uses a rule only if it gave lm-eval's own score on every question of the
pinned evaluation (``Scorer.recomputed``).
"""

from __future__ import annotations

import functools
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from harness.samples import Sample
from leaderboards.board.submissions import Scorer

Step = Mapping[str, object]  # of a filter: `function` and its arguments

_SIMPLE_STEPS: dict[str, Callable[[str], str]] = {
    "remove_whitespace": str.strip,
    "lowercase": str.lower,
    "uppercase": str.upper,
}
_KNOWN_STEPS = ("take_first", "regex", *_SIMPLE_STEPS)
_WHOLE = re.compile(r"-?\d{1,9}")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)


class ContradictionError(ValueError):
    """A sample contradicts itself or is not what its task requires."""


def scorer_of(config: Mapping[str, object]) -> Scorer:
    """Return the scoring rules in a task's configuration (``configs`` in lm-eval's results)."""
    custom = config.get("process_results") is not None
    metric_list = cast("list[dict[str, object]]", config.get("metric_list") or [])
    filter_list = cast("list[dict[str, object]]", config.get("filter_list") or [])
    ignored = ("metric", "aggregation", "higher_is_better")
    filters = {str(f["name"]): f["filter"] for f in filter_list}
    return Scorer.model_validate(
        {
            "output_type": f"{config.get('output_type')}{' with its own scoring' if custom else ''}",
            "target_delimiter": config.get("target_delimiter", " ") or "",
            "metrics": {str(m["metric"]): {k: v for k, v in m.items() if k not in ignored} for m in metric_list},
            "filters": filters or {"none": [{"function": "take_first"}]},
        }
    )


def rescore(sample: Sample, metric: str, scorer: Scorer) -> float | None:
    """Return a metric of one question by its responses, or None if the responses alone do not determine it.

    Raises:
        ContradictionError: the sample's responses, its filtered responses or its target do not fit together.
    """
    if scorer.output_type == "multiple_choice":
        return _multiple_choice(sample, metric, scorer.target_delimiter)
    if scorer.output_type == "generate_until" and metric == "exact_match":
        answer = _filtered(sample, scorer.filters.get(sample.filter))
        return None if answer is None else _exact_match(answer, str(sample.target), scorer.metrics.get(metric, {}))
    if scorer.output_type == "loglikelihood" and metric == "acc":
        return float(_likelihoods(sample)[1][0])
    return None


def filtered_answer(sample: Sample) -> str:
    """Return the answer as the filter left it, for people to read."""
    filtered = sample.filtered
    first = filtered[0] if isinstance(filtered, list) and filtered else ""
    return str(first[0] if isinstance(first, list) and first else first)


def known_filter(steps: Sequence[Step] | None) -> bool:
    """Return whether this module can apply a filter again."""
    return steps is not None and all(step.get("function") in _KNOWN_STEPS for step in steps)


def filtered_programs(sample: Sample, steps: Sequence[Step], name: str) -> list[str]:
    """Return the programs that a known filter makes of the responses.

    A task may sample several answers to a question; such programs are the responses themselves.

    Raises:
        ContradictionError: the recorded programs are others, or there is none.
    """
    try:
        responses, filtered = _responses(sample), sample.filtered
        recorded = filtered[0] if isinstance(filtered, list) and filtered else None
        if isinstance(recorded, list) and recorded != responses[0]:
            raise ContradictionError("the programs are not the responses")
        programs = recorded if isinstance(recorded, list) else [_filtered(sample, steps)]
    except ContradictionError as error:
        raise ContradictionError(f"{name}: {error}") from None
    texts = [program for program in programs if isinstance(program, str)]
    if not texts or len(texts) < len(programs):
        raise ContradictionError(f"{name}: there is no program")
    return texts


def _responses(sample: Sample) -> list[list[object]]:
    """Return the responses: a list for each request, with one item per repeat."""
    responses = sample.responses
    if isinstance(responses, list) and responses and all(isinstance(r, list) and r for r in responses):
        return responses
    raise ContradictionError("the responses are not lists of answers")


def _likelihoods(sample: Sample) -> tuple[list[float], list[bool]]:
    """Return log-likelihood and greedy flag of each continuation."""
    replies = cast("list[list[str]]", [reply[0] for reply in _responses(sample)])
    try:
        values = [float(reply[0]) for reply in replies]
        greedy = [reply[1] in ("True", True) for reply in replies]
    except (TypeError, ValueError, IndexError, KeyError):
        raise ContradictionError("a response is not a pair of log-likelihood and greedy flag") from None
    if not all(map(math.isfinite, values)):
        raise ContradictionError("a log-likelihood is not a finite number")
    if sample.filter == "none" and replies != sample.filtered:
        raise ContradictionError("the filtered responses are not the responses")
    return values, greedy


def _multiple_choice(sample: Sample, metric: str, delimiter: str) -> float | None:
    if metric not in ("acc", "acc_norm", "acc_bytes"):
        return None
    values, _ = _likelihoods(sample)
    choices = [str(request[1]).removeprefix(delimiter) for request in sample.requests if len(request) > 1]
    if len(choices) != len(values):
        raise ContradictionError(f"{len(values)} responses to {len(choices)} choices")
    if metric != "acc":
        lengths = [len(choice.encode("utf-8", "surrogatepass") if metric == "acc_bytes" else choice)
                   for choice in choices]  # fmt: skip
        values = [value / (length or math.nan) for value, length in zip(values, lengths, strict=True)]
    best = max(range(len(values)), key=values.__getitem__)
    gold = _gold(str(sample.target), choices)
    return None if gold is None else float(best in gold)


def _gold(target: str, choices: Sequence[str]) -> Sequence[int] | None:
    """Return the right choices of a target: a number, a list of numbers, or the text of a choice."""
    if _WHOLE.fullmatch(target):
        return (int(target),)
    if re.fullmatch(r"\[[\d, ]{1,200}\]", target):
        return tuple(int(item) for item in re.findall(r"\d+", target))
    return (choices.index(target),) if target in choices else None


def _filtered(sample: Sample, steps: Sequence[Step] | None) -> str | None:
    """Return the first answer after the filter, which must be the recorded one; None for an unknown filter."""
    filtered = sample.filtered
    recorded = filtered[0] if isinstance(filtered, list) and filtered else None
    if steps is None or not isinstance(recorded, str):
        return None
    answers = [str(answer) for answer in _responses(sample)[0]]
    for step in steps:
        name = str(step.get("function"))
        if name == "take_first":
            answers = answers[:1]
        elif name == "regex":
            answers = [_extract(answer, step) for answer in answers]
        elif name in _SIMPLE_STEPS:
            answers = [_SIMPLE_STEPS[name](answer) for answer in answers]
        else:
            return None
    if answers[:1] != [recorded]:
        raise ContradictionError(f"the filter {sample.filter!r} does not make {recorded[:60]!r} of the response")
    return recorded


def _extract(answer: str, step: Step) -> str:
    fallback = str(step.get("fallback", "[invalid]"))
    matches = _compiled(str(step.get("regex_pattern", r"#### (\-?[0-9\.\,]+)"))).findall(answer)
    if not matches:
        return fallback
    select = step.get("group_select", 0)
    try:
        match = matches[select if isinstance(select, int) else 0]
    except IndexError:
        raise ContradictionError("the filter selects a match that does not exist") from None
    if isinstance(match, tuple):
        match = next((group for group in match if group), fallback)
    return str(match).strip()


def _exact_match(answer: str, target: str, options: Mapping[str, object]) -> float:
    sides = [answer, target]
    for pattern in cast("list[str]", options.get("regexes_to_ignore") or []):
        sides = [_compiled(pattern).sub("", side) for side in sides]
    if options.get("ignore_case"):
        sides = [side.lower() for side in sides]
    if options.get("ignore_punctuation"):
        sides = [side.translate(_PUNCTUATION) for side in sides]
    if options.get("ignore_numbers"):
        sides = [side.translate(_DIGITS) for side in sides]
    # lm-eval compares numpy's fixed-width text, which drops NULs at the end
    return float(sides[0].rstrip("\0") == sides[1].rstrip("\0"))


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
