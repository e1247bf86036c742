"""The Graphs page on a whole training step, and on a graph that is too large to draw."""

from __future__ import annotations

import pytest
import torch
from browser import Page
from serving import tensorboard, until
from torch import nn
from torch.nn.functional import cross_entropy

import torchboard
from torchboard import Monitor, SummaryWriter
from torchboard.graph.layer_costs import LayerCosts
from torchboard.graph.nodes import Graph, ModuleCall, Node, Source, TensorSpec
from torchboard.graph.recorded import RecordedGraph

BLOCKS = 5000
NODES = "return deep('g.node').filter(shown).map(e => e.getAttribute('data-name'))"
CONTROLS = "deep('tf-graph-controls')[0]"
SCENE = "deep('tf-graph-scene')[0]"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(4 * 64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(image)).flatten(1))


def many_blocks() -> RecordedGraph:
    """A chain of blocks with two boxes in each: far more than a browser can compare."""
    spec = (TensorSpec((1, 4), "float32", "cpu"),)
    nodes = [Node(0, "input", "x", outputs=spec)]
    for i in range(2 * BLOCKS):
        nodes.append(Node(i + 1, "op", "relu", ("Net", str(i // 2), str(i % 2)), "m", (Source(i, 0),), spec))
    return RecordedGraph(Graph("Net", tuple(nodes), (ModuleCall(("Net",), "", "Net"),)), None, LayerCosts("Net", ()))


@pytest.fixture(scope="module")
def page(driver, tmp_path_factory):
    directory = tmp_path_factory.mktemp("graphs")
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, directory / "step", histogram_freq=0, feature_maps=False, write_graph="step") as monitor:
        for _ in range(3):
            loss = cross_entropy(model(torch.rand(2, 1, 8, 8)), torch.tensor([1, 2]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        monitor.log_epoch()
    with SummaryWriter(directory / "large") as writer:
        writer.add_graph(many_blocks())
    with tensorboard(directory, "default", tmp_path_factory.mktemp("served") / "output.txt") as board:
        until(lambda: set(board.plugin("graphs", "info")) == {"large", "step/train"})
        window = Page(driver, board)
        yield window
        assert window.errors() == []
        assert board.complaints() == []


def choose(page: Page, run: str, tag: str | None = None, kind: str = "op_graph") -> None:
    """Opens the page on one run and tag, and waits for the boxes on it."""
    page.open("graphs")
    names = until(lambda: page.ask(f"return ({CONTROLS} && {CONTROLS}.datasets || []).map(run => run.name)"))
    page.ask(f"{CONTROLS}._selectedRunIndex = {names.index(run)}")
    if tag is not None:
        tags = page.ask(f"return {CONTROLS}.datasets[{names.index(run)}].tags.map(tag => tag.tag)")
        page.ask(f"{CONTROLS}._selectedTagIndex = {tags.index(tag)}")
        page.ask(f"{CONTROLS}._selectedGraphType = '{kind}'")


def expand(page: Page, *names: str) -> set[str]:
    """Opens boxes, one in another, and gives the names of all that is then drawn."""
    for name in names:
        until(lambda: name in page.ask(NODES))  # noqa: B023
        page.ask(f"{SCENE}.fire('node-toggle-expand', {{name: '{name}'}})")
        until(lambda: any(node.startswith(name + "/") for node in page.ask(NODES)))  # noqa: B023
    return set(page.ask(NODES))


def test_a_training_step_is_drawn_with_its_gradients_and_the_optimizer(page):
    choose(page, "step/train", "train_step")
    until(lambda: {"image", "Net", "cross_entropy", "backward", "gradients", "SGD"} <= set(page.ask(NODES)))
    assert {"gradients/Net", "gradients/Net/stem", "gradients/Net/blocks"} <= expand(page, "gradients", "gradients/Net")
    page.keep("graph_step")


def test_the_times_of_a_box_are_the_sum_of_those_in_it(page):
    (value,) = torchboard.read(page.board.log_dir).values("train_step", "step/train").values
    choose(page, "step/train", "train_step", "profile")
    until(lambda: page.ask("return deep('tf-graph-dashboard')[0]._stats || null"))
    for box in ("Net", "gradients/Net", "SGD"):
        inside = [stats for stats in value.profile.nodes if f"{stats.name}/".startswith(f"{box}/")]
        stats = f"const node = deep('tf-graph')[0].graphHierarchy.node('{box}'); return node && node.stats"
        until(lambda: page.ask(f"{stats} ? node.stats.getTotalMicros() : null"))  # noqa: B023
        assert page.ask(f"{stats} && node.stats.getTotalMicros()") == pytest.approx(
            sum(node.duration for node in inside), rel=0.1, abs=2 * len(inside)
        )
        assert page.ask(f"{stats} && node.stats.totalBytes") == sum(node.nbytes for node in inside)


def test_a_graph_that_is_too_large_opens_collapsed_to_its_modules(page):
    choose(page, "large")
    found = until(lambda: set(page.ask(NODES)) >= {"x", "Net"})
    assert found
    parts = {name for name in expand(page, "Net") if "/part_" in name}
    assert len(parts) == BLOCKS // 100
    inside = expand(page, "Net/part_0") - parts
    assert {f"Net/part_0/{number}" for number in (0, 50, 99)} <= inside
