"""Which points of a run TensorBoard's loaders leave out.

They differ where a training was started again. The default loader goes tag by tag: a value takes away those before it
whose step is not below its own. The Python loader takes away the values of all tags from a step on where the run says that
it starts again there, and does nothing where it does not. Both take the metadata of a tag from its first record.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchboard import proto
from torchboard.cli.columns import Scalars

_FORMS = {"simple_value": "scalars", "image": "images", "histo": "histograms", "audio": "audio"}
_LAST = np.iinfo(np.int64).max


@dataclass
class Tag:
    """What is known of one tag.

    Attributes:
        number: a number of its own.
        plugin: the plugin that its first record names; empty if none.
        metadata: those of its first record, as bytes.
        uniform: whether all of its records have the same.
    """

    number: int
    plugin: str
    metadata: bytes
    uniform: bool = True


class Survey:
    """All values of a run in the order in which loaders meet them: 12 bytes of memory a value, and about 50 while it looks for
    superseded ones.

    Attributes:
        tags: what is known of each tag.
    """

    def __init__(self) -> None:
        self.tags: dict[str, Tag] = {}
        self._numbers = array("i")
        self._steps = array("q")
        self._restarts: list[tuple[int, int]] = []  # how many values came before, and the step
        self._started = False
        self._has_version = False

    def __len__(self) -> int:
        return len(self._steps)

    def note(self, event: Any) -> None:
        """Takes in the next event."""
        what = event.WhichOneof("what")
        if what == "summary":
            for value in event.summary.value:
                self._note_value(value, event.step)
        elif what == "file_version":
            self._has_version = re.fullmatch(r"brain\.Event:([2-9]|\d\d+)", event.file_version) is not None
        elif what == "session_log" and self._has_version and event.session_log.status == proto.SessionLog.START:
            if self._started:
                self._restarts.append((len(self), event.step))
            self._started = True

    def note_scalars(self, scalars: Scalars) -> None:
        """Takes in the next plain scalars."""
        numbers = np.zeros(len(scalars.names), np.int32)
        for place in np.flatnonzero(np.bincount(scalars.tags)).tolist():
            numbers[place] = self._tag(scalars.names[place], _FORMS["simple_value"], b"").number
        self._numbers.frombytes(numbers[scalars.tags].tobytes())
        self._steps.frombytes(scalars.steps.tobytes())

    def superseded(self, by_either: bool = False) -> np.ndarray:
        """bool[n]: the values that both loaders leave out, or that either of them does.

        Of hyperparameters none is, and not the first of a tag that has no metadata where others have.
        """
        overtaken, purged = self._overtaken(), self._purged()
        found = overtaken | purged if by_either else overtaken & purged
        numbers = np.frombuffer(self._numbers, np.int32) if self._numbers else np.zeros(0, np.int32)
        kept = [tag.number for tag in self.tags.values() if tag.plugin == "hparams"]
        found[np.isin(numbers, kept)] = False
        mixed = [tag.number for tag in self.tags.values() if not tag.uniform and not tag.metadata]
        present, first = np.unique(numbers, return_index=True)
        found[first[np.isin(present, mixed)]] = False
        return found

    def _note_value(self, value: Any, step: int) -> None:
        name = value.tag or value.node_name
        metadata = value.metadata.SerializeToString() if value.HasField("metadata") else b""
        plugin = _FORMS.get(value.WhichOneof("value") or "") or value.metadata.plugin_data.plugin_name
        self._numbers.append(self._tag(name, plugin, metadata).number)
        self._steps.append(step)

    def _tag(self, name: str, plugin: str, metadata: bytes) -> Tag:
        """What is known of a tag, now that there is a value of it."""
        tag = self.tags.get(name)
        if tag is None:
            tag = self.tags[name] = Tag(len(self.tags), plugin, metadata)
        elif tag.metadata != metadata:
            tag.uniform = False
        return tag

    def _overtaken(self) -> np.ndarray:
        """bool[n]: values behind which the same tag has a step that is not above theirs."""
        numbers, steps = np.array(self._numbers, np.int32), np.array(self._steps, np.int64)
        found = np.zeros(len(steps), bool)
        order = np.argsort(numbers, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            least = np.minimum.accumulate(steps[group][::-1])[::-1]
            found[group[:-1]] = steps[group[:-1]] >= least[1:]
        return found

    def _purged(self) -> np.ndarray:
        """bool[n]: values behind which the run starts again at a step that is not above theirs."""
        found = np.zeros(len(self), bool)
        if not self._restarts:
            return found
        least = np.full(len(self) + 1, _LAST)
        for position, step in self._restarts:
            least[position] = min(least[position], step)
        least = np.minimum.accumulate(least[::-1])[::-1][1:]
        found = np.array(self._steps, np.int64) >= least
        found[self._restarts[-1][0] :] = False
        return found
