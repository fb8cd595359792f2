"""Files are whole or absent."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from harness.errors import MoemixError
from harness.files import append_jsonl, hash_tree, hash_value, read_json, read_jsonl, whole_directory, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"value": float("nan")})
    assert read_json(path) == {"value": 1}
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "state"
    with pytest.raises(RuntimeError), whole_directory(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert not target.exists()
    with whole_directory(target) as folder:
        (folder / "all").write_text("x")
    assert os.listdir(tmp_path) == ["state"]


def test_replacing_a_directory_removes_what_a_killed_writer_left(tmp_path):
    target = tmp_path / "state"
    code = (
        "import sys, time, pathlib; from harness.files import whole_directory\n"
        "with whole_directory(pathlib.Path(sys.argv[1])) as f:\n"
        "    (f / 'half').write_text('x'); print('writing', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen((sys.executable, "-c", code, str(target)), stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not target.exists()
    assert len(os.listdir(tmp_path)) == 1
    with whole_directory(target) as folder:
        (folder / "all").write_text("x")
    assert os.listdir(tmp_path) == ["state"]


def test_a_torn_last_line_is_left_out_and_any_other_bad_line_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"step": 1})
    with open(path, "a") as file:
        file.write('{"step": ')
    assert [record["step"] for record in read_jsonl(path)] == [1]
    with open(path, "a") as file:
        file.write("\n")
    append_jsonl(path, {"step": 3})
    with pytest.raises(MoemixError, match=r"log\.jsonl:2: not valid JSON"):
        list(read_jsonl(path))


def test_hashes_depend_on_content_and_names_only(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x.txt").write_text("same")
        os.utime(folder / "x.txt", (time.time() - 1000, time.time() - 1000))
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "b")
    (tmp_path / "b" / "x.txt").rename(tmp_path / "b" / "y.txt")
    assert hash_tree(tmp_path / "a") != hash_tree(tmp_path / "b")
    assert hash_value({"a": 1, "b": [2.5]}) == hash_value(json.loads('{"b": [2.5], "a": 1}'))
