"""A fingerprint changes with everything that a source is made of, and with nothing else."""

import pytest

from harness.recipe import Part, Source
from harness.sources import fingerprint


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "org" / "set").mkdir(parents=True)
    (tmp_path / "org" / "set" / "train.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "mine.py").write_text("def mine(row):\n    return row['text']\n")
    return tmp_path


def source(**part) -> Source:
    return Source(name="s", parts=(Part(**{"adapter": "text", **part}),))


def test_the_bytes_of_a_file_count_and_its_place_does_not(root, tmp_path_factory):
    before = fingerprint(source(files=("a.jsonl",)), root)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a.jsonl").write_text('{"text": "one"}\n')
    assert fingerprint(source(files=("a.jsonl",)), elsewhere) == before
    (root / "a.jsonl").write_text('{"text": "two"}\n')
    assert fingerprint(source(files=("a.jsonl",)), root) != before


def test_an_edited_adapter_of_ones_own_is_another_source(root):
    mine = source(adapter=f"{root / 'mine.py'}:mine", files=("a.jsonl",))
    before = fingerprint(mine, root)
    assert fingerprint(mine, root) == before
    (root / "mine.py").write_text("def mine(row):\n    return row['text'].upper()\n")
    assert fingerprint(mine, root) != before


def test_a_folder_that_stands_for_a_hub_dataset_is_known_by_its_contents(root):
    hub = source(hub="org/set", revision="main")
    before = fingerprint(hub, root)
    assert fingerprint(hub, None) != before
    (root / "org" / "set" / "train.jsonl").write_text('{"text": "two"}\n')
    assert fingerprint(hub, root) != before
