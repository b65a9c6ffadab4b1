"""The table of a study: each way of choosing formats against the others."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

OURS = "sensitivity"
OTHERS = ("uniform", "by_hand", "reinforce", "random", "from_scratch")


class Cell(NamedTuple):
    """What is compared: a network in a space under a budget."""

    network: str
    space: str
    budget: tuple[str, float]


class Difference(NamedTuple):
    """Ours less another way, in points of accuracy.

    Attributes:
        mean: Mean over the seeds that both have.
        spread: Standard deviation over these seeds.
        p_value: Two-sided paired t-test; NaN for fewer than two seeds.
        count: Number of these seeds.
    """

    mean: float
    spread: float
    p_value: float
    count: int


def interpolate_uniform(
    curve: Mapping[float, float], cost: float
) -> float | None:
    """Returns what uniform formats would reach at a cost.

    Linear in the cost between the two uniform formats around it.

    Args:
        curve: Accuracy by cost of the uniform formats of one network and
            seed.
        cost: The cost.

    Returns:
        The accuracy, or `None` if there is no uniform format on one side.
    """
    costs = sorted(curve)
    if not costs or not costs[0] <= cost <= costs[-1]:
        return None
    return float(np.interp(cost, costs, [curve[c] for c in costs]))


def accuracies(
    results: Sequence[Mapping[str, Any]],
) -> dict[Cell, dict[str, dict[int, float]]]:
    """Collects accuracies in percent by cell, method and seed.

    Uniform formats are those of the same kind (integer or float), also where
    the space does not hold them, interpolated to the target of the cell.
    """
    curves: dict[tuple, dict[float, float]] = collections.defaultdict(dict)
    cells: dict[Cell, dict[str, dict[int, float]]] = {}
    targets = {}
    for result in results:
        key = (result["network"], _kind(result), result["seed"])
        accuracy = 100 * result["accuracy"]
        if result["method"] == "uniform":
            curves[key][result["cost"]] = accuracy
            continue
        cell = Cell(result["network"], result["space"], tuple(result["budget"]))
        methods = cells.setdefault(cell, {})
        methods.setdefault(result["method"], {})[result["seed"]] = accuracy
        targets[cell] = (_kind(result), result["target"])
    for cell, (kind, target) in targets.items():
        for (network, curve_kind, seed), curve in curves.items():
            if (network, curve_kind) == (cell.network, kind):
                accuracy = interpolate_uniform(curve, target)
                if accuracy is not None:
                    uniform = cells[cell].setdefault("uniform", {})
                    uniform[seed] = accuracy
    return cells


def compare(
    ours: Mapping[int, float], other: Mapping[int, float]
) -> Difference | None:
    """Compares two ways on the seeds that both have."""
    seeds = sorted(set(ours) & set(other))
    if not seeds:
        return None
    gains = np.array([ours[seed] - other[seed] for seed in seeds])
    spread = p_value = float("nan")
    if len(gains) > 1:
        spread = float(gains.std(ddof=1))
        if spread > 0:
            p_value = float(stats.ttest_1samp(gains, 0.0).pvalue)
    return Difference(float(gains.mean()), spread, p_value, len(gains))


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table and its summary, in Markdown."""
    cells = accuracies(results)
    lines = [
        "| network | space | budget | " + " | ".join((OURS, *OTHERS)) + " |",
        "|" + "---|" * (4 + len(OTHERS)),
    ]
    for cell in sorted(cells):
        methods = cells[cell]
        row = [cell.network, cell.space, f"{cell.budget[1]} × {cell.budget[0]}"]
        row.append(_mean_and_spread(methods.get(OURS, {})))
        for other in OTHERS:
            row.append(_against(methods.get(OURS, {}), methods.get(other, {})))
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", *_summary(cells)]
    return "\n".join(lines)


def _summary(cells) -> list[str]:
    lines = [
        f"| {OURS} against | cells | higher in | mean gain | 95 % interval |"
        " lower beyond noise in |",
        "|---|---|---|---|---|---|",
    ]
    for other in OTHERS:
        differences = [
            difference
            for methods in cells.values()
            if (
                difference := compare(
                    methods.get(OURS, {}), methods.get(other, {})
                )
            )
        ]
        if not differences:
            continue
        means = np.array([d.mean for d in differences])
        interval = "–"
        if len(means) > 1:
            half = stats.t.ppf(0.975, len(means) - 1) * stats.sem(means)
            interval = (
                f"{means.mean() - half:+.2f} to {means.mean() + half:+.2f}"
            )
        worse = sum(d.mean < 0 and d.p_value < 0.05 for d in differences)
        lines.append(
            f"| {other} | {len(means)} | {np.mean(means > 0):.0%} | "
            f"{means.mean():+.2f} | {interval} | {worse} |"
        )
    return lines


def _kind(result: Mapping[str, Any]) -> str:
    return "integer" if result["budget"][0].startswith("INT") else "float"


def _mean_and_spread(by_seed: Mapping[int, float]) -> str:
    if not by_seed:
        return "–"
    values = np.array(list(by_seed.values()))
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread} ({len(values)})"


def _against(ours: Mapping[int, float], other: Mapping[int, float]) -> str:
    difference = compare(ours, other)
    if difference is None:
        return "–"
    text = f"{np.mean(list(other.values())):.1f} ({difference.mean:+.1f}"
    if difference.p_value < 0.05:
        text += "*"
    return f"{text}, {difference.count})"
