"""``moemix view``: pages of jobs, table, curves and compared samples; what models wrote is escaped in them."""

from __future__ import annotations

import json
import re
import shutil
import threading
import urllib.request
from pathlib import Path

import click
import pytest

from harness.errors import MoemixError
from harness.files import append_jsonl
from harness.status import JobStatus
from leaderboards import serving
from leaderboards.cli import view
from leaderboards.selection import from_folders
from leaderboards.viewer import Jobs, Pages

STORE = Path(__file__).parents[1] / "data" / "store_0_1" / "quickstart"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three finished runs, none of which is the test's own."""
    return Path(shutil.copytree(STORE, tmp_path / "store"))


def write(runs: Path, out: Path, jobs: Jobs | None = None, *, live: bool = False) -> dict[str, str]:
    Pages(out, "store", live=live).write(from_folders([runs], "uniform"), jobs or Jobs())
    return {page.name: page.read_text() for page in out.glob("*.html")}


def test_the_pages_show_the_table_the_curves_and_what_was_gained_and_lost(runs, tmp_path):
    done = view.main([str(runs), "--out", str(tmp_path / "out")], standalone_mode=False)
    assert not done
    pages = {page.name: page.read_text() for page in (tmp_path / "out").glob("*.html")}
    assert "12.5 ± 7.2" in pages["index.html"]
    for picture in re.findall(r'<img src="([^"]+)"', pages["curves.html"]):
        assert (tmp_path / "out" / picture).read_text().startswith("<?xml")
    for title in ("Training loss · tiny", "Weights · tiny", "Gate loads · tiny"):
        assert title in pages["curves.html"]
    (lost,) = [text for text in pages.values() if "none answers better than uniform" in text]
    assert "moemix_quickstart_facts (acc): 0 gained, 2 lost, of 4" in lost
    assert re.search(r"right answer</th><td class=l>\s*It ", lost)  # the text, and not the number, of a choice
    assert not [text for text in pages.values() if "<script" in text or 'http-equiv="refresh"' in text]


def test_a_store_is_shown_recipe_by_recipe(runs, tmp_path):
    """Two recipes of one store: pages of each, and a page that leads to them."""
    store, out = tmp_path / "runs", tmp_path / "out"
    (store / "paper").mkdir(parents=True)
    shutil.copytree(runs, store / "quickstart")
    runs.rename(store / "paper" / "mini")
    assert not view.main([str(store), "--out", str(out)], standalone_mode=False)
    index = (out / "index.html").read_text()
    assert re.findall(r'<a href="([^"]+)">([^<]+)</a>', index) == [
        ("paper/mini/index.html", "paper/mini"), ("quickstart/index.html", "quickstart")]  # fmt: skip
    for name, home in (("paper/mini", "../../index.html"), ("quickstart", "../index.html")):
        page = (out / name / "index.html").read_text()
        assert "12.5 ± 7.2" in page
        assert f'<a href="{home}">All recipes</a>' in page
        assert (out / name / home).resolve() == (out / "index.html").resolve()
    with pytest.raises(click.UsageError, match="give a store alone"):
        view.main([str(store), "quickstart", "--out", str(out)], standalone_mode=False)


def test_pages_are_written_again_only_after_a_record_that_they_show_has_changed(runs, tmp_path):
    pages = Pages(tmp_path / "out", "store", live=True)

    def written() -> set[str]:
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        pages.write(from_folders([runs], "uniform"), Jobs())
        after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        return {name for name in after if after[name] != before.get(name)}

    everything = written()
    assert {"index.html", "curves.html", "samples-1.html"} < everything
    assert written() == {"index.html"}
    (metrics,) = runs.glob("uniform*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    append_jsonl(metrics, lines[-1] | {"step": 7})
    assert {name for name in written() if name.endswith(".html")} == {"index.html", "curves.html"}
    (summary,) = runs.glob("uniform*/evals/quickstart/summary.json")
    summary.touch()
    assert written() == everything


def test_what_a_model_wrote_is_text_and_never_markup(runs, tmp_path):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    for path in runs.glob("*/evals/quickstart/samples_moemix_quickstart_facts.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            for arguments in line["arguments"].values():
                arguments |= {"arg_0": evil, "arg_1": evil}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pages = write(runs, tmp_path / "out")
    shown = [text for text in pages.values() if "onerror" in text]
    assert shown
    assert all("&lt;img src=x onerror" in text and evil not in text and "<script" not in text for text in shown)


def test_a_run_that_goes_on_is_drawn_as_far_as_it_is_and_its_page_loads_itself_again(runs, tmp_path):
    (run,) = runs.glob("uniform*")
    shutil.rmtree(run / "evals")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    append_jsonl(run / "metrics.jsonl", metrics[-1] | {"step": 7})
    jobs = Jobs([JobStatus("train:x", "train uniform", "running", "step 7 of 9", 60.0)], 60.0)
    pages = write(runs, tmp_path / "out", jobs, live=True)
    assert 'http-equiv="refresh"' in pages["index.html"]
    assert "1 running; about" in pages["index.html"]


def test_the_pages_are_served_to_this_machine_and_renewed(tmp_path, caplog):
    caplog.set_level("INFO", logger="moemix.leaderboards")
    looks = []

    def page() -> None:
        looks.append(len(looks))
        if len(looks) == 2:
            raise MoemixError("half a line")
        if len(looks) > 8:
            raise KeyboardInterrupt
        (tmp_path / "index.html").write_text(f"look {len(looks)}")

    page()
    thread = threading.Thread(target=serving.serve, args=(tmp_path, page, 0, 0.2))
    thread.start()
    while "http://" not in caplog.text:
        thread.join(0.02)
        assert thread.is_alive()
    address = re.search(r"http://127\.0\.0\.1:\d+/index\.html", caplog.text).group()
    seen = set()
    while thread.is_alive():
        try:
            seen.add(urllib.request.urlopen(address, timeout=60).read().decode())
        except OSError:
            break
        thread.join(0.1)
    thread.join(10)
    assert len(seen) > 1
    assert "not renewed: half a line" in caplog.text


def test_a_port_that_is_taken_is_a_sentence(tmp_path):
    import socket

    with socket.socket() as taken, pytest.raises(MoemixError, match="cannot serve at port"):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serving.serve(tmp_path, lambda: None, taken.getsockname()[1], 1.0)


def test_a_damaged_line_is_named_with_its_place(runs, tmp_path):
    (path,) = runs.glob("uniform*/metrics.jsonl")
    path.write_text(path.read_text() + '{"step": "late"}\n')
    with pytest.raises(MoemixError, match=r"metrics\.jsonl:\d+"):
        write(runs, tmp_path / "out")


def test_pages_of_two_models_that_are_written_again_have_the_same_figures(bench, tmp_path):
    for model in ("one-0123456789ab", "two-0123456789ab"):
        bench.run("uniform", {"words": [1.0, 0.0, 1.0]}, model_id=model)
    folders = [run.folder for run in bench.runs]
    figures = []
    for _ in range(2):
        Pages(tmp_path / "out", "store").write(from_folders(folders, "uniform"), Jobs())
        figures.append(sorted(path.name for path in (tmp_path / "out").glob("*.svg")))
    assert figures[0] == figures[1]
    assert len(figures[0]) == 2


def test_measures_that_are_made_of_the_samples_have_no_page_of_samples(runs, tmp_path):
    for folder in runs.glob("*/evals/quickstart"):
        (task,) = folder.glob("samples_moemix_quickstart_facts.jsonl")
        samples = [json.loads(line) for line in task.read_text().splitlines()]
        values = {
            "task": "moemix_quickstart_facts", "measure": "choice_probability",
            "doc_ids": [sample["doc_id"] for sample in samples], "values": [0.5 for _ in samples],
            "doc_hashes": [sample["doc_hash"] for sample in samples],
        }  # fmt: skip
        (folder / "continuous.jsonl").write_text(json.dumps(values) + "\n")
    pages = write(runs, tmp_path / "out")
    assert "p(right choice)" in pages["index.html"]
    assert len([name for name in pages if name.startswith("samples-")]) == 2
