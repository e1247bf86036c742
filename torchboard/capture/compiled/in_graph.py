"""Captured training steps that stay compiled: hooks that the compiler traces into the user's graph.

A compiler does not notice hooks that come after the first call, so these sit on the layers from the start. Disarmed they
trace to nothing: the graph has the nodes of the bare model's. Armed they trace to one operator for each output, and to one
for its gradient, in the backward pass of an identity. The compiler keeps both graphs and switches between them by a guard
on a flag; nothing is compiled a third time. What the operators fold into are the rows that everything else is folded into,
so histograms are those of an eager step to the bin, as far as the compiled code's numbers are the eager ones.

The first captured step runs eagerly: it shows which outputs there are, and gives each of them a row of 32 KiB on its
device, and another for its gradient. Passes of other phases run eagerly too. A captured step copies each output once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchboard.capture.compiled.checks import (
    GRADIENTS,
    OUTPUTS,
    CompiledCheck,
    RowsMet,
    check_graph_mode,
    cuda_graphs,
    silent_layers,
)
from torchboard.capture.compiled.outputs import can_change, can_copy, changed, items_of
from torchboard.capture.compiled.same_tensors import Place, SameTensors
from torchboard.capture.gradient_tap import BackwardEnd
from torchboard.capture.models import key_of, models_in
from torchboard.capture.modes import transformed
from torchboard.capture.select import tag
from torchboard.capture.sketches import SketchSnapshot, to_host
from torchboard.capture.taken import hooks_taken
from torchboard.graph.hooks import InertWhenCopied, in_backward
from torchboard.graph.job import in_a_job
from torchboard.sketch import ops
from torchboard.sketch.rows import TableRows
from torchboard.sketch.table import blank_rows

Eagerly = Callable[[nn.Module, tuple, Any], None]

_library = torch.library.Library("torchboard", "FRAGMENT")
_SCHEMA = "(Tensor(a!) counts, Tensor(b!) moments, Tensor(c!) parameters, Tensor tensor) -> ()"
_library.define(f"observe_output_{_SCHEMA}")
_library.define(f"observe_gradient_{_SCHEMA}")


class GraphRow(NamedTuple):
    """The row of one tag in tensors of its own, which a compiled graph writes into."""

    counts: Tensor
    moments: Tensor
    parameters: Tensor

    def observe_(self, tensor: Tensor) -> None:
        """Folds every element of a tensor into the row, on its device; never waits."""
        ops.observe_(self.counts, self.moments, self.parameters, 0, tensor.detach())


class Switch:
    """The flag that all hooks of a model look at, and the compiler guards on; of several models each has its own."""

    __slots__ = ("armed",)

    def __init__(self) -> None:
        self.armed = False


class GraphHook(InertWhenCopied):
    """What sits on a layer from the monitor's beginning to its end.

    Args:
        switch: shared by the hooks of a model.
        eagerly: called as a hook is, where nothing is being compiled.

    Attributes:
        outputs: which of the layer's outputs is folded into which row, by its place in what the layer returns.
        gradients: the same for their gradients.
        handed_on: the outputs whose gradients are folded where the tensor was returned before: in which place of this layer's
            output, or None for another layer.
    """

    __slots__ = ("_switch", "_eagerly", "outputs", "gradients", "handed_on")

    def __init__(self, switch: Switch, eagerly: Eagerly) -> None:
        self._switch = switch
        self._eagerly = eagerly
        self.outputs: dict[str, GraphRow] = {}
        self.gradients: dict[str, GraphRow] = {}
        self.handed_on: dict[str, str | None] = {}

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if not self._switch.armed:
            return None
        if not torch.compiler.is_compiling():
            return self._eagerly(module, args, output)
        if torch.compiler.is_exporting() or _transformed():
            return None
        if not module.training and not torch.is_grad_enabled():
            return None
        traced = self._traced(output, "", {})
        return traced if self.gradients else None

    def _traced(self, value: Any, suffix: str, tapped: dict[str | None, Tensor] | None) -> Any:
        """The same value, each tensor of it folded, and replaced by one whose gradient will be, which is put into ``tapped``;
        with None for that, as in a container that cannot be made again, none is replaced."""
        if isinstance(value, Tensor):
            return self._fold(value, suffix, tapped) if type(value) is Tensor else value
        items = items_of(value)
        if not items:
            return value
        tapped = tapped if can_change(value) else None
        before = len(tapped or ())
        items = [(key, self._traced(item, f"{suffix}.{key}", tapped)) for key, item in items]
        return changed(value, items) if len(tapped or ()) > before else value

    def _fold(self, tensor: Tensor, suffix: str, tapped: dict[str | None, Tensor] | None) -> Tensor:
        row = self.outputs.get(suffix)
        if row is not None and row.counts.device == tensor.device:
            _observe_output(*row, tensor.detach())
        if tapped is None:
            return tensor
        row, source = self.gradients.get(suffix), tapped.get(self.handed_on.get(suffix))
        if source is not None:
            tensor = tapped[suffix] = source
        elif row is not None and row.counts.device == tensor.device and tensor.requires_grad:
            tensor = tapped[suffix] = _Tapped.apply(tensor, *row)
        return tensor


class InGraph:
    """The hooks of a model whose captured steps stay compiled, and the rows that training is folded into.

    Args:
        model: whose layers these are.
        layers: name -> the layer, and what its hook calls, as a hook is called, where nothing is being compiled.
        backward_end: told in each armed backward pass that it will end.

    Raises:
        InvalidValueError: what ``check_graph_mode`` says.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, tuple[nn.Module, Eagerly]], backward_end: BackwardEnd
    ) -> None:
        check_graph_mode(model)
        _prepare_compiler()
        self._fault: Exception | None = None
        self._ran_compiled = False
        self._taken: dict[str, None] = {}
        self._model = model
        self._backward_end = backward_end
        self._switches = {key: Switch() for key in models_in(model)}
        self._hooks = {
            name: GraphHook(self._switches[key_of(model, name)], torch.compiler.disable(call))
            for name, (_, call) in layers.items()
        }
        self._sites = {
            name: (weakref.ref(layer), layer.register_forward_hook(self._hooks[name]).id)
            for name, (layer, _) in layers.items()
        }
        self._rows: dict[str, GraphRow] = {}
        self._unmet = False  # whether a layer could not show its outputs in the eager step
        self._check = CompiledCheck(self._report)
        self._same = SameTensors()

    @property
    def armed(self) -> bool:
        """Whether hooks record."""
        return any(switch.armed for switch in self._switches.values())

    @property
    def keys(self) -> list[str]:
        """The models whose layers have hooks."""
        return [*dict.fromkeys(key_of(self._model, name) for name in self._hooks)]

    @property
    def lost(self) -> Exception | None:
        """Which layers have lost their hook, or compiled steps showed nothing of, if there are any."""
        consequence = "and steps without them, and what was compiled in one, show nothing of these layers"
        return hooks_taken(self._taken, consequence) or self._fault

    @property
    def knows_rows(self) -> bool:
        """Whether a step has shown which outputs there are."""
        return bool(self._rows) and not self._unmet

    def look(self) -> None:
        """Puts the hooks back that somebody has taken away, each in its place; about 0.1 us a layer.

        The compiler compiles nothing for that: code that has the hook in it fits as it did before it was gone. Code that was
        compiled without it, in one step in between, fits still, and comes first: where that step was a captured one, compiled
        captured steps show nothing more of the layer.
        """
        for name, (reference, key) in self._sites.items():
            layer = reference()
            if layer is None or key in layer._forward_hooks:
                continue
            hook = self._hooks[name]
            self._unmet |= name not in self._taken and not (hook.outputs or hook.gradients)
            self._taken[name] = None
            behind = {later: layer._forward_hooks.pop(later) for later in [*layer._forward_hooks] if later > key}
            layer._forward_hooks.update({key: hook, **behind})

    def arm(self, on: bool, compiled: bool = False) -> None:
        """Whether the hooks record from now on, and whether they do in compiled code."""
        for switch in self._switches.values():
            switch.armed = on
        (backward_ends.add if on and compiled else backward_ends.discard)(self._backward_end)
        if on and compiled:
            self._check.begin(self._moments())
            if not self._ran_compiled:
                self._ran_compiled, self._fault = True, cuda_graphs(self._model)

    def take_off(self, key: str) -> None:
        """The hooks of one model record nothing from now on."""
        self._switches[key].armed = False

    def end_step(self, compiled: bool) -> None:
        """A captured training step has ended: whether compiled code calls the hooks can be told, once."""
        if self.armed and compiled:
            self._check.end_step()
        elif self.armed:
            self._unmet = False
            self._share_rows()

    def see(self, layer: str, suffix: str, tensor: Tensor) -> None:
        """In an eager step: a layer has returned this tensor, whose gradient has a row."""
        self._same.see(Place(layer, suffix), tensor)

    def row(self, kind: str, layer: str, suffix: str, device: torch.device) -> GraphRow | None:
        """The row of an output or of its gradient, made when first asked for; None where it is on another device.

        Where the gradient is folded into another one's row, this is one that nobody reads.
        """
        hook = self._hooks[layer]
        rows = hook.outputs if kind == OUTPUTS else hook.gradients
        if kind == GRADIENTS and suffix in hook.handed_on:
            return GraphRow(*blank_rows(1, device).buffers)
        if suffix not in rows:
            rows[suffix] = self._rows[tag(kind, layer) + suffix] = GraphRow(*blank_rows(1, device).buffers)
        return rows[suffix] if rows[suffix].counts.device == device else None

    def collect(self) -> list[SketchSnapshot | RowsMet]:
        """The rows since the last call on their way to the host, one snapshot a device; they begin anew, empty."""
        snapshots: list[SketchSnapshot | RowsMet] = self._check.collect(self._moments())
        for device in dict.fromkeys(row.counts.device for row in self._rows.values()):
            here = {tag_: row for tag_, row in self._rows.items() if row.counts.device == device}
            rows = TableRows(*(torch.cat(buffers) for buffers in zip(*here.values())))
            snapshots.append(SketchSnapshot(tuple(here), to_host(rows, packed=rows.counts.is_cuda and not in_a_job())))
            _clear(here.values(), device)
        return snapshots

    def remove(self) -> None:
        """Takes the hooks away."""
        self.arm(False)
        for reference, key in self._sites.values():
            layer = reference()
            if layer is not None:
                layer._forward_hooks.pop(key, None)

    def _share_rows(self) -> None:
        """Outputs that were the same tensor in the eager step have one row for their gradient from now on."""
        for (layer, suffix), source in self._same.take().items():
            hook, row = self._hooks[layer], self._hooks[source.layer].gradients.get(source.suffix)
            if row is not None and hook.gradients.pop(suffix, None) is not None:
                hook.handed_on[suffix] = source.suffix if source.layer == layer else None
                self._rows[tag(GRADIENTS, layer) + suffix] = row

    def _moments(self) -> dict[str, Tensor]:
        return {tag_: row.moments for tag_, row in self._rows.items()}

    def _report(self, silent: list[str]) -> None:
        self._fault = self._fault or silent_layers(self._model, silent)


backward_ends: weakref.WeakSet[BackwardEnd] = weakref.WeakSet()
"""Who is told when a backward pass ends that a compiled graph has reported a gradient from."""


class _Tapped(torch.autograd.Function):
    """The identity; the gradient is folded into a row on its way. A copy, because a view made here could not be written to."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, *row: Tensor) -> Tensor:
        ctx.row = row
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        _observe_gradient(*ctx.row, gradient)
        return gradient, None, None, None


def _fold_output(counts: Tensor, moments: Tensor, parameters: Tensor, tensor: Tensor) -> None:
    """Unless checkpointing runs the compiled code again inside the backward pass."""
    if not in_backward():
        ops.observe_(counts, moments, parameters, 0, tensor)


def _fold_gradient(counts: Tensor, moments: Tensor, parameters: Tensor, tensor: Tensor) -> None:
    ops.observe_(counts, moments, parameters, 0, tensor)
    for end in tuple(backward_ends):
        end.expect()


def _fold_nothing(counts: Tensor, moments: Tensor, parameters: Tensor, tensor: Tensor) -> None:
    """Tensors without data."""


for _name, _fold_ in (("observe_output_", _fold_output), ("observe_gradient_", _fold_gradient)):
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
    _library.impl(_name, _fold_, "CompositeExplicitAutograd")
    _library.impl(_name, _fold_nothing, "Meta")

_observe_output = torch.ops.torchboard.observe_output_.default
_observe_gradient = torch.ops.torchboard.observe_gradient_.default


@lru_cache(maxsize=1)
def _prepare_compiler() -> None:
    """Once in a process: what the compiler has to know of these hooks.

    It gives up on code that it has compiled in too many versions, 8 by default. Here come up to three for each that there
    would be: without the measuring, with it, and, when the monitor is closed, without hooks.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit *= 3
    torch.compiler.assume_constant_result(_transformed)
    torch.compiler.assume_constant_result(can_copy)
    torch._dynamo.eval_frame.skip_code(GraphHook.__call__.__code__)  # no graph of its own, where it is not inlined


def _transformed() -> bool:
    """Asked while code is traced, not while it runs: whether that is inside a transform of ``torch.func``."""
    return transformed()


def _clear(rows: Iterable[GraphRow], device: torch.device) -> None:
    empty = blank_rows(1, device).buffers
    for row in rows:
        for buffer, nothing in zip(row, empty):
            buffer.copy_(nothing)
