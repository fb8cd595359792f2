"""The pictures of docs/leaderboard.md: runs are submitted, the site is built and photographed in a real browser.

``python -m tests.leaderboards.screenshots RUN_FOLDER…``
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.leaderboards.browser import chromium, open_page, texts, until

PICTURES = Path(__file__).parents[2] / "docs" / "images"


def main(runs: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="moemix-screenshots-") as scratch:
        folder = Path(scratch)
        evaluation = next(Path(runs[0]).glob("evals/*/summary.json")).parent
        moemix("board", "init", folder / "board", "--pin", evaluation, "--title", "Mixing on the quickstart world",
               "--description", "A tiny MoE on generated questions: what a board looks like.")  # fmt: skip
        for run in runs:
            moemix("submit", run, "--board", folder / "board", "--licence", "Apache-2.0", "--contact", "us@example.org")
        moemix("board", "build", folder / "board", "--out", folder / "site")
        PICTURES.mkdir(parents=True, exist_ok=True)
        page = (folder / "site" / "index.html").as_uri()
        with chromium(folder / "wide", width=1180, height=560) as driver:
            open_page(driver, page)
            driver.save_screenshot(str(PICTURES / "board-strategies.png"))
            shot(driver, f"{page}#b", "#table", "board-table.png")
            ids = driver.execute_script("return [...document.querySelectorAll('[data-id]')].map(e => e.dataset.id)")
            names = texts(driver, "#table td.name a")
            mixed = ids[next(i for i, name in enumerate(names) if "dynamic" in name)]
            others = [i for i in ids if i != mixed]
            shot(driver, f"{page}#c/{mixed}/{others[0]}", "table.comparison", "board-compare.png")
            tall = {"width": 1180, "height": 1250, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", tall)
            shot(driver, f"{page}#s/{mixed}", "dl", "board-submission.png")
        with chromium(folder / "phone", width=390, height=640, dark=True) as driver:
            open_page(driver, page)
            driver.save_screenshot(str(PICTURES / "board-phone.png"))


def shot(driver, address: str, selector: str, name: str) -> None:
    open_page(driver, address)
    until(lambda: driver.find_elements("css selector", selector), selector)
    driver.save_screenshot(str(PICTURES / name))


def moemix(*arguments: object) -> None:
    subprocess.run((sys.executable, "-m", "harness.cli", *map(str, arguments)), check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
