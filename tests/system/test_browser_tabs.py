"""The tabs that the digits job leaves empty, fed and drawn: trials, points, curves with limits, sound and meshes.

A browser shows each of them twice, on TensorBoards with either reader of event files.
"""

from __future__ import annotations

import re

import pytest
import torch
from browser import Page
from serving import tensorboard, until
from torch import nn

from torchboard import Monitor
from torchboard.hparams import Discrete, HParam, Metric, RealInterval, grid, hparams_config

RATE, UNITS, OPTIMIZER = (
    HParam("lr", RealInterval(1e-3, 1.0)),
    HParam("units", Discrete([8, 16])),
    HParam("optimizer", Discrete(["adam", "sgd"])),
)
TRIALS = [{RATE: rate, **choice} for rate, choice in zip((0.01, 0.1, 0.5, 0.02), grid([UNITS, OPTIMIZER]))]
POINTS = 64


def run(log_dir, number, choice):
    """One trial of three epochs; the first has everything else."""
    torch.manual_seed(number)
    model = nn.Sequential(nn.Linear(8, choice[UNITS]), nn.ReLU(), nn.Linear(choice[UNITS], 2))
    targets = torch.arange(200) % 2
    with Monitor(model, log_dir, hparams=choice, histogram_freq=0) as monitor:
        for epoch in range(3):
            if number == 0:
                scores = (torch.rand(200) + targets * (epoch + 1) / 3) / 2
                monitor.log_predictions(targets, scores)
                monitor.log_slices(targets, scores, groups=["left", "left", "right", "right"] * 50)
                images = torch.rand(POINTS, 3, 16, 16)
                monitor.log_embeddings("0", torch.rand(POINTS, 8), [f"p{n}" for n in range(POINTS)], images)
                monitor.writer.add_audio("sound", torch.sin(torch.arange(8000) / 8)[None] / 2, sample_rate=8000)
                monitor.writer.add_mesh("shape", torch.rand(1, 8, 3), faces=torch.randint(8, (1, 12, 3)))
            monitor.log_epoch(val_loss=1 / (number + epoch + 2), val_accuracy=(number + epoch) / 8)


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("log")
    metrics = [Metric("epoch_accuracy", "validation", "accuracy"), Metric("epoch_loss", "validation", "loss")]
    hparams_config(log_dir, [RATE, UNITS, OPTIMIZER], metrics)
    for number, choice in enumerate(TRIALS):
        run(log_dir / str(number), number, choice)
    return log_dir


@pytest.fixture(scope="module")
def window(log_dir, driver, loader, tmp_path_factory):
    with tensorboard(log_dir, loader, tmp_path_factory.mktemp("served") / "output.txt") as board:
        for number in range(len(TRIALS)):
            board.await_points(f"{number}/validation", "epoch_loss", 2)
        until(lambda: board.get("plugins_listing"), lambda plugins: plugins["projector"]["enabled"])
        yield Page(driver, board)


@pytest.fixture
def page(window, request):
    yield window
    window.keep(request.node.name.removeprefix("test_"))
    window.driver.switch_to.default_content()
    assert window.errors() == []
    assert window.board.complaints() == []


def test_every_tab_that_has_data_is_there(page):
    fed = {"audio", "custom_scalars", "hparams", "mesh", "pr_curves", "projector", "scalars", "images", "text"}
    until(lambda: page.board.get("plugins_listing"), lambda found: all(found[name]["enabled"] for name in fed))


def test_the_table_of_trials_has_a_row_each_with_its_last_metrics(page):
    page.open("hparams")
    cells = "return deep('vaadin-grid-cell-content').map(e => e.textContent.trim()).filter(text => text)"
    columns = ["lr", "optimizer", "units", "accuracy", "loss"]

    def rows(found):
        return [found[start + 1 : start + 6] for start in range(7, len(found), 6)]

    found = until(lambda: page.ask(cells), lambda found: len(found) == 7 + 6 * 4)
    assert found[2:7] == columns
    assert sorted(rows(found)) == [
        ["0.010000", "adam", "8.0000", "0.25000", "0.25000"],
        ["0.020000", "sgd", "16.000", "0.62500", "0.14286"],
        ["0.10000", "sgd", "8.0000", "0.37500", "0.20000"],
        ["0.50000", "adam", "16.000", "0.50000", "0.16667"],
    ]


def test_parallel_coordinates_draw_a_line_a_trial_through_every_axis(page):
    page.open("hparams")
    until(lambda: page.ask("return deep('paper-tab').length"))
    page.ask("deep('paper-tab')[1].click()")
    lines = """return deep('tf-hparams-parallel-coords-plot').flatMap(plot => deep('.foreground path', plot))
        .map(e => (e.getAttribute('d') || '').split('L').length)"""
    assert until(lambda: page.ask(lines), lambda found: len(found) == len(TRIALS)) == [5] * len(TRIALS)


def test_the_projector_lists_every_epoch_and_draws_the_points(page):
    page.open("projector")
    for _ in range(2):  # a frame in a frame
        page.driver.switch_to.frame(until(lambda: page.ask("return deep('iframe')[0] || null")))
    text = "return deep('*').filter(shown).map(e => e.childElementCount ? '' : e.textContent.trim()).join(' ')"
    counts = re.compile(rf"3 tensors found.* {POINTS}\s+8 ", re.DOTALL)  # points, dimensions
    until(lambda: page.ask(text), counts.search)
    until(lambda: page.ask("return deep('div').some(e => /variance described: [\\d.]+%/.test(e.textContent))"))
    names = [f"activations/0:{epoch:05}" for epoch in range(3)]
    listed = "return deep('paper-item').map(e => e.textContent).join(' ')"
    until(lambda: page.ask(listed), lambda found: all(name in found for name in names))


def test_curves_of_slices_are_drawn_with_their_limits(page):
    page.open("custom_scalars")
    drawings = """return deep('tf-custom-scalar-margin-chart-card').map(card =>
        [drawn('path.line', card, 30).length, drawn('path', card, 30).length])"""
    until(lambda: page.ask(drawings), lambda found: len(found) == 5 and all(paths > line >= 1 for line, paths in found))
    assert "Missing Tags" not in page.ask("return deep('.collapsible-list-title').map(e => e.textContent).join(' ')")


def test_precision_and_recall_are_a_curve(page):
    page.open("pr_curves")
    lines = "return deep('tf-pr-curve-card').map(card => [card.tag, drawn('path.line', card, 100).length])"
    assert until(lambda: page.ask(lines), lambda found: found and found[0][1]) == [["predictions/pr_curve/1", 1]]


def test_sound_can_be_played(page):
    page.open("audio")
    clips = "return deep('tf-audio-loader').flatMap(card => deep('audio', card)).map(e => e.duration)"
    assert until(lambda: page.ask(clips), lambda found: found and found[0]) == [1]


def test_a_mesh_is_drawn(page):
    page.open("mesh")
    sizes = "return deep('tf-mesh-loader').flatMap(card => deep('canvas', card)).map(e => e.width)"
    assert until(lambda: page.ask(sizes), lambda found: found and min(found) > 100)
