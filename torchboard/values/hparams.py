"""What a trial was given, how it ended, and what an experiment declares: the HParams dashboard.

All of it sits in the metadata of three tags, one event each, and TensorBoard keeps the first it meets of every tag of a
run. Hyperparameters are booleans, numbers and texts; on the wire every number is a float64, and what would not survive
that is refused rather than changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.value import TENSOR, metadata

EXPERIMENT_TAG = "_hparams_/experiment"
SESSION_START_TAG = "_hparams_/session_start_info"
SESSION_END_TAG = "_hparams_/session_end_info"

Plain = bool | int | float | str
"""What a hyperparameter can be."""

_FLOAT = proto.DataType["DT_FLOAT"].number
_DATA = proto.HParamsPluginData.DESCRIPTOR.fields_by_name
_HPARAM_TYPE = _DATA["experiment"].message_type.fields_by_name["hparam_infos"].message_type.fields_by_name["type"]
_DATASET = _DATA["experiment"].message_type.fields_by_name["metric_infos"].message_type.fields_by_name["dataset_type"]
_STATUS = _DATA["session_end_info"].message_type.fields_by_name["status"].enum_type.values_by_name

TYPES = {
    kind: _HPARAM_TYPE.enum_type.values_by_name[name].number
    for kind, name in {
        "": "DATA_TYPE_UNSET",
        "string": "DATA_TYPE_STRING",
        "bool": "DATA_TYPE_BOOL",
        "number": "DATA_TYPE_FLOAT64",
    }.items()
}
"""Number of a hyperparameter's type by our word for it; empty where it is left open."""

DATASETS = {
    kind: _DATASET.enum_type.values_by_name[name].number
    for kind, name in {
        "": "DATASET_UNKNOWN",
        "training": "DATASET_TRAINING",
        "validation": "DATASET_VALIDATION",
    }.items()
}
"""Number of the data that a metric is of, by our word for it."""


class HParamsValue:
    """What the three values share: their plugin, and a wire form that is all metadata and an empty tensor."""

    plugin: ClassVar[str] = "hparams"
    nbytes: ClassVar[int] = 1000

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as a float32 tensor without elements, whose metadata hold everything."""
        content = proto.HParamsPluginData()
        self._fill(content)
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin, TENSOR, content.SerializeToString(deterministic=True)))
        message.tensor.dtype = _FLOAT
        message.tensor.tensor_shape.dim.add(size=0)

    @staticmethod
    def decode(message: Any) -> HParamsValue:
        """Whichever of the three a ``Summary.Value`` holds."""
        content = proto.HParamsPluginData.FromString(message.metadata.plugin_data.content)
        kind = content.WhichOneof("data")
        if kind not in _KINDS:
            raise InvalidValueError(
                f"hyperparameters under {message.tag!r}", "they hold none of the three messages", "write them anew"
            )
        return _KINDS[kind]._read(getattr(content, kind))

    def _fill(self, content: Any) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class SessionStart(HParamsValue):
    """A trial has begun.

    Attributes:
        hparams: name -> value, as ``plain`` gives it; written in the order of the names.
        group: trials of one group are one row of the table, and their metrics are averaged.
        time: seconds since the epoch.
    """

    hparams: Mapping[str, Plain]
    group: str
    time: float

    def _fill(self, content: Any) -> None:
        message = content.session_start_info
        message.SetInParent()
        message.group_name, message.start_time_secs = self.group, self.time
        for name in sorted(self.hparams):
            _set(message.hparams[name], self.hparams[name])

    @classmethod
    def _read(cls, message: Any) -> SessionStart:
        hparams = {name: _get(message.hparams[name]) for name in sorted(message.hparams)}
        return cls(hparams, message.group_name, message.start_time_secs)


@dataclass(frozen=True)
class SessionEnd(HParamsValue):
    """A trial has ended.

    Attributes:
        succeeded: whether it ran to its end.
        time: seconds since the epoch.
    """

    succeeded: bool
    time: float

    def _fill(self, content: Any) -> None:
        message = content.session_end_info
        message.status = _STATUS["STATUS_SUCCESS" if self.succeeded else "STATUS_FAILURE"].number
        message.end_time_secs = self.time

    @classmethod
    def _read(cls, message: Any) -> SessionEnd:
        return cls(message.status == _STATUS["STATUS_SUCCESS"].number, message.end_time_secs)


@dataclass(frozen=True)
class HParamInfo:
    """One hyperparameter that an experiment declares.

    Attributes:
        name: the name that trials use.
        type: one of ``TYPES``.
        domain: the values it takes, as a tuple; its least and greatest, as an ``Interval``; or None where that is open.
        display_name, description: shown in place of the name, and beside it.
    """

    name: str
    type: str = ""
    domain: tuple[Plain, ...] | Interval | None = None
    display_name: str = ""
    description: str = ""


@dataclass(frozen=True)
class Interval:
    """All numbers from ``min`` to ``max``, both included."""

    min: float
    max: float


@dataclass(frozen=True)
class MetricInfo:
    """One metric that an experiment declares.

    Attributes:
        tag: the tag of its scalars.
        group: the directory below a trial's own that they are in; empty for the trial's own.
        display_name, description: shown in place of group and tag, and beside them.
        dataset_type: one of ``DATASETS``.
    """

    tag: str
    group: str = ""
    display_name: str = ""
    description: str = ""
    dataset_type: str = ""


@dataclass(frozen=True)
class Experiment(HParamsValue):
    """What the table of all trials below a directory shows. Where there is one, it shows nothing that is not in it.

    Attributes:
        hparams, metrics: its columns.
        time: seconds since the epoch.
    """

    hparams: tuple[HParamInfo, ...]
    metrics: tuple[MetricInfo, ...]
    time: float = 0.0

    def _fill(self, content: Any) -> None:
        message = content.experiment
        message.SetInParent()
        message.time_created_secs = self.time
        for hparam in self.hparams:
            info = message.hparam_infos.add(name=hparam.name, type=TYPES[hparam.type])
            info.display_name, info.description = hparam.display_name, hparam.description
            if isinstance(hparam.domain, Interval):
                info.domain_interval.min_value, info.domain_interval.max_value = hparam.domain.min, hparam.domain.max
            elif hparam.domain is not None:
                info.domain_discrete.SetInParent()
                for value in hparam.domain:
                    _set(info.domain_discrete.values.add(), value)
        for metric in self.metrics:
            info = message.metric_infos.add(dataset_type=DATASETS[metric.dataset_type])
            info.name.group, info.name.tag = metric.group, metric.tag
            info.display_name, info.description = metric.display_name, metric.description

    @classmethod
    def _read(cls, message: Any) -> Experiment:
        types, datasets = ({number: word for word, number in words.items()} for words in (TYPES, DATASETS))
        hparams = (
            HParamInfo(info.name, types.get(info.type, ""), _domain(info), info.display_name, info.description)
            for info in message.hparam_infos
        )
        metrics = (
            MetricInfo(
                info.name.tag,
                info.name.group,
                info.display_name,
                info.description,
                datasets.get(info.dataset_type, ""),
            )
            for info in message.metric_infos
        )
        return cls(tuple(hparams), tuple(metrics), message.time_created_secs)


_KINDS = {"experiment": Experiment, "session_start_info": SessionStart, "session_end_info": SessionEnd}


def plain(name: str, value: object) -> Plain:
    """A hyperparameter's value as a Python bool, int, float or str.

    NumPy scalars and arrays and tensors without an axis are unwrapped to the number they hold, exactly; one on a device
    waits for it.

    Raises:
        InvalidValueError: the name is not a text, or the value is none of these; or a number that TensorBoard drops (it is
            not finite) or would round (a whole number that no float64 is equal to).
    """
    if not isinstance(name, str) or not name or not _is_unicode(name):
        raise InvalidValueError(
            f"hyperparameter name {name!r}", "a name is a text with at least one letter", "use one such as 'lr'"
        )
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = _unwrapped(name, value)
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _number(name, value)
    if isinstance(value, str) and _is_unicode(value):
        return str(value)
    raise InvalidValueError(
        f"hyperparameter {name!r} = {value!r:.100} of type {type(value).__name__}",
        "TensorBoard shows booleans, numbers and texts",
        "leave it out, or give str(…) of it",
    )


def type_of(value: Plain) -> str:
    """The word of ``TYPES`` for a plain value."""
    if isinstance(value, bool):
        return "bool"
    return "string" if isinstance(value, str) else "number"


def _unwrapped(name: str, value: Any) -> object:
    try:
        return value.item()
    except Exception as error:
        raise InvalidValueError(
            f"hyperparameter {name!r} = {type(value).__name__}", f"its number cannot be read ({error})", "give a number"
        ) from error


def _number(name: str, value: float) -> int | float:
    number = int(value) if isinstance(value, int) else float(value)
    try:
        shown = float(number)
    except OverflowError:
        shown = math.inf
    if not math.isfinite(shown):
        raise InvalidValueError(
            f"hyperparameter {name!r} = {value!r:.40}",
            "TensorBoard drops numbers that are not finite",
            f"leave it out, or give the text {str(value)[:20]!r}",
        )
    if shown != number:
        raise InvalidValueError(
            f"hyperparameter {name!r} = {number}",
            f"TensorBoard keeps float64, and would show {shown:.0f}",
            "give str(…) of it to keep every digit",
        )
    return number


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _set(message: Any, value: Plain) -> None:
    if isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, str):
        message.string_value = value
    else:
        message.number_value = value


def _get(message: Any) -> Plain:
    kind = message.WhichOneof("kind")
    return getattr(message, kind) if kind in ("bool_value", "number_value", "string_value") else str(message)


def _domain(info: Any) -> tuple[Plain, ...] | Interval | None:
    kind = info.WhichOneof("domain")
    if kind == "domain_interval":
        return Interval(info.domain_interval.min_value, info.domain_interval.max_value)
    return tuple(_get(value) for value in info.domain_discrete.values) if kind else None
