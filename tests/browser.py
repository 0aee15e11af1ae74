"""A real browser for the tests: chromium on the PATH, else Debian's package when we are root, else Playwright's own.

`python tests/browser.py` gets one and says in a sentence why it cannot; `make test` runs it first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
# As root there is no sandbox to be had; the rest keeps the browser from looking up hosts that a test machine lacks.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def installed() -> str | None:
    """The program of a browser that is there, or None."""
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    with contextlib.suppress(Exception):
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            path = playwright.chromium.executable_path
            return path if os.path.exists(path) else None
    return None


def fetched() -> str | None:
    """The program of a browser, installed now if it must be."""
    if (path := installed()) is not None:
        return path
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], env=environment, check=False)
        if (path := installed()) is not None:
            return path
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    return installed()


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A headless browser (a playwright Browser). Fails where none is installed; nothing is skipped."""
    from playwright.sync_api import sync_playwright

    path = installed()
    assert path is not None, "no browser is installed: run `make test`, which gets one, or install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    if fetched() is None:
        sys.exit("The tests need a browser, and none could be installed: install chromium and run `make test` again.")
