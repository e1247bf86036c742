"""Rows of sketches as three buffers on one device."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows as they lie on a device; ``layout`` says what is in them.

    Attributes:
        counts: int64[rows, layout.BINS].
        moments: float64[rows, layout.SLOTS]; float32 on a device without float64.
        parameters: like ``moments``, [rows, layout.PARAMETERS].
    """

    counts: torch.Tensor
    moments: torch.Tensor
    parameters: torch.Tensor

    @property
    def rows(self) -> int:
        return self.counts.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.counts.nbytes + self.moments.nbytes + self.parameters.nbytes

    @property
    def buffers(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All three, in this order."""
        return self.counts, self.moments, self.parameters
