"""Runs are identified by what determines them, and have one writer."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import MoemixError, StageError
from harness.judging import JudgeConfig, JudgeSpec
from harness.recipe import Mixing, Part, Source, Strategy, Training
from harness.records import EvalRequest, RunConfig, RunManifest
from harness.requests import (
    EvalJobRequest,
    JudgeJobRequest,
    TrainJobRequest,
    eval_request,
    judge_config,
    read_request,
)
from harness.store import Run, Store, create_run, exclusive, stage

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


def created(root: Path, recipe: str = "mine", **changes) -> Run:
    made = config(**changes)
    folder = Store(root).run(recipe, made).folder
    base = root / "_models" / "m" / "checkpoint"
    return create_run(TrainJobRequest(config=made, recipe=recipe, out=folder, base_checkpoint=base))


@pytest.fixture
def run(tmp_path) -> Run:
    return created(tmp_path)


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
    again = created(tmp_path)
    assert again.trained


def test_a_recipe_name_with_a_slash_still_finds_its_store(tmp_path):
    run = created(tmp_path, "paper/table1")
    assert run.store == tmp_path


def test_a_failed_stage_says_why_and_an_interrupted_one_can_go_on(run):
    with pytest.raises(StageError), stage(run, "train"):
        raise StageError("the loss became NaN at step 3")
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
    with pytest.raises(StageError, match="another process"), exclusive(run.folder):
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


def judge_job(run, judge: str = "judge-1", **settings) -> JudgeJobRequest:
    config = JudgeConfig(**{"bench": "b", "bench_content": "c", "judges": (JudgeSpec(name=judge),), **settings})
    folder = run.judge_folder(config)
    return JudgeJobRequest(
        config=config,
        out=folder,
        checkpoint=run.checkpoint,
        judge_checkpoints=(run.store / "_models" / judge / "checkpoint",),
    )


def test_a_judging_is_found_again_wherever_the_store_and_the_data_lie(run, tmp_path):
    job = judge_job(run)
    job.save()
    moved = Run(tmp_path / "moved" / run.folder.relative_to(run.store))
    shutil.copytree(run.store / "mine", tmp_path / "moved" / "mine")
    assert judge_job(moved).out == moved.folder / "judge" / "b"
    assert read_request(judge_job(moved).out / "request.json", JudgeJobRequest) == judge_job(moved)
    assert judge_job(moved, judge="judge-2").out != judge_job(moved).out
    assert judge_job(moved, bench_content="other").out != judge_job(moved).out


def test_a_judging_with_an_option_of_its_own_is_found_again_beside_the_others(run):
    judge_job(run).save()
    other = judge_job(run, repeats=3)
    assert other.out != judge_job(run).out
    other.save()
    assert judge_job(run, repeats=3).out == other.out


def test_a_judging_that_version_0_1_planned_is_found_by_its_settings(run):
    folder = run.folder / "judge" / "b"
    folder.mkdir(parents=True)
    words = ["--bench", "b", "--engine", "transformers", "--dtype", "float32", "--model-name", run.folder.name]
    words += ["--seed", "0", "--max-tokens", "1024", "--protocol", "strict", "--judge-checkpoint"]
    words += ["/gone/_models/judge-1/checkpoint", "--repeats", "2", "--judge-max-tokens", "2048"]
    words += ["--judge-temperature", "0.5", "--data-root", "/gone/data"]
    (folder / "stage.json").write_text(json.dumps([words, "c"]))
    (folder / "request.json").write_text(json.dumps({"bench": "b", "answers": {}, "bench_hash": "h"}))
    same = {"engine": "transformers", "repeats": 2, "temperature": 0.5}
    assert judge_job(run, **same).out == folder
    assert judge_job(run, **{**same, "repeats": 1}).out != folder
    judge_job(run, **same).save()
    assert json.loads((folder / "resolved.json").read_text())["bench_hash"] == "h"  # what was asked is not lost
    assert judge_job(run, **same).out == folder


def test_a_request_of_another_kind_is_refused_with_the_expected_one(run):
    judge_job(run).save()
    with pytest.raises(MoemixError, match=r"request\.json: this is not a request for `moemix eval`"):
        read_request(run.folder / "judge" / "b" / "request.json", EvalJobRequest)


def test_evaluations_and_judgings_of_a_store_of_version_0_1_are_found_by_what_they_were_asked():
    stored = Path(__file__).parents[1] / "data" / "store_0_1" / "quickstart"
    for folder in stored.glob("*-s0-*"):
        run = Run(folder)
        config = judge_config(folder / "judge" / "quickstart")
        assert (config.limit, config.max_tokens, config.judges, config.engine) == (1, 48, (), "transformers")
        assert run.judge_folder(config) == folder / "judge" / "quickstart"
        assert run.judge_folder(config.model_copy(update={"repeats": 2})) != folder / "judge" / "quickstart"
        request = eval_request(folder / "evals" / "quickstart")
        assert run.eval_folder(request) == folder / "evals" / "quickstart"
        assert run.eval_folder(request.model_copy(update={"limit": 5})) != folder / "evals" / "quickstart"
