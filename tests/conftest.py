"""What several tests share: where the real data lies, and small pieces of it."""

from __future__ import annotations

import os
import signal
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
THOROUGH = ("test_first_hour.py", "test_judge_length.py")

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "MOEMIX_ALL_TESTS" not in os.environ:
        skip = pytest.mark.skip(reason="takes minutes; `make test-all` (MOEMIX_ALL_TESTS=1) runs it")
        for item in items:
            if item.path.name in THOROUGH:
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
