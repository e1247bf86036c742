"""Chromium without a window, and what to ask of the pages it shows.

TensorBoard's older pages hide everything in shadow roots, so elements are looked for through all of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from serving import Board

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1200",
)
_HELPERS = """
function deep(selector, root) {
  const found = [];
  (function walk(node) {
    for (const element of node.querySelectorAll('*')) {
      if (element.matches(selector)) found.push(element);
      if (element.shadowRoot) walk(element.shadowRoot);
    }
  })(root ? root.shadowRoot || root : document);
  return found;
}
const drawn = (selector, root, least) => deep(selector, root).filter(e => (e.getAttribute('d') || '').length > least);
const shown = (element) => element.getClientRects().length > 0;
"""


class Page:
    """One browser window on a TensorBoard."""

    def __init__(self, driver: webdriver.Chrome, board: Board) -> None:
        self.driver = driver
        self.board = board

    def open(self, plugin: str, query: str = "") -> None:
        """Loads the page of a plugin anew."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.board.url}/{query}#{plugin}")

    def ask(self, script: str) -> Any:
        """What a script returns.

        ``deep(selector, root)`` finds elements through shadow roots, ``drawn(selector, root, least)`` only paths with that
        much in them; ``shown(element)`` tells whether an element takes up room.
        """
        return self.driver.execute_script(_HELPERS + script)

    def errors(self) -> list[str]:
        """Errors on the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def keep(self, name: str) -> None:
        """Saves a picture of the window, if TORCHBOARD_SCREENSHOTS names a directory."""
        directory = os.environ.get("TORCHBOARD_SCREENSHOTS")
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(directory, f"{name}.png")))


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile; the test is skipped where none is installed, but not on a build server."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        missing = "Chromium" if not browser else "chromedriver"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{missing} is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        chrome.set_page_load_timeout(60)
        chrome.set_script_timeout(60)
        yield chrome
    finally:
        chrome.quit()
