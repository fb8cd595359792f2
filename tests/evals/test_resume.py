"""An evaluation that is killed among requests of any kind goes on with what is missing, and asks nothing twice."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from forked import Forked

from evals import sandbox
from harness.records import EvalSummary

# A word that only a task's prompts have → its task file. The last is asked of the gold answers of `written`.
KINDS = {
    "chosen": (
        "output_type: multiple_choice\ndoc_to_text: 'chosen {{n}}:'\ndoc_to_choice: [' red', ' blue']\n"
        "doc_to_target: '{{n % 2}}'\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    ),
    "likely": (
        "output_type: loglikelihood\ndoc_to_text: 'likely {{n}}'\ndoc_to_target: ' is here'\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    ),
    "written": (
        "output_type: generate_until\ndoc_to_text: 'written {{n}}:'\ndoc_to_target: 'it is {{n}}'\n"
        "generation_kwargs: {until: ['~'], do_sample: false, max_gen_toks: 4}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    ),
    "sampled": (
        "output_type: generate_until\ndoc_to_text: 'sampled {{n}}:'\ndoc_to_target: 'x'\n"
        "generation_kwargs: {until: ['~'], do_sample: true, temperature: 1.0, max_gen_toks: 4}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    ),
    "program": (
        "output_type: generate_until\ndoc_to_text: 'program {{n}}:'\ndoc_to_target: 'x'\ntarget_delimiter: ''\n"
        "generation_kwargs: {until: ['~'], do_sample: false, max_gen_toks: 4}\n"
        "process_results: !function code.pass_at_1\n"
        "metric_list: [{metric: pass_at_1, aggregation: mean, higher_is_better: true}]\n"
    ),
    "rolling": (
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: 'rolling on and on {{n}}'\n"
        "metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]\n"
    ),
}
METRICS = {"written": "exact_match", "sampled": "exact_match", "program": "pass_at_1", "rolling": "word_perplexity"}
QUESTIONS = 6

# Runs the evaluation in a process for each place to die, and one to the end; they write down every answer they store.
CODE = """
import os, signal
import evals.cache, evals.loading, evals.runner, evals.continuous, evals.code_eval, evals.engines.in_process
from harness.requests import EvalJobRequest
put, key_of, texts = evals.cache.ResponseCache.put, evals.cache.ResponseCache.key, {}
def key(self, kind, arguments):
    made = key_of(self, kind, arguments)
    texts[made] = f"{kind} {arguments[0]} {arguments[1:]}"
    return made
evals.cache.ResponseCache.key = key
for place in [*places, ""]:
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    seen = []
    def logged(self, made, answer):
        put(self, made, answer)
        with open(log, "a") as file:
            file.write(made + "\\n")
        kind, word = (place.split() or ["", ""])
        seen.extend([made] if place and texts[made].startswith(kind) and word in texts[made] else [])
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    evals.cache.ResponseCache.put = logged
    config = evals.runner.request_for(suite, tasks=(), limit=None, engine="transformers", dtype="float32", seed=0)
    evals.runner.evaluate(EvalJobRequest(config=config, checkpoint=checkpoint, out=out))
    os._exit(0)
"""
PLACES = (
    "loglikelihood chosen", "loglikelihood likely", "generate_until program", "generate_until written",
    "generate_until sampled", "loglikelihood_rolling rolling", "loglikelihood written",
)  # fmt: skip


@pytest.fixture
def suite(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"n": n, "tests": ["assert True"]}) + "\n" for n in range(QUESTIONS)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "code.py").write_text("from evals.code_eval import pass_at_1\n")
    columns = ""
    for kind, task in KINDS.items():
        if kind == "program" and sandbox.available():
            continue
        (tmp_path / "tasks" / f"{kind}.yaml").write_text(
            f"task: kind_{kind}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
            f"test_split: test\n{task}metadata: {{version: 1.0, sandbox: {str(kind == 'program').lower()}}}\n"
        )
        columns += f"  - {{name: {kind}, tasks: [kind_{kind}], metric: {METRICS.get(kind, 'acc')}}}\n"
    (tmp_path / "kinds.yaml").write_text(f"name: kinds\ninclude: [tasks]\ncolumns:\n{columns}")
    return tmp_path / "kinds.yaml"


def test_an_evaluation_killed_among_requests_of_each_kind_asks_nothing_twice(suite, checkpoint, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    places = [place for place in PLACES if not (place.endswith("program") and sandbox.available())]
    given = {"suite": str(suite), "checkpoint": checkpoint, "out": out, "log": log, "places": places}
    done = Forked(exec, CODE, given).wait()
    assert done.stdout.split() == [*["-9"] * len(places), "0"], done.stderr
    summary = EvalSummary.read(out / "summary.json")
    assert all(column.value is not None for column in summary.columns.values()), done.stderr
    stored = Counter(log.read_text().split())
    assert set(stored.values()) == {1}
