"""The same examples come of the same rows: by any number of processes, from any kind of file, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import Forked
from hub_server import COMMIT, serve_hub

import trainers.data.rows
from harness.errors import MoemixError
from harness.files import hash_file
from harness.recipe import Part, Source
from trainers.data import TokenSource, load_sources
from trainers.data.tokens import ARRAYS
from trainers.making.tokenizer import train_tokenizer

CASES = Path(__file__).parents[3] / "shared" / "cases" / "data"


def rows(count: int) -> list[dict]:
    made = []
    for i in range(count):
        turns = [
            {"role": "user", "content": f"Füße {i}?"},
            {"role": "assistant", "content": f"🦊 {i * i} " * (i % 40 + 1)},
        ]
        if i % 7 == 0:
            turns[1]["content"] += "<|im_end|>"
        if i % 11 == 0:
            turns[:0] = [{"role": "system", "content": "Be brief."}]
        made.append({"messages": turns[:-1] if i % 50 == 13 else turns})
    return made


def load(folder: Path, cache: Path, file: str, *, max_length: int = 200, **fields) -> tuple[TokenSource, dict]:
    """Load a source, and return it with the hashes of its arrays."""
    tokenizer = train_tokenizer((), vocab_size=0, max_length=0)
    part = Part(files=(file,), **{key: fields.pop(key) for key in ("adapter", "split") if key in fields})
    source = Source(name="s", parts=(part,), **fields)
    (loaded,) = load_sources([source], tokenizer=tokenizer, max_length=max_length, seed=0, root=folder, cache=cache)
    (made,) = [path for path in cache.iterdir() if path.is_dir()]
    return loaded, {name: hash_file(made / f"{name}.npy") for name in ARRAYS}


def write(path: Path, made: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))


@pytest.mark.parametrize(("wanted", "several"), [(None, 4), (300, 2)])
def test_one_process_and_four_give_the_same_examples(tmp_path, monkeypatch, wanted, several):
    write(tmp_path / "x.jsonl", rows(700))
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write("{a line that is cut\n")
    monkeypatch.setattr(trainers.data.rows, "_BATCH", 64)
    monkeypatch.setattr(trainers.data.rows, "_WORTH_PROCESSES", 2)
    monkeypatch.setattr(trainers.data.sources, "_MANY", 100)
    made = {}
    for processes in (1, several):
        monkeypatch.setenv(trainers.data.rows.PROCESSES, str(processes))
        loaded, hashes = load(tmp_path, tmp_path / f"cache{processes}", "x.jsonl", train_examples=wanted)
        report = loaded.report
        made[processes] = (hashes, report.bad, report.bad_at, report.notes, report.truncated, report.not_chosen)
    assert made[1] == made[several]
    assert wanted or sum("not valid JSON" in reason for reason in made[1][1]) == 1
    assert made[1][3]
    assert (made[1][5] > 0) == (wanted is not None)


def test_every_kind_of_file_gives_the_same_examples(tmp_path):
    import bz2
    import gzip
    import lzma

    import datasets
    import pyarrow
    import pyarrow.parquet

    made = rows(40)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made).encode()
    files = {
        "a.jsonl": lines,
        "b.json": json.dumps(made).encode(),
        "c.json": json.dumps({"version": 1, "data": made}, indent=1, ensure_ascii=False).encode(),
        "d.jsonl.gz": gzip.compress(lines),
        "e.jsonl.bz2": bz2.compress(lines),
        "f.json.xz": lzma.compress(json.dumps(made).encode()),
        "g.jsonl.zst": pyarrow.compress(lines, codec="zstd", asbytes=True),
        "h.ndjson": lines,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    table = pyarrow.Table.from_pylist(made)
    pyarrow.parquet.write_table(table, tmp_path / "i.parquet", row_group_size=7)
    with pyarrow.ipc.new_file(tmp_path / "j.arrow", table.schema) as out:
        out.write_table(table, max_chunksize=7)
    datasets.Dataset.from_list(made).save_to_disk(tmp_path / "k")
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(made)}).save_to_disk(tmp_path / "l")
    with (tmp_path / "m.csv").open("w", newline="") as out:  # a conversation in a cell, as JSON
        import csv

        csv.writer(out).writerows([["messages"], *([json.dumps(row["messages"])] for row in made)])
    found = {}
    for name in [*files, "i.parquet", "j.arrow", "k", "l", "m.csv"]:
        more = {"split": "dev"} if name == "l" else {}
        found[name] = load(tmp_path, tmp_path / f"cache-{name}", name, **more)[1]
    assert set(map(json.dumps, found.values())) == {json.dumps(found["a.jsonl"])}


SLOW = """
import os, time
from pathlib import Path

def read(row):
    if (mark := os.environ.get("SLOW_MARK")) and row["i"] == 700:
        Path(mark).write_text("here")
        time.sleep(60)
    return [{"role": "user", "content": str(row["i"])}, {"role": "assistant", "content": "x" * (row["i"] % 90 + 1)}]
"""
LOAD = """
from test_data_preparation import load

load(root, cache, "x.jsonl", adapter=adapter)
"""


def test_a_preparation_that_was_killed_is_made_whole_by_the_next(tmp_path):
    write(tmp_path / "x.jsonl", [{"i": i} for i in range(2000)])
    adapter = tmp_path / "slow.py"
    adapter.write_text(SLOW)
    cache, mark = tmp_path / "cache", tmp_path / "mark"
    given = {"root": tmp_path, "cache": cache, "adapter": f"{adapter}:read"}
    started = Forked(exec, LOAD, given, SLOW_MARK=str(mark))
    try:
        for _ in range(6000):
            if mark.exists():
                break
            assert started.poll() is None
            time.sleep(0.05)
        assert mark.exists()
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait()
    assert not [entry for entry in cache.iterdir() if entry.is_dir()], "nothing half-made is left"
    loaded, hashes = load(tmp_path, cache, "x.jsonl", adapter=f"{adapter}:read")
    assert len(loaded.train) == 2000
    assert hashes == load(tmp_path, tmp_path / "other", "x.jsonl", adapter=f"{adapter}:read")[1]


# --- a hub repository with several files ------------------------------------------------------------

FROM_HUB = """
import json, sys
from pathlib import Path
from harness.errors import MoemixError
from harness.recipe import Part, Source
from trainers.data import load_sources
from trainers.making.tokenizer import train_tokenizer

tokenizer = train_tokenizer((), vocab_size=0, max_length=0)
for files in ((), ("v2.json",), ("v3.json",), ("v4.jsonl",)):
    source = Source(name="s", parts=(Part(hub="org/chat", revision="main", data_files=files),))
    try:
        cache = Path(sys.argv[1])
        (loaded,) = load_sources([source], tokenizer=tokenizer, max_length=99, seed=0, root=None, cache=cache)
        counts = loaded.report.counts()
        print(json.dumps([tokenizer.decode(loaded.train[0].input_ids), counts.revisions, counts.left_out]))
    except MoemixError as error:
        print(json.dumps(str(error)))
"""


def test_files_of_a_hub_repository_are_chosen_and_its_commit_is_recorded(tmp_path):
    with serve_hub() as address:
        hub = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        env = {**os.environ, **hub, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", FROM_HUB, str(tmp_path / "cache")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    asked, (text, revisions, _), wrong, (_, _, left_out) = map(json.loads, done.stdout.splitlines())
    assert left_out == {"not in the format `sharegpt`: not valid JSON: Expecting value": 1}
    assert (
        "several files, which are not splits of one dataset: v1.json, v2.json, v4.jsonl\n  choose with `data_files`"
        in asked
    )
    assert "new" in text
    assert revisions == {"org/chat": COMMIT}
    assert "unknown file of the repository 'v3.json'" in wrong
    assert "did you mean 'v2.json'" in wrong


@pytest.mark.data
def test_three_files_of_sharegpt_are_not_read_as_one(tmp_path):
    root = CASES / "hub_three_files"
    if not root.is_dir():
        pytest.skip("the cases are not on this machine")
    tokenizer = train_tokenizer((), vocab_size=0, max_length=0)

    def loaded(**part: object) -> TokenSource:
        source = Source(name="s", parts=(Part.model_validate({"hub": "ShareGPT_Vicuna_unfiltered", **part}),))
        return load_sources([source], tokenizer=tokenizer, max_length=999, seed=0, root=root, cache=tmp_path / "cache")[
            0
        ]

    with pytest.raises(MoemixError, match="choose with `data_files`"):
        loaded()
    name = "ShareGPT_V3_unfiltered_cleaned_split_no_imsorry.json"
    source = loaded(data_files=name)
    file = root / "ShareGPT_Vicuna_unfiltered" / name
    assert source.report.rows == len(json.loads(file.read_text()))
    assert np.all(source.train.lengths > 0)
