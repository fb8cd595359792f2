"""Reading files of training rows: moemix's readers beside those of `datasets`, and beside ijson for JSON arrays."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.bench.data_scale import rows as generated
from tests.bench.report import Report, options

CHILD = """
import itertools, json, resource, sys, time
from pathlib import Path
import numpy as np

reader, file, share = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
if reader == "datasets":
    import datasets
    datasets.disable_progress_bars()
elif reader == "ijson":
    import ijson
else:
    from harness.recipe import Part
    from trainers.data.reading import read_part
spent, started = time.process_time(), time.perf_counter()
if reader == "datasets":
    kind = {".csv": "csv", ".parquet": "parquet"}.get(file.suffix, "json")
    found = datasets.load_dataset(kind, data_files=str(file), split="train", cache_dir=str(file.parent / "cache"))
    found = found if share == 1 else found.select(range(0, len(found), share))
    count = sum(1 for _ in found)
elif reader == "ijson":
    for step in (1, share):  # rows are counted before some are chosen
        with file.open("rb") as opened:
            items = ijson.get_backend("yajl2_c").items(opened, "item", use_float=True)
            count = sum(1 for _ in itertools.islice(items, 0, None, step))
else:
    rows = read_part(Part(adapter="text", files=(str(file),)), root=None, source="s")
    count = sum(1 for _ in rows.chosen(np.arange(rows.count) % share == 0))
print(json.dumps([count, time.perf_counter() - started, time.process_time() - spent]))
"""
"""Reads each n-th row of a file, and prints their number, seconds and CPU-seconds."""


def write(folder: Path, count: int) -> dict[str, Path]:
    """Write the same rows as every kind of file."""
    import pyarrow
    import pyarrow.parquet

    lines = generated(count)
    made = [json.loads(line) for line in lines]
    files = {kind: folder / f"x.{kind}" for kind in ("jsonl", "jsonl.zst", "json", "csv", "parquet")}
    files["jsonl"].write_text("\n".join(lines) + "\n")
    files["jsonl.zst"].write_bytes(pyarrow.compress(files["jsonl"].read_bytes(), codec="zstd", asbytes=True))
    files["json"].write_text(f"[{', '.join(lines)}]")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), files["parquet"])
    with files["csv"].open("w", newline="") as out:
        csv.writer(out).writerows([["conversations"], *([json.dumps(row["conversations"])] for row in made)])
    return files


def read(reader: str, file: Path, share: int) -> tuple[str, ...]:
    """Return rows, seconds, CPU-seconds, the largest memory in MB, and the MB that are written to a cache, as text."""
    command = [sys.executable, "-c", CHILD, reader, str(file), str(share)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    peak = 0
    while child.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, psutil.Process(child.pid).memory_full_info().uss)
        time.sleep(0.02)
    said, error = child.communicate()
    if child.returncode:
        return (f"none: {error.strip().splitlines()[-1]}", "", "", "", "")
    count, seconds, spent = json.loads(said.splitlines()[-1])
    cache = file.parent / "cache"
    written = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) if cache.exists() else 0
    subprocess.run(["rm", "-rf", str(cache)], check=True)
    return f"{count:,}", f"{seconds:.1f}", f"{spent:.1f}", f"{peak / 1e6:.0f}", f"{written / 1e6:.0f}"


# --- odd files ----------------------------------------------------------------------------------------


def odd_files() -> Iterator[tuple[str, str, bytes]]:
    """Yield what is odd about a file, its name, and its bytes."""

    def lines(*rows: object) -> bytes:
        return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()

    good = {"prompt": "q", "completion": "a"}
    yield "a line that is not JSON", "x.jsonl", lines(good, '{"prompt": "q"', good)
    yield "a line that is not UTF-8", "x.jsonl", lines(good, good) + b'{"prompt": "\xff", "completion": "a"}\n'
    yield "numbers and texts in a column", "x.jsonl", lines(good, {**good, "completion": 42})
    yield "contents that are texts or lists", "x.jsonl", lines({"a": [{"c": "x"}]}, {"a": [{"c": [{"t": "x"}]}]})
    yield "texts that look like times", "x.jsonl", lines({**good, "completion": "2024-01-31 12:00:00"})
    yield "arguments with different keys", "x.jsonl", lines({"call": {"city": "X"}}, {"call": {"day": "Y"}})
    yield "a lone surrogate", "x.jsonl", lines(good, '{"prompt": "cut \\ud83d", "completion": "a"}')
    yield "rows below a key", "x.json", json.dumps({"version": 1, "data": [good, good]}).encode()
    yield "a row that is not an object", "x.json", json.dumps([good, 7, good]).encode()
    yield "a cell NaN", "x.json", json.dumps([good, {**good, "score": float("nan")}]).encode()
    yield "a lone surrogate", "x.json", json.dumps([good, {**good, "prompt": "cut \ud83d"}]).encode()
    yield "a byte that is not UTF-8", "x.json", b'[{"prompt": "\xff", "completion": "a"}]'
    yield "an integer of 30 digits", "x.json", json.dumps([{**good, "id": 10**29}]).encode()
    yield "an answer `NA`, and one `007`", "x.csv", b"prompt,completion\nq,NA\nr,007\n"
    yield "answers `True` and `1.50`", "x.csv", b"prompt,completion,n\nq,True,1.50\n"
    yield "a line with a cell too many", "x.csv", b"prompt,completion\nq,a\nq,a,b\n"


def made_of(path: Path) -> tuple[str, str, str]:
    """Return what moemix, `datasets` and, of an array, ijson make of a file, in words."""
    import datasets
    import ijson

    from harness.errors import MoemixError
    from harness.recipe import Part
    from trainers.data.conversation import MalformedRowError
    from trainers.data.reading import read_part

    try:
        ours = [row for row, _ in read_part(Part(adapter="text", files=(str(path),)), root=None, source="s")]
    except MoemixError as error:
        return f"refused: {error.message}", "", ""
    bad = [row for row in ours if isinstance(row, MalformedRowError)]
    said = f"{len(ours) - len(bad)} rows" + (f", 1 bad: {bad[0]}" if bad else "")
    kind = "csv" if path.suffix == ".csv" else "json"
    cache = path.parent / "cache"
    by_datasets = _compared(
        ours, lambda: list(datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(cache)))
    )
    subprocess.run(["rm", "-rf", str(cache)], check=True)
    if not path.read_bytes().startswith(b"["):
        return said, by_datasets, ""
    with path.open("rb") as file:
        items = ijson.get_backend("yajl2_c").items(file, "item", use_float=True)
        return said, by_datasets, _compared(ours, lambda: list(items))


def _compared(ours: list[object], read: Callable[[], list[object]]) -> str:
    """Return what a reader makes of a file, beside our rows."""
    try:
        theirs = read()
    except Exception as error:  # whatever it raises is the finding
        cause = error.__cause__ or error
        return f"nothing: {type(cause).__name__}: {str(cause).splitlines()[0][:90]}".strip()
    if repr(theirs) == repr(ours):
        return "the same"
    changed = next((f"`{a}` becomes `{b}`" for a, b in zip(ours, theirs, strict=False) if repr(a) != repr(b)), "")
    return f"{len(theirs)} rows; {changed or 'others'}".replace("|", " ")[:240]


def main() -> None:
    given = options(rows={"type": int, "default": 20_000, "help": "rows of the large files"})
    count = 2_000 if given.quick else given.rows
    report = Report(
        "data_readers",
        "Reading files of training rows",
        "The same generated ShareGPT rows as every kind of file (in CSV, the conversation is JSON in a cell), read as"
        " Python objects by moemix's readers, by `datasets.load_dataset` into an empty cache, and JSON arrays by ijson"
        " with its yajl2_c backend; all rows, and each tenth. Rows are counted before some are chosen, so an array is"
        " read twice, or its rows are found again by their places (moemix, each tenth). pyarrow reads no arrays. Memory"
        " is that of the process alone. Beside other work, CPU-seconds say more than seconds.",
        quick=given.quick,
    )
    table = []
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), count)
        for kind, file in files.items():
            for share in (1, 10):
                for reader in ("moemix", "datasets", *(["ijson"] if kind == "json" else [])):
                    table.append(
                        (f".{kind}", reader, "all" if share == 1 else f"each {share}th", *read(reader, file, share))
                    )
                    print(*table[-1], flush=True)
    headers = ("file", "reader", "wanted", "rows", "seconds", "CPU-seconds", "memory, MB", "written to a cache, MB")
    report.table(table, headers)
    odd = []
    with tempfile.TemporaryDirectory() as folder:
        for what, name, content in odd_files():
            (path := Path(folder) / name).write_bytes(content)
            odd.append((what, path.suffix, *made_of(path)))
    report.say("What each makes of small files with one odd thing:")
    report.table(odd, ("what is odd", "file", "moemix", "datasets", "ijson"))
    report.save()


if __name__ == "__main__":
    main()
