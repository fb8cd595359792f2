"""Answer filters of this project: how a column reads an answer where no filter of its lm-eval task reads it rightly.

A column names one as its ``filter``; it stands beside the task's own filters, so results have the scores of both. They
are made of lm-eval's own steps, which a board can apply again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_STATED = r"(?:answer\s*(?:is|:|=)|####|\\boxed\{)[^\n\d]{0,40}?"  # what comes before a final answer
_NUMBER = r"(-?\$?-?(?:\d[\d,]*(?:\.\d*[1-9])?|\.\d*[1-9]))"  # without the zeros after a decimal point
_ALONE = rf"(?<![\d.,\w]){_NUMBER}"

FILTERS: dict[str, list[dict[str, str]]] = {
    # Some decoders keep the space before an answer, and others drop it.
    "stripped": [{"function": "remove_whitespace"}],
    # The last number that is said to be the answer, else the last one outside parentheses, else the last one.
    "number": [
        {"function": "regex", "regex_pattern": rf"(?si)\A(?:.*{_STATED}{_NUMBER}|.*{_ALONE}(?![^()]*\))|.*{_ALONE})"}
    ],
    # What follows the last "answer is", or the first line: an option's letter in parentheses, or the text as it is
    # without quotes, asterisks and a final point.
    "short-answer": [
        {
            "function": "regex",
            "regex_pattern": r"(?si)\A(?:.*answer(?: is:?|:))?[\s*\"'`]*(\([A-Z]\)|[^\n]+?(?=[\s.*\"'`]*(?:\n|\Z)))",
        }
    ],
    # The letter that is said to be the answer, else the last one in parentheses, else the one at the beginning.
    "choice": [
        {
            "function": "regex",
            "regex_pattern": r"(?s)\A(?:.*(?:(?i:answer(?:\s+is)?)|\\boxed)[\s:=*\"'`({\[$]*"
            r"(?:(?i:option|choice)\s+|\\text\{)?\(?([A-J])(?![\w'’])"
            r"|.*\(([A-J])\)|[\s*\"'`]*([A-J])(?![\w'’]))",
        }
    ],
    # What is in the first fence, else everything from the first line that begins a definition or an import.
    "code": [
        {
            "function": "regex",
            "regex_pattern": r"(?s)\A(?:.*?```[^\n`]*\n(.*?)(?:\n[ \t]*```|\Z)"
            r"|(?:.*?\n)??((?:def|import|from|class|async def|@)\b.*)|(.*))",
        }
    ],
}


def add_filter(task: Task, name: str, *, keep_all: bool) -> None:
    """Make a task also read its answers with one of :data:`FILTERS`, unless it has a filter of this name.

    With ``keep_all`` the metric gets all answers to a question instead of the first.
    """
    from lm_eval.filters import build_filter_ensemble

    if name in [ensemble.name for ensemble in task._filters]:
        return
    steps = [*FILTERS[name], *([] if keep_all else [{"function": "take_first"}])]
    stock = task.config.filter_list or [{"name": "none", "filter": [{"function": "take_first"}]}]
    task.set_config(key="filter_list", value=[*stock, {"name": name, "filter": steps}])
    components = [(step["function"], {key: step[key] for key in step if key != "function"}) for step in steps]
    task._filters.append(build_filter_ensemble(name, components))
