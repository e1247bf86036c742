"""Parameters, their gradients and their updates, read around the optimizer's step.

Just before the step a gradient is what the optimizer will use: reduced over ranks, unscaled and clipped.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from torchboard.capture.accumulation import Accumulations
from torchboard.capture.backward_norms import BackwardNorms, BackwardSums
from torchboard.capture.figures import Figures
from torchboard.capture.gradient_tap import BackwardEnd, untraced
from torchboard.capture.left_out import left_out
from torchboard.capture.modes import unseen
from torchboard.capture.norms import Norms
from torchboard.capture.options import Capture
from torchboard.capture.overhead import Overhead
from torchboard.capture.ranks.parts import is_localized, localized
from torchboard.capture.select import tag, tags
from torchboard.capture.sketches import Sketches, SketchSnapshot
from torchboard.capture.steps import parameters_of
from torchboard.capture.tensors import observable
from torchboard.capture.updates import Updates, sample
from torchboard.errors import InvalidValueError
from torchboard.graph.hooks import GuardedHook
from torchboard.graph.job import in_a_job
from torchboard.graph.module_names import KnownNames, parameter_names
from torchboard.graph.tensors import is_flat_shard
from torchboard.values import Pending, Text

_Named = tuple[str, nn.Parameter]
WITHOUT_GRADIENT = "monitor/parameters_without_gradient"
_UNREAD = (
    "they are read when a `torch.optim.Optimizer` that holds parameters of the model steps, and none has behind the backward "
    "passes of captured steps (what steps within a pass does not count, nor does what is compiled, as "
    "`torch.compile(optimizer.step)`, but where `Capture(compiled='eager')` runs it uncompiled)"
)


class Parameters:
    """Sketches gradients and updates of captured steps, and the parameters as they are when collected.

    A fault of ours never leaves the optimizer's step: it is kept in ``error``, and nothing is read from then on.

    Args:
        model: its parameters are looked up anew at each captured step, since sharding and ``.to()`` replace them.
        options: which of the three are wanted.
        overhead: measures the time that reading takes when a backward pass has ended.

    Attributes:
        armed: whether the next optimizer step is a captured one.
        backward_end: of the backward passes in a window.
        error: what went wrong around a step, if anything did.
    """

    def __init__(self, model: nn.Module, options: Capture, overhead: Overhead | None = None) -> None:
        self.armed = False
        self.error: Exception | None = None
        self._model = model
        self._options = options
        self._sketches = Sketches()
        self._weights = Sketches()
        self._updates = Updates()
        self._backward = BackwardNorms()
        self._overhead = overhead or Overhead()
        self.backward_end = BackwardEnd(untraced(self._after_backward, options.compiled))
        self._accumulations = Accumulations(self.backward_end)
        self._hooked_version = 0
        self._waits: RemovableHandle | None = None  # on an optimizer that has hooks of the user's
        self._names = KnownNames(model)
        self._missed: Counter[str] = Counter()  # steps of its optimizer at which a parameter had no gradient
        self._sparse: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        self._steps: Counter[str] = Counter()
        self._all_steps: Counter[str] = Counter()  # of all epochs
        self._skips = False
        self._is_unread = False  # whether a backward pass has left gradients
        self._met: list[tuple[str, nn.Parameter]] = []  # when the backward pass ended, for the step behind it

    @property
    def lost(self) -> Exception | None:
        """Which parameters are left out, if any are."""
        wanted = self._options.parameters or self._options.gradients or self._options.updates
        if not wanted or not in_a_job():
            return None
        flat = [name for name, weight in parameter_names(self._model) if is_flat_shard(weight)]
        lost = flat or localized(self._model)
        if not lost:
            return None
        by = "FullyShardedDataParallel" if flat else "DistributedDataParallel over tensor parallelism"
        return InvalidValueError(
            f"{len(lost)} parameters of a {by}",
            "what a rank has of them does not tell which part it is",
            "shard with torch.distributed.fsdp.fully_shard, whose parts do, or leave them out with Capture(parameters=False, "
            "gradients=False, updates=False)",
        )

    def arm(self, on: bool) -> None:
        """Whether the next optimizer step is a captured one. Puts a hook on each parameter, or takes them off."""
        was_armed, self.armed = self.armed, on and self.error is None
        if not on:
            self._updates.clear()
            self._end_waiting()
            self._met = []
        if self.armed is not was_armed and self._options.gradients:
            self._backward.forget()
            if not self.armed:
                self._accumulations.take_off()
            elif self._options.compiled != "graph":  # whose compiler would meet hooks that come and go
                self._hook(self._named())

    def _hook(self, named: list[_Named]) -> None:
        self._hooked_version = self._names.version
        self._accumulations.put_on(named)

    def _after_backward(self) -> None:
        """Reads the norm of the gradients that a backward pass has just left. Never raises."""
        if not self.armed or not self._options.gradients:
            return
        try:
            with self._overhead, unseen(), torch.no_grad():
                self._met, hears = self._named(), self._accumulations.are_on
                heard = self._accumulations.take_heard()
                if not heard and hears and all(type(weight) is nn.Parameter for _, weight in self._met):
                    return  # it added to none, as that of ``torch.autograd.grad``
                self._is_unread = True
                self._backward.note(parameter for _, parameter in self._met)
        except Exception as error:
            self._fail(error)

    def is_setup(self, optimizer: Optimizer) -> bool:
        """Whether a step of this optimizer is none of training: a captured one at learning rates of 0, behind no backward pass of
        the epoch. So ``torch.distributed.checkpoint`` has an optimizer make its state."""
        if not self.armed or self._is_unread or not self._options.gradients:
            return False
        rates = [group.get("lr") for group in optimizer.param_groups]
        return all(isinstance(rate, (int, float)) and not rate for rate in rates)

    def before_step(self, optimizer: Optimizer, closure: bool = False, scale: Tensor | None = None) -> None:
        """Reads the gradients of the parameters that this optimizer is about to change. Never raises.

        Hooks that the user has put on the optimizer, which may clip, run first: those on all optimizers are called before them.

        Args:
            optimizer: the one that is about to step.
            closure: whether it computes the gradients itself, by a function that it was given: they are read when it has
                stepped.
            scale: what a loss scaler multiplied the loss with, and has taken off the gradients since.
        """
        if not self.armed:
            return
        self._updates.clear()  # of a step that raised
        self._end_waiting()
        if optimizer._optimizer_step_pre_hooks:
            read = partial(self._read_behind, closure, scale)
            self._waits = optimizer.register_step_pre_hook(GuardedHook(read, self._fail))
        else:
            self._read(optimizer, closure, scale)

    def _read_behind(self, closure: bool, scale: Tensor | None, optimizer: Optimizer, *_: object) -> None:
        with self._overhead, unseen():
            self._read(optimizer, closure, scale)

    def _end_waiting(self) -> None:
        if self._waits is not None:
            self._waits.remove()
            self._waits = None

    def _read(self, optimizer: Optimizer, closure: bool, scale: Tensor | None) -> None:
        try:
            with torch.no_grad():
                held = self._held(optimizer)
                if not closure:
                    held = self._read_gradients(optimizer, held, scale)
                if self._options.updates:
                    for name, weight in self._updates.note([each for each in held if each[1].requires_grad]):
                        self._sketches.mark(tag("updates", name), weight)
        except Exception as error:
            self._fail(error)

    def after_step(self, optimizer: Optimizer, closure: bool = False) -> None:
        """Reads by how much the step changed each parameter that had a gradient. Never raises."""
        self._end_waiting()
        if not self.armed:
            return
        try:
            with torch.no_grad():
                if closure:
                    self._read_gradients(optimizer, self._held(optimizer), None)
                left = self._updates.take(self._sketches, self._tags_of_updates)
                self._observe("updates", tuple([name for name, _ in left]), [change for _, change in left])
        except Exception as error:
            self._fail(error)

    def collect(self, in_stage: bool = False) -> list[Pending]:
        """Gradients and updates since the last call, and the parameters as they are now, on their way to the host.

        With them their norms. Parameters that an optimizer holds and that had no gradient at any of its captured steps
        are named in a text, and another one says so where gradients were not read, as no optimizer stepped. ``in_stage`` says
        that a pipeline runs the model, which divides gradients behind the last backward pass.
        """
        with torch.no_grad():
            if self._options.parameters:
                named = self._named()
                self._observe("parameters", tuple([name for name, _ in named]), [weight for _, weight in named])
            elif self._options.updates:
                for name, weight in self._named():
                    self._weights.mark(tag("parameters", name), weight)
                samples = ((tag("parameters", name), sample(weight)) for name, weight in self._named())
                self._weights.observe_((name, values) for name, values in samples if values is not None)
        sketches = self._sketches.collect()
        backward = self._backward.collect(self._missed, is_last=not in_stage)
        return [*sketches, self._norms([*sketches, *self._weights.collect()], backward), *self._silent()]

    def _held(self, optimizer: Optimizer) -> list[_Named]:
        """The model's parameters that an optimizer holds."""
        owned = {id(parameter) for parameter in parameters_of(optimizer)}
        met, self._met = self._met or self._named(), []
        if self._hooked_version not in (0, self._names.version):
            self._hook(met)
        return [entry for entry in met if id(entry[1]) in owned]

    def _named(self) -> list[_Named]:
        """The parameters that can be told what they are of, by name."""
        named = self._names.parameters()
        if not in_a_job():
            return named
        return [(name, weight) for name, weight in named if not is_flat_shard(weight) and not is_localized(weight)]

    def _read_gradients(self, optimizer: Optimizer, held: list[_Named], scale: Tensor | None) -> list[_Named]:
        """Gives those that have a gradient."""
        gradients = [weight.grad for _, weight in held]
        used = [entry for entry, gradient in zip(held, gradients) if gradient is not None]
        if len(used) < len(held):
            silent = (entry for entry, gradient in zip(held, gradients) if gradient is None)
            counts = 1 if used else 0  # without any gradient it was no step
            self._missed.update({name: counts for name, weight in silent if weight.requires_grad})
            gradients = [gradient for gradient in gradients if gradient is not None]
        names = tuple([name for name, _ in used])
        self._steps.update(names)
        if not all(map(self._sizes.__contains__, names)):
            self._sizes.update((name, weight.numel()) for name, weight in used)
        for place, gradient in enumerate(gradients):
            if gradient.layout is torch.sparse_coo:
                gradients[place] = gradient = gradient.coalesce()  # as optimizers do
                self._sparse[names[place]] += gradient._values().numel()
        if not self._options.gradients:
            return used
        divisor = self._divisor(optimizer, getattr(optimizer, "grad_scale", None))
        if divisor is None:
            self._observe("gradients", names, gradients)
        else:
            for name, gradient in zip(names, gradients):  # one by one, so that only one copy is held at a time
                self._observe("gradients", (name,), [gradient / divisor])
        divisor = divisor if scale is None else self._divisor(optimizer, scale)
        self._backward.step(used, divisor)
        return used

    def _divisor(self, optimizer: Optimizer, scale: Tensor | None) -> Tensor | None:
        """What to take off gradients that were multiplied with ``scale``; NaN where the device will skip the step.

        A fused optimizer takes a loss scaler's factor off by itself, and decides on the device whether to step.
        """
        skipped = getattr(optimizer, "found_inf", None)
        if skipped is None:
            return scale
        self._skips = True
        return torch.where(skipped > 0, torch.nan, 1.0 if scale is None else scale)

    def _norms(self, sketches: list[SketchSnapshot], backward: BackwardSums) -> Norms:
        elements = {name: size * self._steps[name] for name, size in self._sizes.items()} | self._sparse
        steps = {name: self._steps[name] + self._missed[name] for name in elements}
        sizes = {name: count / steps[name] for name, count in elements.items()}
        if sizes:
            sizes |= dict.fromkeys(localized(self._model), 1.0)  # so that there is no norm without them
        self._all_steps.update(steps)
        norms = Norms(tuple(sketches), sizes, dict(self._all_steps), backward, self._skips)
        self._sparse.clear()
        self._sizes.clear()
        self._skips = False
        return norms

    def _silent(self) -> list[Pending]:
        silent = [f"`{name}`" for name in self._missed if name not in self._steps]
        is_unread, self._is_unread = self._is_unread and not self._steps, False
        self._missed = Counter()
        self._steps.clear()
        if not self._options.gradients:
            return []
        if is_unread:
            return left_out("gradients", _UNREAD)
        text = Text("No gradient in this epoch's captured steps: " + ", ".join(silent))
        return [Figures(((WITHOUT_GRADIENT, text),))] if silent else []

    def _observe(self, kind: str, names: tuple[str, ...], tensors: list[Tensor]) -> None:
        own, others = tags(kind, names), []
        for place in self._sketches.read_(own, tensors):
            local = observable(tensors[place])
            if local is not tensors[place]:
                self._sketches.mark(own[place], tensors[place])
            if local is not None:
                others.append((own[place], local))
        self._sketches.observe_(others)

    def _tags_of_updates(self, names: tuple[str, ...]) -> tuple[str | None, ...]:
        """None for a parameter that had no gradient at any of the steps."""
        own = tags("updates", names)
        return tuple([tag if name in self._steps else None for tag, name in zip(own, names)])

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.arm(False)
