"""A model may change between captured steps, and what it puts out may be of any kind: each is told as it is, or told of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from torchboard import Capture, MemorySink, Monitor
from torchboard.errors import TorchboardWarning


def elements(sink: MemorySink, tag: str) -> int:
    """How many elements a histogram has."""
    ((_, value),) = sink.series(tag)
    return int(value.buckets[:, 2].sum())


def test_a_layer_replaced_or_added_between_captured_steps_is_seen_from_the_next_one_on():
    model, sink = nn.Sequential(nn.Linear(3, 2)), MemorySink()
    with Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False) as monitor:
        for step in range(4):
            if step == 2:
                model[0] = nn.Sequential(model[0], nn.Tanh(), nn.Linear(2, 5))
            model(torch.ones(1, 3)).sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
        monitor.log_epoch()
    assert elements(sink, "activations/0/2") == 5 and elements(sink, "activations/0/1") == 2


def grow(model):
    model.insert(1, nn.Linear(2, 6))
    model.insert(2, nn.Linear(6, 2))


def new_head(model):
    model[1] = nn.Linear(2, 5)


@pytest.mark.parametrize("compiled", ["eager", "skip"])
@pytest.mark.parametrize("behind", ["Monitor", "log_epoch", "validation"])
@pytest.mark.parametrize(
    ("change", "widths"), [(grow, [2, 6, 2, 3]), (new_head, [2, 5]), (lambda model: model.pop(1), [2])]
)
def test_what_is_done_to_a_model_before_the_first_pass_of_an_epoch_is_seen_in_it(change, widths, behind, compiled):
    model, sink = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3)), MemorySink()
    options = {"feature_maps": False, "capture": Capture(compiled=compiled)}

    def epoch():
        for _ in range(5):
            model(torch.ones(4, 3)).sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()

    with Monitor(model, sink=sink, **options) as monitor:
        if behind != "Monitor":
            epoch()
            monitor.log_epoch()
        if behind == "validation":
            with monitor.phase("validation"), torch.no_grad():
                model(torch.ones(4, 3))
        change(model)
        epoch()
        monitor.log_epoch()
        last = monitor.epoch - 1
    for kind in ("activations", "activation_gradients"):
        seen = {tag: dict(sink.series(tag, "train")) for tag in sink.tags("train") if tag.startswith(f"{kind}/")}
        counts = {tag: points[last].buckets[:, 2].sum() for tag, points in seen.items() if last in points}
        counts.pop(f"{kind}/Sequential")
        assert counts == {f"{kind}/{layer}": 4 * width for layer, width in enumerate(widths)}
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_hook_that_was_removed_is_back_in_the_next_captured_step():
    model, sink = nn.Linear(3, 2), MemorySink()
    with Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False) as monitor:
        for step in range(4):
            if step == 1:
                model._forward_hooks.clear()
            model(torch.ones(1, 3)).sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
        with pytest.warns(TorchboardWarning, match="our hooks on Linear: something took them away"):
            monitor.log_epoch()
    assert elements(sink, "activations/Linear") == 3 * 2
    assert "gradient_norm_before_clipping" not in sink.tags("train")


def test_a_parameter_under_another_name_is_seen_under_it():
    model, sink = nn.Linear(3, 2), MemorySink()
    with Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False) as monitor:
        for step in range(3):
            if step == 1:
                prune.l1_unstructured(model, "weight", 0.5)
            if step == 2:
                prune.remove(model, "weight")
            model.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
        monitor.log_epoch()
    assert elements(sink, "gradients/weight") == 2 * 6 and elements(sink, "gradients/weight_orig") == 6


def test_a_parameter_that_is_gone_at_the_epochs_end_is_in_the_norm():
    model, sink = nn.Sequential(nn.Linear(1, 1, bias=False)), MemorySink()
    with Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False) as monitor:
        for name, factor in (("0", 3.0), ("b", 4.0)):
            model._modules.clear()
            model.add_module(name, nn.Linear(1, 1, bias=False))
            (factor * model(torch.ones(1, 1))).sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
        monitor.log_epoch()
    ((_, norm),) = sink.series("gradient_norm")
    assert norm.value == pytest.approx(5.0) and "gradient_norm_before_clipping" not in sink.tags("train")


def test_there_is_no_norm_before_clipping_where_a_backward_pass_was_not_seen():
    model, sink = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Monitor(model, sink=sink, capture=Capture(every=1, include="1"), feature_maps=False) as monitor:
        for step in range(4):
            optimizer.zero_grad()
            part = model if step % 2 else model[0]
            ((1 + step) * part(torch.ones(1, 1))).sum().backward()
            optimizer.step()
        monitor.log_epoch()
    assert "gradient_norm" in sink.tags("train") and "gradient_norm_before_clipping" not in sink.tags("train")


class Puts(nn.Module):
    """Puts out what a function makes of its input."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor):
        return self.make(x)


ODD = {
    "complex": lambda x: x.to(torch.complex64),
    "bits": lambda x: torch.empty(2, dtype=torch.bits8),
    "compressed rows": lambda x: x.detach().to_sparse_csr(),
    "masked": lambda x: torch.masked.masked_tensor(x.detach(), x.detach() > 0),
}


@pytest.mark.filterwarnings("ignore:.*(prototype|beta|MaskedTensors)", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_output_that_cannot_be_measured_is_told_of_and_the_others_are_captured(odd):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.odd, self.last = nn.Linear(3, 3), Puts(odd), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            self.odd(x)
            return self.last(x)

    model, sink = Net(), MemorySink()
    with Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False, write_graph=False) as monitor:
        for _ in range(2):
            for _ in range(2):
                model(torch.ones(2, 3)).sum().backward()
                torch.optim.SGD(model.parameters(), 0.1).step()
            monitor.log_epoch()
    assert [value.buckets[:, 2].sum() for _, value in sink.series("activations/last")] == [4, 4]
    ((_, text),) = sink.series("monitor/left_out/layers")
    assert "cannot be measured: `activations/odd` (" in text.markdown
