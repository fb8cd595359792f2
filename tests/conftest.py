"""What several tests share: where the real data lies, and small pieces of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

# Started in the background, a process inherits an ignored Ctrl-C, and so would everything that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Several test processes side by side, each with a thread for every core, would mostly wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Minutes each: begun last, one of them would be waited for alone.
LONG = ("test_end_to_end.py", "test_slurm.py", "test_vllm.py", "test_architectures.py", "test_proposals.py")

# Some minutes each, on top of what every commit is tested with: `make test-all` runs them.
THOROUGH = (
    "test_first_hour.py",
    "test_distributions.py",
    "test_judge_length.py",
    "test_judge_served.py",
    "test_engines_agree.py",
    # single tests of files that are otherwise run: a second server, a second kill, a second proposal
    "test_the_same_recipe_is_evaluated_through_a_vllm_server",
    "test_a_server_killed_midway_is_started_again_once_and_asked_only_for_the_rest",
    "test_vllm_serves_llama_moe_and_says_what_transformers_says",
    "test_a_killed_conductor_leaves_no_process_of_the_launcher_and_the_run_goes_on_to_the_same_bits",
    "test_proxies_are_trained_measured_and_fitted_and_a_killed_proposal_goes_on",
    "test_two_processes_train_what_one_does[packed-fsdp2]",
    "test_the_container_is_built_and_answers",
    "test_a_bare_python_with_the_requirements_verifies_builds_and_submits",
    "test_every_task_group_and_tag_of_lm_eval_is_found_without_it",
)

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "MOEMIX_ALL_TESTS" not in os.environ:
        skip = pytest.mark.skip(reason="takes minutes; `make test-all` (MOEMIX_ALL_TESTS=1) runs it")
        for item in items:
            if item.path.name in THOROUGH or item.name in THOROUGH:
                item.add_marker(skip)
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real training and benchmark files."""
    root = Path(os.environ.get("MOEMIX_DATA_ROOT") or SHARED / "data")
    if not root.is_dir():
        pytest.skip("the real data files are not on this machine (set MOEMIX_DATA_ROOT)")
    return root


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of golden numbers of the published implementation."""
    root = SHARED / "fixtures"
    if not root.is_dir():
        pytest.skip("the golden numbers of the published implementation are not on this machine")
    return root


BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from a copy of the project, so that building leaves nothing in it."""
    root, out = Path(__file__).parents[1], tmp_path_factory.mktemp("sdist")
    files = subprocess.run(("git", "ls-files", "-co", "--exclude-standard"), cwd=root, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (root / name).is_file():
            (out / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (out / "copy" / name).write_bytes((root / name).read_bytes())
    subprocess.run((sys.executable, "-c", BUILD, "build_sdist", out), cwd=out / "copy", check=True, capture_output=True)
    (built,) = out.glob("*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    out = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    source = out / sdist.name.removesuffix(".tar.gz")
    subprocess.run((sys.executable, "-c", BUILD, "build_wheel", out), cwd=source, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built
