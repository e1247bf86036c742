"""A browser, and TensorBoard's two readers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from serving import LOADERS

if TYPE_CHECKING:
    from selenium import webdriver


@pytest.fixture(scope="module", params=LOADERS)
def loader(request: pytest.FixtureRequest) -> str:
    """One of TensorBoard's readers."""
    return request.param


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """The browser of a file's tests; a page that moves would take a core for as long as it is open."""
    from browser import chromium

    with chromium(tmp_path_factory.mktemp("browser")) as chrome:
        yield chrome
