"""Encoders in evaluation mode run fused under hooks and modes of ours, as they do without."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from torchboard.graph.fused import FusedLayers
from torchboard.graph.hooks import GuardedHook
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.observed_step import StepRecorder

pytestmark = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors", "ignore:enable_nested_tensor is True"
)


class Classifier(nn.Module):
    """A frozen encoder, whose output is averaged over padding too, below a head that learns."""

    def __init__(self, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(96, 4, 192, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2).requires_grad_(False)
        self.head = nn.Linear(96, 2)
        self.encoder.eval()

    def forward(self, x, padding):
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(4, 33, 96), torch.arange(33)[None] >= torch.tensor([[3], [5], [33], [5]])


def kernels(graph) -> int:
    return sum(node.name == "_transformer_encoder_layer_fwd" for node in graph.nodes)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_recorded_pass_of_an_encoder_in_evaluation_is_that_of_the_bare_model(batch, norm_first, context):
    model = Classifier(norm_first=norm_first)
    with context():
        bare = model(*batch)
        recorder = GraphRecorder(model)
        recorder.attach()
        assert torch.equal(model(*batch), bare)
    assert recorder.error is None and kernels(recorder.graph) == 2
    assert [node.name for node in recorder.graph.nodes if node.kind == "op"][-1] == "linear"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_attention_by_itself_is_that_of_the_bare_model_and_the_weights_are_the_same(batch):
    model = nn.ModuleList([nn.MultiheadAttention(96, 4, batch_first=True).eval()]).requires_grad_(False)
    model.forward = lambda x: model[0](x, x, x)
    bare = model(batch[0])
    recorder = GraphRecorder(model)
    recorder.attach()
    assert all(map(torch.equal, model(batch[0]), bare))
    assert "_native_multi_head_attention" in [node.name for node in recorder.graph.nodes]


def test_a_recorded_step_leaves_a_teacher_beside_the_model_its_path(batch):
    teacher, model = Classifier(), Classifier()
    with torch.no_grad():
        bare = teacher(*batch)
    recorder = StepRecorder(model)
    recorder.attach()
    out = model(*batch)
    with torch.no_grad():
        assert torch.equal(teacher(*batch), bare)
    (out - bare).square().mean().backward()
    recorder.end()
    recorder.close()
    assert recorder.error is None and kernels(recorder.graph) == 4
    assert "square" in [node.name for node in recorder.graph.nodes]  # the function mode came back


def test_in_training_and_with_gradients_functions_stay_in_the_graph(batch):
    model = Classifier().requires_grad_(True)
    recorder = GraphRecorder(model)
    recorder.attach()
    model(*batch)
    assert kernels(recorder.graph) == 0 and "layer_norm" in [node.name for node in recorder.graph.nodes]


def test_a_pass_that_raises_in_an_encoder_leaves_no_mode_and_nothing_on_its_layers(batch):
    model = Classifier()
    recorder = GraphRecorder(model)
    recorder.attach()
    with pytest.raises(Exception, match="."):
        model(batch[0][:, :, :5], batch[1])
    recorder.detach()
    assert torch._C._len_torch_function_stack() == 0 and torch._C._len_torch_dispatch_stack() == 0
    assert not nn.modules.module._global_forward_hooks and not nn.modules.module._global_forward_pre_hooks
    assert not any("modules" in vars(part) for part in model.modules())


def hooked(layer: nn.Module) -> FusedLayers:
    for part in layer.modules():
        part.register_forward_hook(GuardedHook(lambda *_: None, lambda error: None))
    fused = FusedLayers(layer.modules())
    fused.put_on()
    return fused


def test_a_layer_with_hooks_of_somebody_else_takes_the_way_it_took(batch):
    layer = Classifier(norm_first=True).encoder.layers[0]
    calls = []
    layer.linear1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        bare = layer(batch[0])
        hooked(layer)
        assert torch.equal(layer(batch[0]), bare)
    assert len(calls) == 2 and "modules" not in vars(layer)


def test_what_is_said_of_hooks_is_for_one_call_alone(batch):
    layer = Classifier().encoder.layers[0]
    fused = hooked(layer)
    parts = [*layer.modules()]
    with torch.no_grad():
        layer(batch[0])
    assert [*layer.modules()] == parts and "modules" not in vars(layer)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert len([*copied.modules()]) == len(parts)
        assert torch.equal(copied(batch[0]), layer(batch[0]))
    fused.remove()
    assert len(layer._forward_hooks) == 1 and not layer._forward_pre_hooks and not layer._forward_hooks_always_called
