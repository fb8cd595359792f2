"""A board of ten thousand submissions: verified, built, and used in a browser."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from leaderboards.board.verify import verify
from tests.bench.report import Report, options, spread
from tests.leaderboards.board_records import make_board, write_submission

SIZES = {"pick": 60, "count": 40, "run": 20}
STRATEGIES, SEEDS = ("uniform", "dynamic", "datasize", "random"), 3  # of each base model
REPEATS = 7


def main() -> None:
    given = options(
        submissions={"type": int, "default": 10_000, "help": "how many"},
        keep={"type": Path, "default": None, "help": "folder for the board and the site, to look at"},
    )
    count = 300 if given.quick else given.submissions
    report = Report(
        "board",
        "A leaderboard of ten thousand submissions",
        f"{count:,} generated submissions of {sum(SIZES.values())} questions each (lm-eval's format; multiple choice,"
        " exact match after a regular expression, a metric that runs code), each with a mixture trace of three sources:"
        f" {len(STRATEGIES)} strategies with {SEEDS} seeds of each base model."
        " They lie on a disk whose cache is warm. Verifying recomputes every score that can be recomputed and hashes"
        " every file; building ranks all of them in four columns (50 million pairs each) and writes the site.",
        quick=given.quick,
    )
    with tempfile.TemporaryDirectory(prefix="moemix-bench-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        board = _generate(folder / "board", count)
        size = sum(path.stat().st_size for path in board.rglob("*") if path.is_file())
        rows = [_verify(board, size, count), *_build(board, folder / "site")]
        report.table(rows, ["what", "wall time", "CPU time", "peak memory", "rate"])
        report.say(
            "Peak memory is of the largest process. The limits are 30 s and 2 GB for a board that was built"
            " before. The first build also tests the strategies of each base model against each other."
        )
        _browse(report, folder / "site")
    report.save()


def _generate(path: Path, count: int) -> Path:
    if not path.exists():
        board, asked = make_board(path, SIZES)
        for i in range(count):
            base, one = divmod(i, len(STRATEGIES) * SEEDS)
            write_submission(board, asked, f"model-{i:05d}", seed=one // len(STRATEGIES), ability=0.1 + 0.8 * i / count,
                             updates=10, draw=i, strategy=STRATEGIES[one % len(STRATEGIES)], base_model=f"base-{base}",
                             recipe="made", parameters=10 ** (6 + i % 5))  # fmt: skip
    return path


def _verify(board: Path, size: int, count: int) -> list[str]:
    """One process, in this one, so that its CPU time is that of a core."""
    from leaderboards.board.folder import BoardFolder

    shutil.rmtree(board / ".moemix", ignore_errors=True)
    wall, cpu = time.perf_counter(), time.process_time()
    found = verify(BoardFolder(board), jobs=1)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert len(found) == count
    assert not any(checked.failed for checked in found)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rate = f"{count / cpu:,.0f} submissions, {size / cpu / 1e6:,.0f} MB a second of a core"
    return [f"verify, one process, nothing known ({size / 1e9:.2f} GB)", f"{wall:.1f} s", f"{cpu:.1f} s",
            f"{memory:.2f} GB", rate]  # fmt: skip


def _build(board: Path, site: Path) -> list[list[str]]:
    """The command as it is typed: on a verified board, on one that was built before, on one that is not verified."""
    rows = []
    for what in ("build, verified before", "build, built before", "build, nothing verified, two processes"):
        if "nothing" in what:
            shutil.rmtree(board / ".moemix")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        process = subprocess.run(
            (sys.executable, "-m", "harness.cli", "board", "build", board, "--out", site, "--jobs", "2",
             "--no-execute"),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        wall = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process.returncode == 0, process.stderr
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        files = sum(1 for path in site.rglob("*") if path.is_file())
        rows.append([what, f"{wall:.1f} s", f"{cpu:.1f} s", f"{after.ru_maxrss / 1e6:.2f} GB", f"{files:,} files"])
    return rows


def _browse(report: Report, site: Path) -> None:
    """Headless Chromium, from the disk: the page's own clock, from a click to the next frame that is laid out."""
    from tests.leaderboards.browser import chromium, open_page, until, why_not

    if why_not():
        report.say(f"The page was not measured: {why_not()}.")
        return
    first, ready, sort, query, choice = [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="moemix-bench-") as profile, chromium(Path(profile)) as driver:
        address = f"{(site / 'index.html').as_uri()}#b/made@1"  # the table; the first view are the strategies
        for _ in range(REPEATS):
            open_page(driver, address)
            paint = "performance.getEntriesByName('first-contentful-paint')[0]"
            until(lambda: driver.execute_script(f"return !!{paint}"), "the first paint")  # noqa: B023
            first.append(driver.execute_script(f"return {paint}.startTime"))
            ready.append(driver.execute_script("return performance.getEntriesByName('moemix-ready')[0].startTime"))
            for column in ("pick", "average", "model", "average"):
                sort.append(_timed(driver, f"document.querySelector(\"button[data-sort='{column}']\").click()"))
            for text in ("model-0", "model-00", ""):
                query.append(_timed(driver, "const q = document.getElementById('query');"
                                            f"q.value = '{text}'; q.dispatchEvent(new Event('input'))"))  # fmt: skip
            for value in ("1", ""):
                choice.append(_timed(driver, "const s = document.getElementById('strategy');"
                                             f"s.value = '{value}'; s.dispatchEvent(new Event('change'))"))  # fmt: skip
        version = driver.capabilities["browserVersion"]
    named = {"first view (first contentful paint)": first, "table ready for use": ready, "sort by a column": sort,
             "filter while typing": query, "filter by strategy": choice}  # fmt: skip
    report.table(
        [[what, spread(times, 0), f"{max(times):.0f}"] for what, times in named.items()],
        [f"page, Chromium {version.split('.')[0]}", "median ms (middle half)", "slowest"],
    )
    report.say("The limit is 200 ms for first view, sort and filter.")


def _timed(driver: Any, script: str) -> float:
    """Milliseconds of an action until the page is laid out again."""
    return float(
        driver.execute_script(
            f"const t = performance.now(); {{ {script} }}; document.body.getBoundingClientRect();"
            " return performance.now() - t"
        )
    )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[2]))
    main()
