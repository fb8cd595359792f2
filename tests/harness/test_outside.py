"""What surrounds a run: no repository, full and read-only disks, a user's own packages, terminals of usual width."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import _DISK, cli, main
from harness.launch import job_environment, moemix_command
from harness.plan import world_folder
from harness.records import Stage

PACKAGES = ("harness", "trainers", "evals", "leaderboards", "moemix")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world_folder("quickstart", 0, tmp_path_factory.mktemp("store") / "_cache")


def hostile(folder: Path) -> Path:
    """Make a folder whose packages have our names, and end every process that imports one."""
    for name in PACKAGES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the package {name} of the user was imported')")
    return folder


def test_no_child_process_imports_from_the_working_directory(tmp_path: Path):
    here = hostile(tmp_path / "here")
    code = "import harness.cli, trainers, evals, leaderboards, moemix"
    for command in (moemix_command("--version"), (sys.executable, "-c", code), (sys.executable, "-m", "harness.cli")):
        done = subprocess.run(command, cwd=here, env=job_environment(), capture_output=True, text=True, timeout=600)
        assert "of the user was imported" not in done.stderr
    plain = subprocess.run((sys.executable, "-c", code), cwd=here, capture_output=True, text=True, timeout=600)
    assert "of the user was imported" in plain.stderr, "the packages are not hostile, so this test shows nothing"


@pytest.mark.parametrize("number", sorted(_DISK), ids=lambda number: errno.errorcode[number])
def test_what_goes_wrong_on_a_disk_is_a_sentence(monkeypatch, capsys, number: int):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, "in other words", "/store/run.json")

    monkeypatch.setattr("harness.commands.load_recipe", fail)
    with pytest.raises(SystemExit) as end:
        main(["recipes"])
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert said.startswith("moemix: /store/run.json: ")
    assert "finished work is kept" in said


SIMULATE = ("simulate", "uniform", "--steps", "200", "--repeats", "1", "--out")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command line as a user does."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk)
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount file systems")
    yield disk
    subprocess.run(("umount", disk), check=True)


def test_a_full_disk_is_a_sentence_leaves_nothing_half_written_and_can_be_mended(small_disk: Path, capsys):
    code, text = said(capsys, *SIMULATE, str(small_disk / "out"))
    assert (code, "Traceback" in text) == (1, False)
    assert "the disk is full: free space; then run the same command" in text
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".tmp")]
    subprocess.run(("mount", "-o", "remount,size=8m", small_disk), check=True)
    assert said(capsys, *SIMULATE, str(small_disk / "out"))[0] == 0


def test_a_read_only_disk_is_a_sentence(small_disk: Path, capsys):
    subprocess.run(("mount", "-o", "remount,ro", small_disk), check=True)
    code, text = said(capsys, "plan", "quickstart", "--store", str(small_disk / "store"))
    assert code == 2
    assert f"{small_disk}: the store cannot be written to: Read-only file system" in text
    code, text = said(capsys, *SIMULATE, str(small_disk / "out"))
    assert code == 1
    assert "the file system is read-only" in text


def test_files_larger_than_the_limit_are_a_sentence(tmp_path: Path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        code, text = said(capsys, *SIMULATE, str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, "the file is too large" in text, "Traceback" in text) == (1, True, False), text
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_clock_that_jumps_back_gives_no_negative_time():
    times = ("2026-05-01T12:00:00+00:00", "2026-05-01T11:00:00+00:00")
    assert Stage(status="done", started=times[0], finished=times[1]).seconds is None
    assert Stage(status="done", started=times[1], finished=times[0]).seconds == 3600


def test_the_list_of_strategies_fits_a_terminal():
    shown = CliRunner().invoke(cli, ["strategies"]).output
    assert max(map(len, shown.splitlines())) <= 110


def test_the_generated_world_is_clean_and_planted_leaks_are_found(world: Path, tmp_path: Path):
    from trainers.data.contamination import check_target

    (tmp_path / "_cache").symlink_to(world.parents[1])
    clean = check_target("quickstart", None, (), None, str(tmp_path))
    assert len(clean) == 4
    assert not [hit for record in clean for found in record.tasks.values() for hit in (*found.exact, *found.near)]
    planted = {}
    for family in ("facts", "words", "math", "code"):
        rows = [json.loads(line) for line in (world / "eval" / f"{family}.jsonl").read_text().splitlines()]
        planted[f"moemix_quickstart_{family}"] = rows[7]["prompt"]
    leak = tmp_path / "leak.jsonl"
    leak.write_text("".join(json.dumps({"prompt": text, "completion": "x"}) + "\n" for text in planted.values()))
    (record,) = check_target(str(leak), "quickstart", (), str(world), str(tmp_path))
    for task in planted:
        assert 7 in record.tasks[task].exact, task


def test_a_suite_of_our_own_never_asks_the_hub(world: Path, tmp_path: Path, monkeypatch):
    import datasets

    from evals.data_root import local_datasets

    def hub(*arguments: object, **options: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.setenv("MOEMIX_CACHE", str(world.parents[1]))
    for root in (None, tmp_path, world):
        with local_datasets(root):
            loaded = datasets.load_dataset("moemix/quickstart", "math")
        assert len(loaded["test"]) > 50


def test_the_checkpoint_of_a_run_finds_its_data_root_also_after_the_store_moved(world: Path, tmp_path: Path):
    from harness.store import data_root_of

    stored = Path(__file__).parents[1] / "data" / "store_0_1" / "quickstart" / "uniform-s0-62faa9fa1b94"
    run = tmp_path / "quickstart" / stored.name
    (run / "checkpoint").mkdir(parents=True)
    manifest = json.loads((stored / "run.json").read_text())
    for root, expected in ((str(world), world), (f"/gone/{world.name}", tmp_path / "_cache" / "worlds" / world.name)):
        expected.mkdir(parents=True, exist_ok=True)
        (run / "run.json").write_text(json.dumps({**manifest, "data_root": root}))
        assert data_root_of(run / "checkpoint") == expected
    assert data_root_of(tmp_path) is None


def test_evaluation_outside_a_repository_says_nothing_of_git(tmp_path: Path):
    code = (
        "from evals.runner import _run_lm_eval\nfrom lm_eval import evaluator\n"
        "try: _run_lm_eval(None, None, None, None, None, None)\nexcept AttributeError: pass\n"
        "print(evaluator.get_git_commit_hash())"
    )
    done = subprocess.run((sys.executable, "-P", "-c", code), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (done.stdout, "not a git repository" in done.stderr) == ("None\n", False), done.stderr
