"""The photograph and the plot that writers are given."""

from __future__ import annotations

from typing import Any

import numpy as np


def photo() -> np.ndarray:
    """uint8[512, 512, 3]."""
    from skimage import data

    return data.astronaut()


def line_figure(values: np.ndarray, width: float = 6.4, height: float = 4.8) -> Any:
    """A plot of one curve, of so many inches."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height))
    axes.plot(values)
    axes.set_title("loss")
    return figure
