"""Figures of a model, of a search and of its results.

Each function returns a `matplotlib.figure.Figure`, which `savefig` writes and
notebooks show. Matplotlib is imported by the functions, not by this module:
`pip install "fliqs-keras[plots]"`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from fliqs_keras.clipping import measure_switching
from fliqs_keras.figure_labels import (
    add_legend,
    by_bits,
    colors_of,
    is_format,
    plain,
)
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.paper_results import PAPER_RESULTS
from fliqs_keras.reports import ModelSummary, summary
from fliqs_keras.sensitivity import Estimate

__all__ = [
    "accuracy_against_cost",
    "best_thresholds",
    "format_map",
    "policy",
    "search_curves",
    "sensitivities",
    "switching_error",
]

Record = Mapping[str, Any]
Figure = Any

# Inches. Narrow, so that letters stay readable on a phone.
_WIDTH = 5.0
_ROW = 0.24
_CURVES = ("loss", "cost", "entropy", "reward")


def format_map(model: keras.Model | ModelSummary) -> Figure:
    """Draws a bar a layer: as long as its bits, coloured by its format.

    Args:
        model: A model from `fliqs_keras.apply`, or its `summary`.

    Returns:
        A figure with the weights on the left, the activations on the right.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the model is not quantized.

    Example:

    >>> fliqs_keras.plots.format_map(model).savefig("formats.png")
    """
    figure = _new_figure()
    rows = model if isinstance(model, ModelSummary) else summary(model)
    rows = rows.quantized
    columns = {
        "weights": [row.weight_format for row in rows],
        "activations": [row.activation_format for row in rows],
    }
    names = [n for c in columns.values() for n in c if is_format(n)]
    colors = colors_of(names)
    figure.set_size_inches(_WIDTH, 1.1 + _ROW * len(rows))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (title, formats) in zip(axes, columns.items(), strict=True):
        for position, name in enumerate(formats):
            if is_format(name):
                bits = parse_format(name).bits
                axis.barh(position, bits, color=colors[name])
        axis.set(title=title, xlabel="bits")
        axis.set_xticks([0, *{parse_format(n).bits for n in colors}])
        axis.set_yticks(range(len(rows)), plain(row.path for row in rows))
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    add_legend(figure, colors)
    return figure


def policy(records: Sequence[Record]) -> Figure:
    """Draws the probabilities of a policy: layers down, steps across.

    Args:
        records: The log of a search by `"reinforce"`, from
            `fliqs_keras.read_search_log`.

    Returns:
        A figure with a heat map a format.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the log holds no probabilities.
    """
    figure = _new_figure()
    if not records or "probabilities" not in records[0]:
        raise ValueError(
            "Expected the log of a search with a policy, controller="
            f"'reinforce'. Received: {len(records)} records without "
            "probabilities"
        )
    layers = list(records[0]["probabilities"])
    formats = by_bits(
        name for row in records[0]["probabilities"].values() for name in row
    )
    height = 0.9 + _ROW * len(layers)
    figure.set_size_inches(_WIDTH, 0.4 + height * len(formats))
    axes = figure.subplots(len(formats), 1, squeeze=False, sharex=True)[:, 0]
    steps = [record["step"] for record in records]
    for axis, name in zip(axes, formats, strict=True):
        # A layer that cannot take the format has no probability of it.
        values = [
            [r["probabilities"][layer].get(name, np.nan) for r in records]
            for layer in layers
        ]
        rows = np.arange(len(layers))
        mesh = axis.pcolormesh(
            steps, rows, values, vmin=0, vmax=1, rasterized=True
        )
        axis.set_yticks(rows, plain(layers))
        axis.invert_yaxis()
        axis.set_title(f"probability of {name}")
    axes[-1].set_xlabel("step")
    figure.colorbar(mesh, ax=list(axes))
    return figure


def search_curves(records: Sequence[Record]) -> Figure:
    """Draws the loss, the cost, and entropy, reward and baseline if any.

    Args:
        records: The log of a search, from `fliqs_keras.read_search_log`.

    Returns:
        A figure with a panel for each; the target and the baseline are dashed
        and a dotted line stands where a new phase of the search begins.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the log is empty.
    """
    figure = _new_figure()
    if not records:
        raise ValueError("Expected the log of a search. Received: no records")
    names = [name for name in _CURVES if name in records[0]]
    figure.set_size_inches(_WIDTH, 0.3 + 1.5 * len(names))
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    steps = [record["step"] for record in records]
    dashed = {"cost": "target", "reward": "baseline"}
    for axis, name in zip(axes, names, strict=True):
        axis.plot(steps, [record[name] for record in records], lw=1)
        axis.set_ylabel(name)
        if (other := dashed.get(name)) in records[0]:
            values = [record[other] for record in records]
            axis.plot(steps, values, "--", lw=1, label=other)
            axis.legend(fontsize="small")
        for before, after in zip(records, records[1:], strict=False):
            if before.get("phase") != after.get("phase"):
                axis.axvline(after["step"], color="0.6", ls=":")
    axes[-1].set_xlabel("step")
    return figure


def accuracy_against_cost(
    series: Mapping[str, Sequence[tuple[float, ...]]],
    *,
    cost_unit: str = "GBOPs",
    frontiers: bool = False,
    levels: Mapping[str, float] | None = None,
    paper_model: str | None = None,
) -> Figure:
    """Draws accuracy against cost, on a logarithmic axis, a curve a series.

    Args:
        series: For each name, if any, pairs of a cost and an accuracy in
            percent, or triples with the spread of the accuracy, drawn as a bar.
        cost_unit: Unit of the costs.
        frontiers: Whether a curve joins the best points of its series alone,
            those that none of its cheaper ones equals. Defaults to all.
        levels: For each name an accuracy without a cost, such as that of the
            float model: a dotted line. Defaults to none.
        paper_model: `"resnet18"`, `"resnet50"` or `"mobilenet_v2"`: the
            paper's own points on ImageNet, faint in the background. Only
            where the results are those of the same network on ImageNet at
            224 x 224, with costs in GBOPs. Defaults to none.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the paper's results of the model are not known, if a
            cost is not positive, or if a series mixes pairs and triples.
    """
    figure = _new_figure()
    from matplotlib import ticker

    if paper_model is not None and paper_model not in PAPER_RESULTS:
        raise ValueError(
            f"Expected `paper_model` to be one of {sorted(PAPER_RESULTS)}. "
            f"Received: paper_model={paper_model!r}"
        )
    if costs := [
        p[0] for points in series.values() for p in points if p[0] <= 0
    ]:
        raise ValueError(
            "Expected positive costs, for a logarithmic axis. Received: "
            f"{costs}"
        )
    for name, points in series.items():
        if points and {len(p) for p in points} not in ({2}, {3}):
            raise ValueError(
                "Expected pairs of a cost and an accuracy, or triples with a "
                "spread, in all of a series. Received: "
                f"{[tuple(p) for p in points]} in {name!r}"
            )
    figure.set_size_inches(_WIDTH, 3.6)
    axis = figure.subplots()
    for name, (cost, accuracy) in PAPER_RESULTS.get(paper_model, {}).items():
        axis.plot(cost, accuracy, "o", color="0.8")
        axis.annotate(
            f" {name} (paper)", (cost, accuracy), color="0.6", fontsize=7
        )
    for name, accuracy in (levels or {}).items():
        axis.axhline(accuracy, color="0.7", ls=":", zorder=0)
        # At the right end of the axis, whatever the costs are.
        place = {"xycoords": ("axes fraction", "data"), "ha": "right"}
        style = {"va": "bottom", "color": "0.5", "fontsize": 7}
        (label,) = plain([f"{name} "])
        axis.annotate(label, (1, accuracy), **place, **style)
    for name, points in ((n, sorted(p)) for n, p in series.items() if p):
        joined = _frontier(points) if frontiers else points
        costs, accuracies, *_ = zip(*joined, strict=True)
        (label,) = plain([name])
        (line,) = axis.plot(costs, accuracies, "-", label=label, marker="o")
        costs, accuracies, *spreads = zip(*points, strict=True)
        axis.errorbar(
            costs, accuracies, *spreads, fmt="o", ms=3, color=line.get_color()
        )
    axis.set(xscale="log", xlabel=cost_unit, ylabel="accuracy (%)")
    axis.margins(x=0.2)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:.3g}")
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.legend(fontsize="small")
    return figure


def switching_error(
    values: np.ndarray, formats: Sequence[str | Format]
) -> Figure:
    """Draws how far a tensor in one format is from itself in another.

    A matrix of mean squared differences, as shares of the tensor's mean
    square, each format at its threshold of least squared error.

    Args:
        values: A float array of any shape, such as a kernel.
        formats: Scaled formats or their names.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the values are not finite or all zero, or if a format
            has no threshold.
    """
    figure = _new_figure()
    found = measure_switching(values, formats)
    figure.set_size_inches(_WIDTH, 0.8 * _WIDTH)
    axis = figure.subplots()
    # Logarithms; the diagonal, zero, stays empty.
    logs = np.log10(np.where(found.errors > 0, found.errors, np.nan))
    image = axis.imshow(logs)
    positions = range(len(found.formats))
    axis.set_xticks(positions, found.formats, rotation=45)
    axis.set_yticks(positions, found.formats)
    figure.colorbar(image, label="log10 of the relative squared error")
    return figure


def best_thresholds(
    values: np.ndarray, formats: Sequence[str | Format]
) -> Figure:
    """Draws the threshold of least squared error against the bitwidth.

    Args:
        values: A float array of any shape, such as a kernel.
        formats: Scaled formats or their names.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the values are not finite or all zero, or if a format
            has no threshold.
    """
    figure = _new_figure()
    found = measure_switching(values, formats)
    figure.set_size_inches(_WIDTH, 3.0)
    axis = figure.subplots()
    for is_integer, label in ((True, "integer"), (False, "float")):
        points = [
            (parse_format(name).bits, share, name)
            for name, share in zip(found.formats, found.thresholds, strict=True)
            if parse_format(name).is_integer is is_integer
        ]
        if points:
            bits, shares, names = zip(*sorted(points), strict=True)
            axis.plot(bits, shares, "o-", label=label)
            for x, y, name in zip(bits, shares, names, strict=True):
                # Integers below their points, floats above.
                side = "top" if is_integer else "bottom"
                axis.annotate(f" {name}", (x, y), va=side, fontsize=7)
    axis.set(xlabel="bits", ylabel="threshold / largest magnitude")
    axis.set_ylim(0, 1.12)
    axis.margins(x=0.1)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize="small")
    return figure


def sensitivities(
    sensitivity: Mapping[str, Mapping[str, Estimate]],
) -> Figure:
    """Draws what each format of each layer adds to the loss, with errors.

    Args:
        sensitivity: `FormatSearch.sensitivity`; an estimate is a pair of a
            mean and its standard error.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are no estimates.
    """
    figure = _new_figure()
    if not sensitivity:
        raise ValueError(
            "Expected estimates of the formats of a model, as in "
            "`FormatSearch.sensitivity` after a search by 'sensitivity'. "
            f"Received: {sensitivity!r}"
        )
    layers = list(sensitivity)
    figure.set_size_inches(_WIDTH, 1.3 + _ROW * len(layers))
    axis = figure.subplots()
    colors = colors_of(n for row in sensitivity.values() for n in row)
    for name, color in colors.items():
        points = [
            (*sensitivity[layer][name], position)
            for position, layer in enumerate(layers)
            if name in sensitivity[layer]
        ]
        means, errors, rows = np.array(points).T
        axis.errorbar(means, rows, xerr=errors, fmt="o", color=color)
    axis.set_yticks(range(len(layers)), plain(layers))
    axis.set_ylim(len(layers) - 0.5, -0.5)
    # The widest format adds nothing: near zero the axis is linear.
    axis.set_xscale("symlog", linthresh=1e-4)
    axis.set_xlim(left=-5e-5)
    axis.set_xlabel("increase of the loss")
    add_legend(figure, colors)
    return figure


def _frontier(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Returns those of sorted points that none before them equals."""
    best: list[tuple[float, ...]] = []
    for point in points:
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def _new_figure() -> Figure:
    try:
        from matplotlib import figure
    except ImportError as error:
        raise ImportError(
            "Expected matplotlib, which draws the figures. Received: "
            f'{error}. `pip install "fliqs-keras[plots]"` brings it'
        ) from error
    # Not of pyplot, which keeps figures and chooses a window system.
    return figure.Figure(layout="constrained")
