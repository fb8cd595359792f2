"""`moemix data fetch`: every file of the built-in recipes has a public source, and downloads survive interruptions."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hub_server import COMMIT, serve_hub

from harness.cli import cli
from harness.errors import StageError
from harness.fetch import PublicFile, fetch, fetch_hub, files_of, hub_licences, hub_parts, public_files
from harness.recipe import Part
from harness.recipe_file import load_recipe, recipe_names
from harness.sources import hub_folder
from trainers.data.hub import read_hub

BODY = bytes(range(256)) * 400


def file(name: str, body: bytes = BODY) -> PublicFile:
    return PublicFile(f"d/{name}", "o/r", "abc", f"x/{name}", "MIT", len(body), hashlib.sha256(body).hexdigest())


@pytest.fixture
def site():
    """A mirror that counts what it sends and understands ranges."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Range")))
            first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            if self.path.endswith("gone"):
                self.send_error(404)
                return
            body = BODY[first:] if not self.path.endswith("other") else b"x" * len(BODY)
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    asked: list[tuple[str, str | None]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_files_are_fetched_once_and_checked(site, tmp_path: Path):
    url, asked = site
    files = [file("a"), file("b")]
    assert fetch(files, tmp_path, url) == files
    assert (tmp_path / "d" / "a").read_bytes() == BODY
    assert fetch(files, tmp_path, url) == []
    assert [path for path, _ in asked] == ["/o/r/raw/abc/x/a", "/o/r/raw/abc/x/b"]


def test_an_interrupted_download_goes_on_where_it_stopped(site, tmp_path: Path):
    url, asked = site
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".a.part").write_bytes(BODY[:1000])
    fetch([file("a")], tmp_path, url)
    assert asked == [("/o/r/raw/abc/x/a", "bytes=1000-")]
    assert (tmp_path / "d" / "a").read_bytes() == BODY
    assert [each.name for each in (tmp_path / "d").iterdir()] == ["a"]


def test_what_cannot_be_fetched_is_named_with_its_place_and_the_rest_is_kept(site, tmp_path: Path):
    url, _ = site
    with pytest.raises(StageError) as error:
        fetch([file("gone"), file("a"), file("other")], tmp_path, url)
    assert (tmp_path / "d" / "a").is_file()
    assert not (tmp_path / "d" / "other").exists()
    said = str(error.value)
    assert "2 of 3 files could not be fetched" in said
    assert f"{url}/o/r/raw/abc/x/gone" in said
    assert str(tmp_path / "d" / "other") in said


# No public page that could be read shows their whole commits (docs/paper.md).
UNPINNED = ("llama-moe/LLaMA-MoE-v1-3_5B-2_8-sft", "ibm/MoLM-700M-4B")


def test_every_file_data_set_and_model_of_a_built_in_recipe_has_a_public_source():
    for name in recipe_names():
        recipe = load_recipe(name)
        known = {each.place for each in files_of(recipe)}
        for source in recipe.data.sources if not recipe.data.world else ():
            for part in source.parts:
                for pattern in part.files:
                    assert any(Path(place).match(pattern) for place in known), (name, pattern)
        for part in hub_parts(recipe):
            assert re.fullmatch("[0-9a-f]{40}", part.revision or ""), (name, part.hub)
            assert part.hub in hub_licences(), part.hub
        for model in recipe.models:
            source = getattr(model, "source", None)
            if source is None:
                continue  # made here
            assert source in hub_licences(), source
            if not source.startswith("package:") and source not in UNPINNED:
                assert re.fullmatch("[0-9a-f]{40}", model.revision or ""), (name, source)
    assert {each.place.split("/")[0] for each in files_of(load_recipe("smol"))} >= {"gsm8k", "arc", "boolq", "mt_bench"}


def test_the_list_holds_licences_and_is_what_the_real_files_are(real_data: Path):
    files = public_files()
    assert all(each.licence and len(each.sha256) == 64 for each in files)
    assert [each.place for each in files_of(load_recipe("smol")) if not each.complete(real_data)] == []


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub be asked, whatever the tests that ran before in this process had set."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("online")
def test_data_sets_of_the_hub_come_to_the_data_root_and_are_read_there(tmp_path: Path):
    part = Part(adapter="sharegpt", hub="org/chat", revision=COMMIT, data_files=("v2.json",))
    with serve_hub() as address:
        assert fetch_hub([part], tmp_path, address) == ["org/chat"]
        assert fetch_hub([part], tmp_path, address) == []
    assert hub_folder(part, tmp_path) == tmp_path / "org" / "chat"
    assert {file.name for file in (tmp_path / "org" / "chat").glob("*.*")} == {"README.md", "v2.json"}
    assert next(iter(read_hub(part, tmp_path, "s")))[0]["conversations"]


def test_a_data_set_is_there_only_when_it_is_whole_and_offline_its_place_is_said(tmp_path: Path):
    part = Part(adapter="sharegpt", hub="org/chat", revision=COMMIT, data_files=("v2.json",))
    (tmp_path / "org" / ".chat.part").mkdir(parents=True)
    (tmp_path / "org" / ".chat.part" / "README.md").write_text("begun")
    with pytest.raises(StageError) as error:
        fetch_hub([part], tmp_path, "http://127.0.0.1:9")
    said = str(error.value)
    assert f"hf download org/chat --repo-type dataset --revision {COMMIT} --local-dir {tmp_path}/org/chat" in said
    assert hub_folder(part, tmp_path) is None


def test_offline_the_command_says_which_files_to_bring(tmp_path: Path):
    words = ["data", "fetch", "smol", "--data-root", str(tmp_path), "--site", "http://127.0.0.1:9"]
    result = CliRunner().invoke(cli, words)
    assert "gsm8k/train.jsonl, SHA-256 17f347dc" in str(result.exception)
    listed = CliRunner().invoke(cli, ["data", "fetch", "smol", "--list"]).output.splitlines()
    assert all(len(line.split("\t")) == 5 for line in listed)
