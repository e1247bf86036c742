"""The rules that TensorBoard wants kept for the tags of a run.

One tag belongs to one kind of value, and a tag's steps go up: TensorBoard loses data, without a word, where they do not.
A second kind under a tag is refused at the call; a step that does not go up is warned of, once a tag.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torchboard.errors import TagError, TorchboardWarning
from torchboard.sink.forks import inherit
from torchboard.values import Scalar
from torchboard.values.points import MAX_TAG_BYTES, NAMES

_MAX_ROWS = 256
"""How many sets of tags are remembered."""


class Curve:
    """What one tag holds, and how far its steps have come.

    Attributes:
        number: the tag's number in ``NAMES``.
        plugin: the plugin that shows it.
        step: the last one.
        warned: whether its user knows that steps went back.
    """

    __slots__ = ("number", "plugin", "step", "warned")

    def __init__(self, tag: str, plugin: str, step: int) -> None:
        self.number = NAMES.number(tag)
        self.plugin = plugin
        self.step = step
        self.warned = False


class TagBook:
    """What each tag of one run holds, how far its steps have come, and which embeddings the run lists, by name.

    Attributes:
        curves: the scalar tags that points may be logged under; a point has to lie behind ``step``, and becomes it.
    """

    def __init__(self) -> None:
        self.embeddings: dict[str, Any] = {}
        self.curves: dict[str, Curve] = {}
        self._tags: dict[str, Curve] = {}
        self._rows: dict[tuple[str, ...], list[Curve]] = {}
        inherit(self)

    def in_child(self) -> None:
        """In a forked process, whose runs are its own: nothing is known of them yet."""
        for known in (self.embeddings, self.curves, self._tags, self._rows):
            known.clear()

    def admit_row(self, tags: tuple[str, ...], step: int) -> None:
        """Notes one more scalar of each tag; tags that come together again are looked up together.

        Raises:
            TagError: as ``admit``.
        """
        try:
            curves = self._rows.get(tags)
        except TypeError:  # a list, say, which is no tag
            curves = None
        if curves is not None and all([curve.step < step for curve in curves]):
            for curve in curves:
                curve.step = step
            return
        self.admit([(tag, Scalar.plugin) for tag in tags], step)
        if len(self._rows) >= _MAX_ROWS:
            self._rows.clear()
        self._rows[tags] = [self._tags[tag] for tag in tags]

    def admit(self, values: Sequence[tuple[str, str]], step: int) -> None:
        """Notes one more value of each tag, ``(tag, plugin)``; none of them where one is refused.

        Raises:
            TagError: a tag is not a text, is empty, or already holds another kind of value.
        """
        kinds: dict[str, str] = {}
        for tag, plugin in values:
            entry = self._tags.get(tag) if isinstance(tag, str) else None
            if entry is None:  # known tags were looked at when they came first
                check_tag(tag)
            known = entry.plugin if entry else kinds.setdefault(tag, plugin)
            if known != plugin:
                raise TagError(
                    f"tag {tag!r} with a value for {plugin}",
                    f"the tag already holds {known} in this run, and TensorBoard shows neither where two kinds share a tag",
                    f"use another tag, such as {plugin + '/' + tag!r}",
                )
        for tag, plugin in values:
            self._note(tag, plugin, step)

    def _note(self, tag: str, plugin: str, step: int) -> None:
        entry = self._tags.get(tag)
        if entry is None:
            entry = self._tags[tag] = Curve(tag, plugin, step)
            if plugin == Scalar.plugin and len(tag.encode()) <= MAX_TAG_BYTES:
                self.curves[tag] = entry
            return
        if step <= entry.step and not entry.warned:
            entry.warned = True
            warnings.warn(
                f"tag {tag!r} went from step {entry.step} to {step}: TensorBoard's default loader shows only the last pass over "
                "a step; give every value a step of its own that goes up (global_step)",
                TorchboardWarning,
                stacklevel=5,
            )
        entry.step = step


def check_tag(tag: object) -> None:
    """Refuses what is no tag.

    Raises:
        TagError: it is not a text, is empty, or is not valid Unicode.
    """
    if not isinstance(tag, str) or not tag:
        raise TagError(f"tag {tag!r}", "a tag is a text with at least one letter", "give a name such as 'loss/train'")
    check_unicode(tag, "tag")


def check_unicode(name: str, what: str) -> None:
    """Refuses what no file can hold as UTF-8.

    Raises:
        TagError: it is not valid Unicode.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise TagError(
            f"{what} {name!r}", "it holds half of a surrogate pair, which no file can", "use valid Unicode"
        ) from None
