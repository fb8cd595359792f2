"""``transcript.html``: what was asked, answered, judged and said, to read and filter. Every string is escaped.

One page without a build step, a server or anything from elsewhere. Its only script is ours, allowed by its hash, so
nothing inside an answer can run; it shows and hides, and writes no HTML.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from evals.judge.answers import Answers
from evals.judge.questions import Bench, Question
from evals.judge.run import journal_path
from harness.records import JudgeRequest

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
form{position:sticky;top:0;background:#fff;padding:.5rem 0;border-bottom:1px solid #888;display:flex;flex-wrap:wrap;
gap:.5rem 1rem;align-items:center}
article{border:1px solid #bbb;border-radius:.3rem;margin:1rem 0;padding:.3rem 1rem}
h2{font-size:1rem;margin:.4rem 0}h3{font-size:.9rem;margin:.6rem 0 .2rem;color:#444}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:0;padding-left:.8rem;border-left:3px solid #ccc}
.verdict{font-weight:600}.failed{color:#a00000}.flag{background:#fff0c2;padding:0 .4rem;border-radius:.2rem}
[hidden]{display:none}
"""
SCRIPT = """
const form=document.querySelector('form'),all=[...document.querySelectorAll('article')];
const count=document.querySelector('output');
function show(){const want=Object.fromEntries(new FormData(form));let shown=0;
const text=(want.text||'').toLowerCase();
for(const a of all){let ok=true;
for(const key of ['category','turn','judge','model','state']){
if(want[key]&&!(' '+a.dataset[key]+' ').includes(' '+want[key]+' '))ok=false}
if(ok&&text)ok=a.textContent.toLowerCase().includes(text);
a.hidden=!ok;if(ok)shown++}
count.textContent=shown+' of '+all.length}
form.addEventListener('input',show);form.addEventListener('submit',e=>e.preventDefault());show();
"""


def write_transcript(
    out: Path, request: JudgeRequest, bench: Bench, answers: Mapping[str, Answers], title: str
) -> None:
    """Write the page, judgment by judgment: however many there are, only one is held in memory."""
    temporary = out / ".transcript.html.tmp"
    with open(temporary, "w", encoding="utf-8", errors="replace") as page:
        page.writelines(_page(out, request, bench, answers, title))
        page.flush()
        os.fsync(page.fileno())
    os.replace(temporary, out / "transcript.html")


def _page(out: Path, request: JudgeRequest, bench: Bench, answers: Mapping[str, Answers], title: str) -> Iterator[str]:
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    name = escape(f"{title} · {', '.join(request.answers)}")
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    yield f'<meta name="viewport" content="width=device-width"><title>{name}</title><style>{STYLE}</style></head>\n'
    yield f"<body><h1>{name}</h1>\n{_form(request, bench)}\n"
    questions = {question.id: question for question in bench.questions}
    for line in _in_order(out, request, bench):
        yield _article(line, questions[line["question_id"]], answers)
    yield f"<script>{SCRIPT}</script></body></html>\n"


def _form(request: JudgeRequest, bench: Bench) -> str:
    choices = {
        "category": list(dict.fromkeys(question.category for question in bench.questions)),
        "turn": ["1", "2"],
        "model": list(request.answers),
        "judge": [judge.name for judge in request.judges],
        "state": ["judged", "failed", "flagged"],
    }
    fields = []
    for key, values in choices.items():
        options = "".join(f'<option value="{escape(_token(v))}">{escape(v)}</option>' for v in values)
        fields.append(f'<label>{key} <select name="{key}"><option value="">all</option>{options}</select></label>')
    fields.append('<label>text <input name="text" type="search"></label><output></output>')
    return f"<form>{''.join(fields)}</form>"


def _in_order(out: Path, request: JudgeRequest, bench: Bench) -> Iterator[dict[str, Any]]:
    """Judgments by question, turn, models, judge and repeat; each read from its place in its file."""
    order = {question.id: number for number, question in enumerate(bench.questions)}
    places: dict[str, tuple[tuple[Any, ...], Path, int]] = {}
    for number, judge in enumerate(request.judges):
        path = journal_path(out, judge.name, request.mode)
        place = 0
        with open(path, "rb") as file:
            for raw in file:
                line = json.loads(raw)
                if line["question_id"] in order:
                    models = _models(line)
                    key = (
                        order[line["question_id"]],
                        line["turn"],
                        models,
                        number,
                        line["repeat"],
                        line.get("game", 0),
                    )
                    places[line["key"]] = (key, path, place)
                place += len(raw)
    for _, path, place in sorted(places.values(), key=lambda held: held[0]):
        with open(path, "rb") as file:
            file.seek(place)
            yield json.loads(file.readline())


def _models(line: Mapping[str, Any]) -> tuple[str, ...]:
    return (line["model"],) if "model" in line else (line["model_1"], line["model_2"])


def _article(line: Mapping[str, Any], question: Question, answers: Mapping[str, Answers]) -> str:
    models, turn, failed = _models(line), line["turn"], bool(line["reason"])
    states = ["failed" if failed else "judged", *(["flagged"] if line["flags"] else [])]
    data = {
        "category": _token(question.category),
        "turn": str(turn),
        "model": " ".join(map(_token, models)),
        "judge": _token(line["judge"][0]),
        "state": " ".join(states),
    }
    attributes = " ".join(f'data-{key}="{escape(value)}"' for key, value in data.items())
    head = f"question {question.id} · {question.category} · turn {turn} · {' against '.join(models)}"
    parts = [f"<article {attributes}><h2>{escape(head)}</h2>"]
    if line["flags"]:
        parts.append("<p>" + " ".join(f'<span class="flag">{escape(flag)}</span>' for flag in line["flags"]) + "</p>")
    for number in range(turn):
        parts.append(_text(f"question, turn {number + 1}", question.turns[number]))
        for model in models:
            parts.append(_text(f"{model}, turn {number + 1}", answers[model].answers[question.id].turns[number]))
    if len(question.reference) >= turn:
        parts.append(_text("reference", question.reference[turn - 1]))
    verdict = line["reason"] if failed else str(line.get(line.get("winner", "score"), line.get("winner")))
    shown = f"{line['judge'][0]} ({line['judge'][1]}), repeat {line['repeat'] + 1}"
    if "game" in line:
        shown += f", shown first: {models[0] if line['game'] == 1 else models[1]}"
    kind = "verdict failed" if failed else "verdict"
    parts.append(f'<h3>{escape(shown)}</h3><p class="{kind}">{escape(verdict)}</p>')
    parts.append(f"<pre>{escape(line['judgment'] or line['detail'])}</pre></article>\n")
    return "".join(parts)


def _text(title: str, text: str) -> str:
    return f"<h3>{escape(title)}</h3><pre>{escape(text)}</pre>"


def _token(text: str) -> str:
    """A name as one word of a filter."""
    return "_".join(text.split())
