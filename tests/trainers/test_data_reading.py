"""Rows come out of every kind of file with the place they stand at, and a damaged file is named with the line."""

import gzip
import json
import struct

import numpy as np
import pytest

from harness.errors import MoemixError
from harness.recipe import Part
from trainers.data.conversation import MalformedRowError
from trainers.data.reading import read_part

ROWS = [{"text": "one"}, {"text": "zwei – 🦊"}, {"text": "three\nlines"}]


def read(folder, name="x.jsonl", **fields):
    fields = fields or {"files": (name,)}
    rows = read_part(Part(adapter="text", **fields), root=folder, source="s")
    found = [shown(each) for each in rows]
    assert rows.count == len(found)
    for step in (2, 3):
        assert [shown(each) for each in rows.chosen(np.arange(len(found)) % step == 1)] == found[1::step]
    return found


def shown(located):
    row, where = located
    return (str(row) if isinstance(row, MalformedRowError) else row), where


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    lines = "\n".join(json.dumps(row) for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines + "\n\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.json").write_text(json.dumps(ROWS, indent=2))
    (tmp_path / "d.json").write_text(lines)  # JSONL by another name
    (tmp_path / "e.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    (tmp_path / "f.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "g.parquet")
    for file in sorted(tmp_path.iterdir()):
        assert [row for row, _ in read(tmp_path, file.name)] == ROWS, file.name


def test_rows_know_their_lines(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    (tmp_path / "y.json").write_text('[\n {"text": "a"},\n {\n  "text": "b"\n },\n\n {"text": "c"}\n]\n')
    places = [where.removeprefix(str(tmp_path)) for name in ("x.jsonl", "y.json") for _, where in read(tmp_path, name)]
    assert places == ["/x.jsonl:1", "/x.jsonl:3", "/y.json:2", "/y.json:3", "/y.json:7"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "x.jsonl",
            b"\nthis is\nno JSON\n",
            r"x\.jsonl:2: no line is a JSON object; the first is not valid JSON: E",
        ),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), r"x\.jsonl:1: no line is a JSON object; the first is not UTF-8 text"),
        ("x.jsonl", b'["a", 1]\n["b", 2]\n', r"x\.jsonl:1: no line is a JSON object; the first is a list in the place"),
        ("x.jsonl", b"", r"x\.jsonl: the file has no rows"),
        ("x.json", b"[]", r"x\.json: the file has no rows"),
        ("x.json", b'[\n{"a": 1},\n{"a": 2}', r"x\.json:3: not valid JSON"),
        ("x.json", b'[\n{"a": 1},\n{"a" 2}\n]', r"x\.json:3: not valid JSON"),
        ("x.json", b"[" + b"9" * 5000 + b"]", r"x\.json:1: the JSON cannot be read: Exceeds the limit"),
        ("x.json", b'[{"a": 1}]\n[{"a": 2}]', r"x\.json:2: not valid JSON: unexpected text after"),
        ("x.json", b'{\n "a": 1\n}', r"(?s)x\.json:1: no line is a JSON object.*one object per line, or an array"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-12], r"x\.jsonl\.gz: the file cannot be read"),
        ("x.jsonl.gz", b"not gzipped", r"x\.jsonl\.gz: the file cannot be read"),
        ("x.parquet", b"not parquet", r"x\.parquet: the file is not a Parquet file"),
        ("x.csv", b"a,b\n", r"x\.csv: the file has no rows"),
        ("x.csv", b'a,b\n1,2\n"1,2\n', r"x\.csv:\d: not valid CSV"),
        ("x.txt", b"a", r"(?s)x\.txt: unknown kind of file '\.txt'.*\.parquet"),
        ("x.arrow", b"not arrow", r"x\.arrow: the file is not an Arrow file"),
        ("x.jsonl.zst", b"not compressed", r"x\.jsonl\.zst: the file cannot be read"),
        ("x.json", b'{"data": [{"a": 1},\n{"a" 2}]}', r"x\.json:2: not valid JSON"),
    ],
)
def test_a_damaged_file_is_named_with_the_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MoemixError, match=said):
        read(tmp_path, name)


def test_a_damaged_table_or_archive_is_an_error_and_ends_no_process(tmp_path):
    import pyarrow

    table = pyarrow.table({"a": ["one", "two"]})
    with pyarrow.ipc.new_stream(tmp_path / "x.arrow", table.schema) as out:
        out.write_table(table)
    whole = (tmp_path / "x.arrow").read_bytes()
    beyond = whole.replace(struct.pack("<iii", 0, 3, 6), struct.pack("<iii", 0, 3, 0x70000006))
    assert beyond != whole
    (tmp_path / "x.arrow").write_bytes(beyond)
    with pytest.raises(MoemixError, match=r"x\.arrow:row 0: the file is damaged: .*Offset"):
        read(tmp_path, "x.arrow")
    packed = gzip.compress("".join(f'{{"a": {i * 7919}}}\n' for i in range(999)).encode(), mtime=0)
    (tmp_path / "x.jsonl.gz").write_bytes(packed[:99] + bytes(64) + packed[163:])
    with pytest.raises(MoemixError, match=r"x\.jsonl\.gz: the file cannot be read: Error -3"):
        read(tmp_path, "x.jsonl.gz")


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": \n{"a": 2}', ("not valid JSON: Expecting value", 2)),
        ("x.jsonl", b'{"a": 1}\n\n[1]\n{"a": 2}', ("a list in the place of an object", 3)),
        ("x.jsonl", b'{"a": 1}\n{"a": "\xff"}\n{"a": 2}', ("not UTF-8 text", 2)),
        ("x.jsonl", b'{"a": 1}\n{"a": %s}\n{"a": 2}' % (b"[" * 99_999), ("JSON that cannot be read", 2)),
        ("x.jsonl", b'{"a": 1}\n{"a": %s}\n{"a": 2}' % (b"1" * 9_999), ("JSON that cannot be read", 2)),
        ("x.jsonl", b'{"a": 1}\n{"a": 3}{"a": 4}\n{"a": 2}', ("not valid JSON: Extra data", 2)),
        ("x.json", b'[{"a": 1},\n3,\n{"a": 2}]', ("a number in the place of an object", 2)),
        ("x.json", b'{"n": 1, "data": [{"a": 1},\n{"a": "\xff"},\n{"a": 2}], "x": ""}', ("not UTF-8 text", 2)),
        ("x.csv", b"a\n1\n1,2\n2\n", ("the line has more cells than the header", 3)),
        ("x.csv", b"a\n1\n\xff\n2\n", ("not UTF-8 text", 3)),
    ],
)
def test_a_row_that_cannot_be_read_is_one_bad_row(tmp_path, name, content, bad):
    (tmp_path / name).write_bytes(content)
    first, odd, last = read(tmp_path, name)
    assert (str(first[0]["a"]), str(last[0]["a"])) == ("1", "2")
    reason, line = bad
    assert odd[0].startswith(reason)
    assert odd[1] == f"{tmp_path / name}:{line}"


def test_a_hub_dataset_may_lie_in_the_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "org" / "songs"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: loud\n  data_files:\n  - split: train\n    path: loud.jsonl\n---\n"
    )
    (folder / "loud.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = read(tmp_path, hub="org/songs", subset="loud", revision="main")
    assert [row for row, _ in found] == ROWS
    assert found[1][1] == "org/songs[train]:row 1"
    for wrong in ({"split": "test"}, {"subset": "quiet"}):
        with pytest.raises(MoemixError, match="source s: hub dataset org/songs: the dataset cannot be loaded"):
            read(tmp_path, **{"hub": "org/songs", "subset": "loud", **wrong})


def test_a_row_that_cannot_be_read_is_one_bad_row_of_a_hub_dataset_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "org" / "songs"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"text": "one"}\n{"text": \n{"text": "two"}\n')
    broken = ("not valid JSON: Expecting value", f"{folder / 'train.jsonl'}:2")
    assert read(tmp_path, hub="org/songs")[1] == broken
    (folder / "train.jsonl").write_text("nothing\nof the kind\n")
    with pytest.raises(MoemixError, match=r"train\.jsonl:1: no line is a JSON object"):
        read(tmp_path, hub="org/songs")


def test_a_hub_dataset_out_of_reach_is_an_error_with_its_name(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MoemixError, match="hub dataset org/nowhere: the dataset cannot be loaded"):
        read(tmp_path, hub="org/nowhere")
