"""All that is logged of slices: a run a slice, so that their curves lie over each other, and what compares them beside."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from torchboard.analysis.figures import to_image
from torchboard.analysis.predictions import Predictions
from torchboard.analysis.slice_figure import slices_figure
from torchboard.analysis.slices import Rate, gap, rates_of
from torchboard.values import Layout, Scalar, Text, Value
from torchboard.values.custom_scalars import LAYOUT_TAG, Category, MarginChart, MultilineChart
from torchboard.values.text import wide_table

Pairs = tuple[tuple[str, Value], ...]
Rates = dict[str, Rate]


@dataclass(frozen=True)
class SliceReport:
    """What is written.

    Attributes:
        comparison: tags and values of the run that the predictions belong to: all of them together, and the gaps.
        slices: slice -> tags and values of its own run.
    """

    comparison: Pairs
    slices: dict[str, Pairs]


def slice_report(
    tag: str, predictions: Predictions, members: Mapping[str, np.ndarray], threshold: float
) -> SliceReport:
    """Rates of each slice, with the tag ``<tag>/<rate>``, and of all examples with the same; and what compares them.

    The layout of custom scalars stands in the run of the first slice, where it takes the place of no layout of the user's.
    """
    overall = rates_of(predictions, threshold)
    rates = {name: rates_of(predictions.where(mask), threshold) for name, mask in members.items()}
    sizes = {name: int(mask.sum()) for name, mask in members.items()}
    compared = [*_scalars(tag, overall), *_gaps(tag, rates, overall)]
    table = Text(_table(rates, sizes, overall, len(predictions.targets)))
    picture = to_image(slices_figure(rates, sizes, overall))
    slices = {name: _scalars(tag, found) for name, found in rates.items()}
    first = next(iter(slices))
    slices[first] = (*slices[first], (LAYOUT_TAG, _layout(tag, overall)))
    return SliceReport((*compared, (f"{tag}/table", table), (f"{tag}/figure", picture)), slices)


def _scalars(tag: str, rates: Rates) -> Pairs:
    return tuple((f"{tag}/{name}", Scalar(rate.value)) for name, rate in rates.items() if rate.of)


def _gaps(tag: str, rates: Mapping[str, Rates], overall: Rates) -> Iterator[tuple[str, Value]]:
    """What compares the slices: of a rate that fewer than two of them have, nothing."""
    for name in overall:
        found = [of_slice[name] for of_slice in rates.values()]
        distance = gap(found)
        if not math.isnan(distance):
            values = [rate.value for rate in found if rate.of]
            yield f"{tag}/{name}/gap", Scalar(distance)
            yield f"{tag}/{name}/least", Scalar(min(values))
            yield f"{tag}/{name}/all", Scalar(overall[name].value)
            yield f"{tag}/{name}/greatest", Scalar(max(values))


def _layout(tag: str, overall: Rates) -> Layout:
    """For every rate a chart of all slices and one of the band that they are in, and a chart of all gaps.

    The three tags of a band are in no slice's run, and at the same steps: the page complains of a run with some of them, and
    draws no band whose steps differ.
    """
    charts: list[MultilineChart | MarginChart] = [MultilineChart("gaps", (f"{re.escape(tag)}/[a-z_]+/gap$",))]
    for name in overall:
        charts.append(MultilineChart(name, (f"{re.escape(tag)}/{name}$",)))
        band = (f"{tag}/{name}/all", f"{tag}/{name}/least", f"{tag}/{name}/greatest")
        charts.append(MarginChart(f"{name}, from the least to the greatest", (band,)))
    return Layout((Category(tag, tuple(charts)),))


def _table(rates: Mapping[str, Rates], sizes: Mapping[str, int], overall: Rates, count: int) -> str:
    rows = [(name, sizes[name], *map(_cell, found.values())) for name, found in rates.items()]
    rows.append(("all", count, *map(_cell, overall.values())))
    gaps = [gap(found[name] for found in rates.values()) for name in overall]
    rows.append(("gap", "", *("–" if math.isnan(distance) else f"{distance:.3f}" for distance in gaps)))
    header = ("slice", "examples", *(name.replace("_", " ") for name in overall))
    return f"{wide_table(header, rows)}\n\nIn brackets: Wilson's 95 % limits."


def _cell(rate: Rate) -> str:
    low, high = rate.limits
    return f"{rate.value:.3f} ({low:.3f} to {high:.3f})" if rate.of else "–"
