"""TensorBoard's two readers, each asked for every page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from digits_job import EPOCHS, DigitsJob, digits_job
from serving import LOADERS, Board, tensorboard, until


@pytest.fixture(scope="session", params=LOADERS)
def loader(request: pytest.FixtureRequest) -> str:
    """One of TensorBoard's readers."""
    return request.param


@pytest.fixture(scope="session")
def server(loader: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """TensorBoard on a directory that is empty at first."""
    log_dir = tmp_path_factory.mktemp("shared")
    with tensorboard(log_dir, loader, tmp_path_factory.mktemp("served") / "output.txt") as board:
        yield board


@pytest.fixture
def show(server: Board, tmp_path: Path) -> Iterator[Callable[[Path], Board]]:
    """Moves a finished log in front of TensorBoard; the test fails where TensorBoard has anything to complain about."""
    board = server.below(tmp_path.name)

    def move(log_dir: Path) -> Board:
        log_dir.rename(server.log_dir / tmp_path.name)
        return board

    yield move
    assert board.complaints() == []


@pytest.fixture
def board(server: Board, tmp_path: Path) -> Iterator[Board]:
    """TensorBoard on a directory of the test's own, ``log_dir / above``, that does not exist yet."""
    board = server.below(tmp_path.name)
    yield board
    assert board.complaints() == []


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DigitsJob:
    """The digits example, trained once a session."""
    return digits_job(tmp_path_factory.getbasetemp() / "digits")


@pytest.fixture(scope="session")
def digits_server(digits: DigitsJob, loader: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """TensorBoard on the digits job, once everything is loaded."""
    with tensorboard(digits.log_dir, loader, tmp_path_factory.mktemp("served") / "output.txt") as board:
        for run, tag in (("train", "parameters/head/bias"), ("validation", "activations/head")):
            board.await_histograms(run, tag, EPOCHS - 1)
        for run in ("train", "validation"):
            board.await_points(run, "epoch_loss", EPOCHS - 1)
        until(lambda: len(board.plugin("images", "images", run="train", tag="feature_maps/stem", sample=0)) == EPOCHS)
        yield board


@pytest.fixture
def digits_board(digits_server: Board) -> Iterator[Board]:
    """TensorBoard on the digits job; the test fails where TensorBoard had anything to complain about."""
    yield digits_server
    assert digits_server.complaints() == []
