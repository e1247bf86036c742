"""The rates of all slices beside each other, with the limits that their sizes leave them."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from torchboard.analysis.figures import DPI, short
from torchboard.analysis.slices import Rate

_MOST_SHOWN = 40


def slices_figure(
    rates: Mapping[str, Mapping[str, Rate]], sizes: Mapping[str, int], overall: Mapping[str, Rate]
) -> Figure:
    """A panel a rate and a line a slice: the rate, Wilson's 95 % limits, and the rate of all examples as a vertical line.

    Of more than 40 slices, those with the most examples.
    """
    shown = sorted(sizes, key=lambda name: -sizes[name])[:_MOST_SHOWN]
    shown = [name for name in rates if name in shown][::-1]
    figure = Figure(figsize=(1.5 + 2.2 * len(overall), 1.3 + 0.28 * len(shown)), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(overall), sharey=True, squeeze=False)[0]
    for axes, (name, whole) in zip(panels, overall.items()):
        for height, slice_name in enumerate(shown):
            rate = rates[slice_name][name]
            if rate.of:
                axes.plot(rate.limits, (height, height), color="tab:blue", linewidth=1)
                axes.plot(rate.value, height, "o", color="tab:blue", markersize=5)
        if whole.of:
            axes.axvline(whole.value, color="gray", linestyle="--", linewidth=1)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(shown) - 0.4))
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(shown)), [f"{short(name)} ({sizes[name]:,})" for name in shown])
    return figure
