"""Tokens are made once, by one process, and a cache that is not what was written is made again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.data.tokens import TokenWriter, cached


def build(log: Path) -> TokenWriter:
    with open(log, "a") as file:
        file.write("built\n")
    writer = TokenWriter()
    for length in (3, 1, 4):
        writer.add(np.arange(length, dtype=np.int32) + length, np.arange(length) > 0)
    writer.report.rows = 4
    writer.report.count_bad("no assistant turn", "x.jsonl:4")
    return writer


SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from trainers.data.tokens import TokenWriter, cached

def build():
    time.sleep(1)
    with open(sys.argv[2], "a") as file:
        file.write("built\\n")
    writer = TokenWriter()
    writer.add(np.arange(3, dtype=np.int32), np.ones(3, bool))
    return writer

print(len(cached(Path(sys.argv[1]), build)))
"""


def test_a_table_comes_back_from_disk_as_it_was_added(tmp_path):
    for _ in range(2):  # built, then read
        table = cached(tmp_path / "t", lambda: build(tmp_path / "log"))
        assert [table[i].input_ids.tolist() for i in range(len(table))] == [[3, 4, 5], [1], [4, 5, 6, 7]]
        assert [table[i].is_target.tolist() for i in (0, 1)] == [[False, True, True], [False]]
        assert (table.report.examples, table.report.tokens, table.report.target_tokens) == (3, 8, 5)
        assert table.report.describe_bad() == "1 of 4 rows left out: 1 × no assistant turn (x.jsonl:4)"
        assert isinstance(table.tokens, np.memmap)
        with pytest.raises(IndexError):
            table[3]
    assert (tmp_path / "log").read_text() == "built\n"


def test_processes_that_come_together_build_once(tmp_path):
    command = [sys.executable, "-c", SLOW, str(tmp_path / "t"), str(tmp_path / "log")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [worker.communicate(timeout=300)[0] for worker in workers] == ["1\n", "1\n"]
    assert (tmp_path / "log").read_text() == "built\n"


@pytest.mark.parametrize("name", ["tokens.npy", "targets.npy", "offsets.npy", "keys.npy", "meta.json"])
@pytest.mark.parametrize("harm", ["truncated", "altered", "absent"])
def test_any_damage_is_noticed_and_mended(tmp_path, caplog, name, harm):
    folder, log = tmp_path / "t", tmp_path / "log"
    whole = [example.input_ids.tolist() for example in map(cached(folder, lambda: build(log)).__getitem__, range(3))]
    data = bytearray((folder / name).read_bytes())
    if harm == "absent":
        (folder / name).unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        (folder / name).write_bytes(data[: len(data) // 2] if harm == "truncated" else data)
    again = cached(folder, lambda: build(log))
    assert [again[i].input_ids.tolist() for i in range(3)] == whole
    assert "the token cache is damaged" in caplog.text
    assert log.read_text() == "built\n" * 2


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def broken() -> TokenWriter:
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        cached(tmp_path / "t", broken)
    assert not (tmp_path / "t").exists()
    assert len(cached(tmp_path / "t", lambda: build(tmp_path / "log"))) == 3
