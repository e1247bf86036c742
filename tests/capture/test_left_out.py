"""What of a model cannot be captured is named in the log, once."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from torchboard import Capture, MemorySink, Monitor
from torchboard.errors import InvalidValueError, TorchboardWarning


def scripted(model: nn.Module, example: torch.Tensor | None = None) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        return torch.jit.script(model) if example is None else torch.jit.trace(model, example)


class Partly(nn.Module):
    """Two parts in TorchScript, one of them with layers inside, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(4, 4)
        self.several = scripted(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
        self.one = scripted(nn.Linear(3, 2), torch.ones(1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(self.several(self.plain(x)))


def logged(model: nn.Module, epochs: int = 1, **options) -> MemorySink:
    sink = MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, capture=Capture(**options), feature_maps=False, write_graph=False) as monitor:
        for _ in range(epochs):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            monitor.log_epoch()
    return sink


def told(sink: MemorySink) -> list[str]:
    return [value.markdown for _, value in sink.series("monitor/left_out/layers")]


def test_layers_in_torchscript_are_named_once_and_their_parameters_are_there():
    sink = logged(Partly(), epochs=2)
    (text,) = told(sink)
    assert "TorchScript takes no hooks" in text and text.endswith("`several`, `one`.")
    tags = sink.tags("train")
    assert "activations/plain" in tags and not [tag for tag in tags if tag.startswith("activations/several")]
    assert {"parameters/several/0/weight", "gradients/several/0/weight", "updates/one/bias"} <= set(tags)


def test_layers_in_torchscript_that_nobody_asked_for_are_not_named():
    assert not told(logged(Partly(), include="plain")) and not told(logged(Partly(), exclude=["several", "one"]))
    assert not told(logged(Partly(), activations=False, gradients=False))


@pytest.mark.parametrize(("include", "named"), [("several*", "several"), (torch.jit.ScriptModule, "several, one")])
def test_to_ask_for_layers_in_torchscript_alone_is_refused_with_the_reason(include, named):
    with pytest.raises(
        InvalidValueError, match=f"it matches only what is in TorchScript, {named}, which takes no hooks"
    ):
        Monitor(Partly(), sink=MemorySink(), capture=Capture(include=include))
    assert told(logged(Partly(), include=["plain", "[ps]*"]))[0].endswith("`several`.")


def test_a_whole_model_in_torchscript_has_parameters_and_a_note():
    sink = logged(scripted(nn.Sequential(nn.Linear(4, 3), nn.ReLU())))
    (text,) = told(sink)
    assert text.endswith("the outputs in `RecursiveScriptModule`.")
    assert {"parameters/0/weight", "gradients/0/weight", "gradient_norm"} <= set(sink.tags("train"))


def test_the_graph_of_a_model_in_torchscript_is_refused_with_a_reason():
    model = scripted(nn.Linear(4, 3))
    with Monitor(model, sink=MemorySink()) as monitor:
        model(torch.ones(2, 4))
        with pytest.warns(TorchboardWarning, match="TorchScript takes no hooks"):
            monitor.log_epoch()


def test_layers_above_the_limit_and_layers_in_torchscript_are_told_together():
    (text,) = told(logged(Partly(), max_layers=1))
    assert "1 of 2 are captured" in text and "`several`, `one`" in text


class Wrapper(torch.Tensor):
    """A tensor that holds another one, as those of PyTorch's own documentation do."""

    @staticmethod
    def __new__(cls, inner):
        kind = {"dtype": inner.dtype, "device": inner.device, "requires_grad": inner.requires_grad}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, **kind)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(cls, lambda tensor: tensor.inner, (args, kwargs or {}))
        return tree_map_only(torch.Tensor, cls, operator(*args, **kwargs))


def test_tensors_that_only_their_class_can_read_are_named_and_all_else_is_there():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].weight = nn.Parameter(Wrapper(model[0].weight.detach()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sink = logged(model, epochs=2)
    (layers,), ((_, parameters),) = told(sink), sink.series("monitor/left_out/parameters")
    outputs = [f"`{kind}/{layer}` (Wrapper)" for layer in "01" for kind in ("activations", "activation_gradients")]
    assert all(output in layers for output in outputs)
    assert parameters.markdown.endswith("cannot be measured: `0.weight` (Wrapper).")


def test_gradients_that_only_their_class_can_read_cost_their_norm_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    sink, optimizer = MemorySink(), torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, feature_maps=False, write_graph=False) as monitor:
        model(Wrapper(torch.ones(2, 4))).sum().backward()
        optimizer.step()
        monitor.log_epoch()
    assert type(model[0].weight.grad) is Wrapper
    assert len(sink.series("parameters/0/weight")) == 1 and not sink.series("gradient_norm")


class Padded(nn.Module):
    """An encoder, of which padding comes out as zeros in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encode, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = torch.arange(6)[None] >= torch.tensor([[3], [5], [5], [2]])
        return self.head(self.encode(x, src_key_padding_mask=padding))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("graph", [True, False])
def test_an_encoder_runs_fused_in_a_captured_phase_and_the_layers_in_it_are_named(graph):
    model, sink, x = Padded(), MemorySink(), torch.linspace(-1, 1, 192).view(4, 6, 8)
    with torch.no_grad():
        bare = model.eval()(x)
    with Monitor(model, sink=sink, write_graph=graph, feature_maps=False) as monitor:
        model.train()(x).sum().backward()
        model.eval()
        with torch.no_grad(), monitor.phase("validation"):
            assert torch.equal(model(x), bare)
        monitor.log_epoch()
    (text,) = told(sink)
    assert text.endswith(
        "in evaluation `encode.layers.0`, `encode.layers.1` ran as one kernel, as without a monitor, so there is nothing of the "
        "layers inside."
    )
    tags = sink.tags("validation")
    assert {"activations/encode/layers/1", "activations/encode"} <= set(tags)
    assert "activations/encode/layers/1/linear1" not in tags and "activations/encode/layers/1/linear1" in sink.tags(
        "train"
    )
    (layer,) = [value for _, value in sink.series("activations/encode/layers/1", run="validation")]
    assert layer.buckets[:, 2].sum() == (3 + 5 + 5 + 2) * 8  # what is padding is no part of it
