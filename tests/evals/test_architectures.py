"""The project's own architectures: served by vLLM where it can, answered by transformers where it cannot."""

from __future__ import annotations

import pytest
from small_evaluations import assert_same_samples, run
from tiny_checkpoint import make_checkpoint

from evals.engines.vllm_server import VllmEngine, installed_vllm, unsupported, why_not_vllm
from harness.errors import MoemixError


def vllm_is_missing() -> bool:
    try:
        installed_vllm()
    except MoemixError:
        return True
    return False


@pytest.fixture(scope="module")
def llama_moe(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("llama_moe"), architecture="llama_moe")


@pytest.mark.serve
@pytest.mark.skipif(vllm_is_missing(), reason="vLLM is not installed")
def test_vllm_serves_llama_moe_and_says_what_transformers_says(llama_moe, mini_suite, tmp_path):
    summary = run(llama_moe, mini_suite, "vllm", tmp_path / "vllm")
    assert summary.engine["name"] == "vllm", summary.engine
    assert "instead_of_vllm" not in summary.engine
    log = (tmp_path / "vllm" / "server.log").read_text()
    assert "TransformersMoEForCausalLM" in log, "not served through the Transformers backend"
    run(llama_moe, mini_suite, "transformers", tmp_path / "transformers")
    assert_same_samples(tmp_path / "vllm", tmp_path / "transformers")


def test_what_vllm_can_serve_is_left_to_it(checkpoint, llama_moe):
    assert why_not_vllm(checkpoint) is None
    assert why_not_vllm(llama_moe) is None


def test_molm_is_answered_by_transformers_and_the_record_says_why(mini_suite, tmp_path):
    folder = make_checkpoint(tmp_path / "molm", architecture="moduleformer")
    summary = run(folder, mini_suite, "vllm", tmp_path / "out")
    assert summary.request.engine == "vllm"
    assert summary.engine["name"] == "transformers"
    assert "attention of ModuleFormerForCausalLM" in summary.engine["instead_of_vllm"]
    assert summary.columns["choice"].n == 24
    asked = run(folder, mini_suite, "transformers", tmp_path / "asked")
    assert "instead_of_vllm" not in asked.engine
    assert_same_samples(tmp_path / "out", tmp_path / "asked")


def test_an_architecture_that_vllm_refuses_is_told_from_other_failures(checkpoint):
    said = "ValueError: Model architectures ['MixtralForCausalLM'] are not supported for now."
    assert unsupported(said, checkpoint) == "vLLM has no implementation of the architecture MixtralForCausalLM"
    assert unsupported("RuntimeError: out of memory", checkpoint) is None


def test_an_architecture_that_vllm_refuses_is_answered_by_transformers(checkpoint, mini_suite, tmp_path, monkeypatch):
    def refuses(engine: VllmEngine, port: int) -> list[str]:
        said = "Model architectures ['MixtralForCausalLM'] are not supported for now."
        return ["sh", "-c", f'echo "{said}" >&2; exit 1']

    monkeypatch.setattr(VllmEngine, "_command", refuses)
    monkeypatch.setattr("evals.engines.vllm_server.installed_vllm", lambda: ("0", True))
    with pytest.raises(MoemixError, match="architecture MixtralForCausalLM"):
        VllmEngine(checkpoint, dtype="float32", seed=0, folder=tmp_path).__enter__()
    summary = run(checkpoint, mini_suite, "vllm", tmp_path / "out")
    assert summary.request.engine == "vllm"
    assert summary.engine["name"] == "transformers"
    assert summary.engine["instead_of_vllm"].endswith("architecture MixtralForCausalLM")
