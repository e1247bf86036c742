"""Pictures, sound and videos through the writer: checked and copied at the call, made on the sink's thread."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pytest
import torch

from torchboard import MemorySink, SummaryWriter
from torchboard.arrays import copied, copied_levels, to_array
from torchboard.errors import InvalidValueError, TagError
from torchboard.run import Run
from torchboard.values.image import to_pixels


class Unsettled(MemorySink):
    """Keeps events as they come, as a queue does."""

    def write(self, event):
        self.events.append(event)


def writer_on(sink):
    return SummaryWriter.on_run(Run(sink, ""), lambda: 0)


ADDED = {
    "image": lambda writer, values: writer.add_image("tag", values, dataformats="HW"),
    "images": lambda writer, values: writer.add_images("tag", values[None, :, :, None], dataformats="NHWC"),
    "audio": lambda writer, values: writer.add_audio("tag", values),
    "video": lambda writer, values: writer.add_video("tag", values[None, None, None]),
}


@pytest.mark.parametrize("form", [np.array, torch.tensor], ids=["array", "tensor"])
@pytest.mark.parametrize("add", ADDED.values(), ids=ADDED)
def test_what_is_shown_is_what_was_there_at_the_call(add, form):
    values, sink = form([[0.0, 0.25], [0.5, 1.0]]), Unsettled()
    add(writer_on(sink), values)
    values[:] = 0
    (event,) = sink.events
    assert event.pairs == () and event.droppable and 0 < event.nbytes < 1000
    ((tag, value),) = event.settled().pairs
    numbers = value.clips[0] if value.plugin == "audio" else getattr(value, "pixels", None)
    numbers = value.frames if numbers is None else numbers
    assert tag == "tag" and np.allclose(numbers.reshape(-1) / np.iinfo(numbers.dtype).max, [0, 0.25, 0.5, 1], atol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_picture_on_a_device_is_what_was_there_at_the_call_without_waiting_for_it():
    values, sink = torch.rand(3, 256, 256, device="cuda"), Unsettled()
    expected = to_pixels(values.cpu().numpy(), "CHW")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        writer_on(sink).add_image("tag", values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    values.zero_()
    ((_, image),) = sink.events[0].settled().pairs
    assert np.array_equal(image.pixels, expected)


TENSORS = {
    "bool": torch.rand(3, 4, 5) > 0.5,
    "int64": torch.randint(-9, 300, (3, 4, 5)),
    "uint8": torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8),
    "bfloat16": torch.rand(3, 4, 5).bfloat16(),
    "float8": torch.rand(3, 4, 5).to(torch.float8_e4m3fn),
    "float64": torch.rand(3, 4, 5, dtype=torch.float64),
    "requires_grad": torch.rand(3, 4, 5, requires_grad=True),
    "expanded": torch.rand(1, 4, 1).expand(3, 4, 5),
    "strided": torch.rand(5, 4, 6).transpose(0, 2)[::2],
    "sparse": torch.eye(4).expand(3, 4, 4).to_sparse(),
    "negative": torch.complex(torch.rand(3, 4, 5), torch.rand(3, 4, 5)).conj().imag,
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_floats_become_the_levels_of_a_picture_where_they_are(dtype):
    values = (0.7 * torch.randn(40, 50)).to(dtype)
    values[0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
    expected = to_pixels(to_array(values), "HW")[0, :, :, 0]
    assert np.array_equal(copied_levels(values).arrival.wait()[0], expected)
    assert np.array_equal(copied_levels(to_array(values)).arrival.wait()[0], expected)


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_a_tensor_of_any_kind_is_copied_to_the_number(tensor):
    copy = copied(tensor)
    (array,) = copy.arrival.wait()
    assert (array.shape, array.dtype) == (copy.shape, copy.dtype)
    assert np.array_equal(array, to_array(tensor)) and copy.arrival.nbytes
    sink = MemorySink()
    writer_on(sink).add_image("tag", tensor)
    ((_, image),) = sink.series("tag", run="")
    assert np.array_equal(image.pixels, to_pixels(to_array(tensor), "CHW"))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_quantized_tensor_is_copied_to_the_number():
    tensor = torch.quantize_per_tensor(torch.rand(3, 4, 5), 0.01, 0, torch.quint8)
    (array,) = copied(tensor).arrival.wait()
    assert np.array_equal(array, tensor.dequantize().numpy())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda writer: writer.add_image("a", np.zeros((3, 4))), "names each axis"),
        (lambda writer: writer.add_image("a", np.float32(1), dataformats=""), "names each axis"),
        (lambda writer: writer.add_image("a", np.zeros((3, 4)), dataformats=None), "names each axis"),
        (lambda writer: writer.add_image("a", np.zeros((5, 4, 4))), "5 channels"),
        (lambda writer: writer.add_image("a", torch.zeros(3, 0, 4)), "at least one pixel"),
        (lambda writer: writer.add_image("a", torch.zeros(3, 4, 4) * 1j), "numbers or booleans"),
        (lambda writer: writer.add_image("a", [["x"]], dataformats="HW"), "numbers or booleans"),
        (lambda writer: writer.add_image("a", torch.zeros(3, 4, 4, device="meta")), "no values"),
        (lambda writer: writer.add_images("a", torch.zeros(0, 3, 4, 4)), "at least one pixel"),
        (lambda writer: writer.add_video("a", torch.zeros(2, 3, 4, 4)), "N, T, C, H and W"),
        (lambda writer: writer.add_video("a", torch.zeros(1, 0, 3, 4, 4)), "at least one pixel"),
        (lambda writer: writer.add_video("a", torch.zeros(1, 2, 5, 4, 4)), "5 channels"),
        (lambda writer: writer.add_video("a", torch.zeros(1, 2, 3, 4, 4), fps=0), "frames a second"),
        (lambda writer: writer.add_audio("a", torch.zeros(1, 1, 1, 9)), "reshape"),
        (lambda writer: writer.add_audio("a", torch.zeros(0)), "at least one frame"),
        (lambda writer: writer.add_audio("a", torch.zeros(0, 1, 9)), "at least one"),
        (lambda writer: writer.add_audio("a", torch.zeros(9, 100)), "9 channels"),
        (lambda writer: writer.add_audio("a", torch.zeros(9, dtype=torch.int32)), "int16"),
        (lambda writer: writer.add_audio("a", torch.zeros(9), sample_rate=0.5), "whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_shown_is_refused_at_the_call_and_nothing_is_written(call, match):
    sink = Unsettled()
    with pytest.raises(InvalidValueError, match=match):
        call(writer_on(sink))
    assert sink.events == []


@pytest.mark.parametrize("tag", ["", None, 5, ["a"], b"a", "\ud800"], ids=repr)
@pytest.mark.parametrize("add", ADDED.values(), ids=ADDED)
def test_what_is_no_tag_is_refused_at_the_call(add, tag):
    class Retagged:
        def __getattr__(self, name):
            return lambda _, *args, **rest: getattr(writer_on(Unsettled()), name)(tag, *args, **rest)

    with pytest.raises(TagError, match="tag"):
        add(Retagged(), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("color", "expected"), [("none", [255, 255, 255]), ((1, 0, 0, 0.5), [255, 127, 127]), ("blue", [0, 0, 255])]
)
def test_a_figure_is_drawn_on_its_own_ground_over_white(color, expected):
    figure, sink = matplotlib.figure.Figure(figsize=(1, 0.5), dpi=20, facecolor=color), Unsettled()
    writer_on(sink).add_figure("tag", [figure, figure])
    figure.set_facecolor("green")
    ((_, image),) = sink.events[0].settled().pairs
    assert image.pixels.shape == (2, 10, 20, 3)
    assert np.abs(image.pixels[:, 5, 5].astype(int) - expected).max() <= 1
