"""Runs are identified by what determines them, and have one writer."""

import subprocess
import sys

import pytest

from harness.errors import MoemixError, StageFailed
from harness.recipe import Mixing, Part, Source, Strategy, Training
from harness.records import EvalRequest, RunConfig, RunManifest
from harness.store import Run, Store, exclusive, mark_judging, stage

SOURCE = Source(name="chat", parts=(Part(adapter="sharegpt", files=("chat.json",)),))


def config(**changes) -> RunConfig:
    fields = {
        "model_id": "tiny-1",
        "strategy": Strategy(name="uniform"),
        "seed": 0,
        "sources": (SOURCE,),
        "data_seed": 0,
        "fingerprints": {"chat": "f00d"},
        "training": Training(),
        "mixing": Mixing(),
    }
    return RunConfig(**{**fields, **changes})


@pytest.fixture
def run(tmp_path) -> Run:
    return Store(tmp_path).create_run("mine", config(), tmp_path / "_models" / "m", None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_id": "tiny-2"},
        {"seed": 1},
        {"fingerprints": {"chat": "beef"}},
        {"training": Training(steps=3)},
        {"mixing": Mixing(interval=3)},
        {"strategy": Strategy(name="uniform", options={"a": 1})},
        {"reference": "other-run"},
    ],
)
def test_what_determines_the_result_changes_the_run(changes):
    assert config(**changes).id != config().id


def test_what_does_not_determine_the_result_does_not_change_the_run():
    assert config(training=Training(log_every=1, save_every=3, keep_states=5)).id == config().id


def test_creating_a_run_twice_keeps_the_first(run, tmp_path):
    with stage(run, "train"):
        pass
    again = Store(tmp_path).create_run("mine", config(), tmp_path / "_models" / "m", None, None)
    assert again.trained


def test_a_recipe_name_with_a_slash_still_finds_its_store(tmp_path):
    run = Store(tmp_path).create_run("paper/table1", config(), tmp_path / "_models" / "m", None, None)
    assert run.store == tmp_path


def test_a_failed_stage_says_why_and_an_interrupted_one_can_go_on(run):
    with pytest.raises(StageFailed), stage(run, "train"):
        raise StageFailed("the loss became NaN at step 3")
    assert run.manifest.stages["train"].status == "failed"
    assert "NaN at step 3" in run.manifest.stages["train"].error
    with pytest.raises(KeyboardInterrupt), stage(run, "train"):
        raise KeyboardInterrupt
    assert run.manifest.stages["train"].status == "planned"


def test_two_processes_cannot_work_on_one_run(run):
    code = (
        "import sys, pathlib; from harness.store import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        (sys.executable, "-c", code, str(run.folder)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(StageFailed, match="another process"), exclusive(run.folder):
        pass
    holder.kill()
    holder.wait()
    with exclusive(run.folder):  # the lock went with the process
        pass


def test_a_damaged_manifest_is_named_with_its_key(run):
    text = run.manifest_path.read_text()
    run.manifest_path.write_text(text.replace('"seed": 0', '"seed": "zero"'))
    with pytest.raises(MoemixError, match=r"run\.json: not a RunManifest .*config\.seed"):
        RunManifest.read(run.manifest_path)
    run.manifest_path.write_text(text[: len(text) // 2])
    with pytest.raises(MoemixError, match=r"run\.json:\d+: not valid JSON"):
        RunManifest.read(run.manifest_path)


def test_evaluations_asked_for_differently_never_share_a_folder(run):
    first = EvalRequest(suite="quickstart", suite_hash="a", engine="transformers")
    folder = run.eval_folder(first)
    folder.mkdir(parents=True)
    (folder / "request.json").write_text(first.model_dump_json())
    assert run.eval_folder(first) == folder
    other = first.model_copy(update={"engine": "vllm"})
    assert run.eval_folder(other) != folder


def test_a_judging_is_found_again_wherever_the_store_and_the_data_lie(run):
    asked = ["--bench", "b", "--judge-checkpoint", "/a/_models/judge-1/checkpoint", "--data-root", "/a/data"]
    folder = run.judge_folder("b", [asked, "content"])
    mark_judging(folder, [asked, "content"])
    moved = ["--bench", "b", "--judge-checkpoint", "/b/_models/judge-1/checkpoint", "--data-root", "/b/data"]
    assert run.judge_folder("b", [moved, "content"]) == folder
    other = ["--bench", "b", "--judge-checkpoint", "/b/_models/judge-2/checkpoint", "--data-root", "/b/data"]
    assert run.judge_folder("b", [other, "content"]) != folder
    assert run.judge_folder("b", [moved, "other content"]) != folder
