"""A real headless Chromium, through its driver."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update"
).split()


def why_not() -> str | None:
    """Why there is no browser here; None if there is."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not installed (make browser)" if missing else None


@contextmanager
def chromium(profile: Path, *, width: int = 1280, height: int = 860, dark: bool = False) -> Iterator[Any]:
    """A browser window of its own, closed at the end."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


def open_page(driver: Any, address: str) -> None:
    """Open a page and wait until it is drawn."""
    driver.get("about:blank")
    driver.get(address)
    script = "return performance.getEntriesByName('moemix-ready').length > 0"
    until(lambda: driver.execute_script(script), f"{address} to be ready")


def axe_violations(driver: Any) -> list[str]:
    """What axe finds against accessibility on the page that is shown."""
    from axe_core_python.selenium import Axe

    driver.set_script_timeout(120)
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in Axe().run(driver)["violations"]]


def texts(driver: Any, selector: str) -> list[str]:
    return list(driver.execute_script(f"return [...document.querySelectorAll({selector!r})].map(e => e.textContent)"))
