"""Pictures on their way to the host as the numbers that they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from torchboard.capture.snapshot import HostCopy, Snapshot
from torchboard.drawing.sheets import Sheet
from torchboard.values import Image, Value


@dataclass(frozen=True)
class PictureSnapshot(Snapshot):
    """One picture for each tensor, drawn when it settles.

    Attributes:
        sheets: how each is drawn.
    """

    sheets: tuple[Sheet, ...]

    kind = Image

    @classmethod
    def of(cls, views: Mapping[str, tuple[Sheet, Tensor]]) -> PictureSnapshot:
        """Starts the copies: tag -> how it is drawn, and the numbers, detached and not written to from now on."""
        sheets = tuple(sheet for sheet, _ in views.values())
        return cls(tuple(views), HostCopy([numbers for _, numbers in views.values()]), sheets)

    def settle(self) -> Iterable[tuple[str, Value]]:
        for tag, sheet, numbers in zip(self.tags, self.sheets, self.copy.wait()):
            yield tag, Image(sheet.draw(numbers)[None], "; ".join(sheet.heading))
