"""One browser for all pages, and TensorBoard's two readers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import chromium
from selenium import webdriver
from serving import LOADERS


@pytest.fixture(scope="module", params=LOADERS)
def loader(request: pytest.FixtureRequest) -> str:
    """One of TensorBoard's readers."""
    return request.param


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """The browser."""
    with chromium(tmp_path_factory.mktemp("browser")) as chrome:
        yield chrome
