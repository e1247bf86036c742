"""The digits job as a person sees it: TensorBoard's own pages, drawn by a browser, with either reader of event files."""

from __future__ import annotations

import io
import re

import numpy as np
import PIL.Image
import pytest
from browser import Page
from digits_job import EPOCHS, digits_job
from selenium.webdriver.common.by import By
from serving import tensorboard, until

CURVES = {"epoch_accuracy": 2, "epoch_learning_rate": 1, "epoch_loss": 2}
"""Tag -> how many runs have a curve of it."""
OVER_STEPS = {"evaluation_accuracy_vs_iterations": 1, "evaluation_loss_vs_iterations": 1}
"""The same of what validation found, over steps of training."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return digits_job(tmp_path_factory.getbasetemp() / "digits")


@pytest.fixture(scope="module")
def window(digits, driver, loader, tmp_path_factory):
    with tensorboard(digits.log_dir, loader, tmp_path_factory.mktemp("served") / "output.txt") as board:
        for run in ("train", "validation"):
            board.await_points(run, "epoch_loss", EPOCHS - 1)
        for run, tag in (("train", "parameters/head/bias"), ("validation", "activations/head")):
            board.await_histograms(run, tag, EPOCHS - 1)
        until(lambda: len(board.plugin("images", "images", run="train", tag="feature_maps/stem", sample=0)) == EPOCHS)
        yield Page(driver, board)


@pytest.fixture
def page(window, request):
    yield window
    window.keep(request.node.name.removeprefix("test_"))
    assert window.errors() == []
    assert window.board.complaints() == []


def colours_in(png: bytes, colours: list[str]) -> list[int]:
    """How many pixels of a picture have each of some CSS colours, or nearly."""
    pixels = np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    wanted = [[int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in colours]
    return [int((np.abs(pixels - colour).max(-1) < 16).sum()) for colour in wanted]


def test_time_series_draws_the_curves_of_both_runs_over_each_other(page):
    page.open("timeseries", "?tagFilter=epoch_")
    swatches = "return deep('runs-data-table .run-color-swatch').map(e => e.style.background)"
    colours = until(lambda: page.ask(swatches), lambda found: len(found) == 2)
    titles = "return deep('scalar-card').map(card => deep('.tag', card)[0].textContent.trim())"
    assert until(lambda: page.ask(titles), lambda found: len(found) == len(CURVES)) == list(CURVES)

    def runs() -> list[int]:
        charts = page.driver.find_elements(By.CSS_SELECTOR, "scalar-card line-chart canvas")
        return [sum(count > 50 for count in colours_in(chart.screenshot_as_png, colours)) for chart in charts]

    assert until(runs, lambda found: found == list(CURVES.values()))


def test_time_series_draws_histograms_and_pictures(page):
    page.open("timeseries", "?tagFilter=stem")
    outlines = "return deep('histogram-card').map(card => drawn('tb-histogram path', card, 100).length)"
    assert until(lambda: page.ask(outlines), lambda counts: len(counts) >= 4 and min(counts) >= EPOCHS)
    images = "return deep('image-card img').map(e => e.naturalWidth)"
    assert until(lambda: page.ask(images), lambda widths: widths and min(widths) > 0) == [350]


def test_the_scalars_page_draws_a_line_a_run(page):
    page.open("scalars")
    colours = """return deep('tf-scalar-card').map(card =>
        [card.tag, new Set(drawn('path.line', card, 30).map(e => e.getAttribute('stroke'))).size])"""
    lines = (CURVES | OVER_STEPS).items()
    assert until(lambda: page.ask(colours), lambda cards: len(cards) >= 2 and dict(cards).items() <= lines)


def test_the_histograms_page_draws_an_outline_an_epoch(page, digits):
    page.open("histograms", "?")
    outlines = """return deep('tf-histogram-loader').filter(shown).map(card => [
        card.tag, deep('path.outline', card).map(p => p.getAttribute('d') || '')])"""

    def complete(cards: list) -> bool:
        return bool(cards) and all(len(paths) == EPOCHS for _, paths in cards)

    cards = until(lambda: page.ask(outlines), complete)
    assert f"activation_gradients/{digits.layers[0]}" in dict(cards)
    for tag, paths in cards:
        for path in paths:
            heights = [float(point.split(",")[1]) for point in re.split("[ML]", path.rstrip("Z"))[1:]]
            assert np.isfinite(heights).all() and max(heights) - min(heights) > 1, tag


def test_the_distributions_page_draws_bands(page):
    page.open("distributions")
    bands = "return deep('tf-distribution-loader').filter(shown).map(card => drawn('path.area', card, 20).length)"
    assert until(lambda: page.ask(bands), lambda counts: counts and min(counts) >= 4)


def test_the_images_page_shows_the_feature_maps_and_the_confusion_matrix(page, digits):
    page.open("images")
    widths = "return deep('tf-image-loader').map(card => [card.tag, deep('img', card).map(e => e.complete ? e.naturalWidth : 0)])"
    expected = {"confusion_matrix", *(f"feature_maps/{name}" for name in digits.convolutions)}

    def loaded(cards: list) -> bool:
        return expected <= {tag for tag, _ in cards} and all(len(found) == 1 and found[0] > 0 for _, found in cards)

    shown = dict(until(lambda: page.ask(widths), loaded))
    assert shown["confusion_matrix"] == [500] and shown["feature_maps/stem"] == [350]


def test_the_text_page_shows_the_facts_as_a_table_and_the_model_as_code(page):
    page.open("text")
    cells = until(lambda: page.ask("return deep('td').map(e => e.textContent)"), lambda cells: "model" in cells)
    assert cells[cells.index("model") + 1] == "DigitNet"
    blocks = "return deep('pre code').map(e => e.textContent)"
    until(lambda: page.ask(blocks), lambda found: any("(conv1): Conv2d(16, 16" in block for block in found))


def is_coloured(colour: str) -> bool:
    """Whether a CSS colour is no grey."""
    return len(set(re.findall(r"\d+", colour)[:3])) > 1


def expand(page: Page, *names: str) -> list[str]:
    """Opens boxes of the graph, one in another, and gives the names of all nodes then drawn."""
    nodes = "return deep('g.node').filter(shown).map(e => e.getAttribute('data-name'))"
    for name in names:
        until(lambda: name in page.ask(nodes))  # noqa: B023
        page.ask(f"deep('tf-graph-scene')[0].fire('node-toggle-expand', {{name: '{name}'}})")
        until(lambda: any(node.startswith(name + "/") for node in page.ask(nodes)))  # noqa: B023
    return page.ask(nodes)


def test_the_graph_page_draws_the_operations_in_boxes_named_as_the_modules(page):
    page.open("graphs")
    nodes = expand(page, "DigitNet", "DigitNet/blocks", "DigitNet/blocks/0", "DigitNet/blocks/0/conv1")
    inside = {node.removeprefix("DigitNet/") for node in nodes if node.startswith("DigitNet/") and "~~" not in node}
    block = {f"blocks/0/{name}" for name in ("conv1", "norm1", "conv2", "norm2", "add", "relu", "relu_1")}
    assert {"stem", "blocks", "dropout", "head", "flatten", "max_pool2d", "blocks/1"} | block <= inside
    assert "blocks/0/conv1/conv2d" in inside
    assert {"x", "output"} <= set(nodes)
    labels = "return deep('g.edge text').map(e => e.textContent)"
    until(lambda: page.ask(labels), lambda found: any("32×16×8×8" in label for label in found))
    page.keep("graph_expanded")


def test_the_graph_page_draws_the_layers_and_blocks_of_one_structure_in_one_colour(page):
    page.open("graphs")
    until(lambda: page.ask("return deep('g.node').length"))
    page.ask("deep('tf-graph-controls')[0]._selectedTagIndex = 1")
    until(lambda: page.ask("return deep('tf-graph-controls')[0]._selectedGraphType") == "conceptual_graph")
    until(lambda: page.ask("return deep('g.node').map(e => e.getAttribute('data-name'))") == ["DigitNet"])
    assert {"DigitNet/stem", "DigitNet/head"} <= set(expand(page, "DigitNet", "DigitNet/blocks"))
    fills = """return ['0', '1'].map(block => deep(`g.node[data-name="DigitNet/blocks/${block}"] .nodecolortarget`)
        .map(e => getComputedStyle(e).fill)[0])"""
    assert until(lambda: page.ask(fills), lambda found: found[0] == found[1] and is_coloured(found[0]))
    block = {f"DigitNet/blocks/1/{name}" for name in ("conv1", "norm1", "conv2", "norm2", "add", "relu", "relu_1")}
    assert block <= set(expand(page, "DigitNet/blocks/1"))

    def card() -> str:
        page.ask("deep('tf-graph-scene')[0].fire('node-select', {name: 'DigitNet/stem'})")
        return page.ask("return deep('tf-graph-info').flatMap(e => deep('div', e)).map(e => e.textContent).join(' ')")

    assert until(card, lambda text: "Conv2d(1, 16" in text)


def test_the_graph_page_colours_the_operations_by_compute_time_memory_and_device(page):
    page.open("graphs")
    expand(page, "DigitNet")
    tags = "return deep('tf-graph-controls')[0].datasets[0].tags.map(tag => tag.tag)"
    page.ask(f"deep('tf-graph-controls')[0]._selectedTagIndex = {page.ask(tags).index('step1')}")
    until(lambda: page.ask("return deep('tf-graph-controls')[0]._selectedGraphType") == "profile")
    until(lambda: page.ask("return deep('tf-graph-dashboard')[0]._stats || null"))
    fills = """return ['stem', 'blocks'].map(name => deep(`g.node[data-name="DigitNet/${name}"] .nodecolortarget`)
        .map(e => getComputedStyle(e).fill)[0])"""

    def colours(colouring: str) -> list[str]:
        page.ask(f"deep('tf-graph-controls')[0].set('colorBy', '{colouring}')")
        if "DigitNet/stem" not in page.ask("return deep('g.node').filter(shown).map(e => e.getAttribute('data-name'))"):
            page.ask("deep('tf-graph-scene')[0].fire('node-toggle-expand', {name: 'DigitNet'})")
        return page.ask(fills)

    for colouring in ("compute_time", "memory"):
        assert until(lambda: colours(colouring), lambda found: found[1] and is_coloured(found[1]))  # noqa: B023
        page.keep(f"graph_{colouring}")
    assert until(lambda: colours("device"), lambda found: all(fill and "#device-DigitNet/" in fill for fill in found))
    legend = "return deep('tf-graph-controls')[0].colorByParams.device.map(entry => entry.device)"
    assert page.ask(legend) == ["/device:CPU:0"]
