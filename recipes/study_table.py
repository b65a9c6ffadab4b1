"""The table of a study: each way of choosing formats against the others."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from recipes.study_runs import SPACES

OURS = "sensitivity"
OTHERS = (
    "uniform",
    "any_uniform",
    "by_hand",
    "reinforce",
    "random",
    "from_scratch",
)


class Cell(NamedTuple):
    """What is compared: a network in a space under a budget.

    Attributes:
        start: `"scratch"`, or `"float"` for a network trained in float before.
        network: Name of the network.
        space: Name of the search space.
        budget: Format and factor.
    """

    start: str
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

    The uniform formats of the space, `"uniform"`, and all of the same kind
    (integer or float), `"any_uniform"`, are interpolated to the target of the
    cell.
    """
    uniform: list[Mapping[str, Any]] = []
    cells: dict[Cell, dict[str, dict[int, float]]] = {}
    targets = {}
    for result in results:
        if result["method"] == "uniform":
            uniform.append(result)
            continue
        cell = Cell(
            result.get("start", "scratch"),
            result["network"],
            result["space"],
            tuple(result["budget"]),
        )
        methods = cells.setdefault(cell, {})
        by_seed = methods.setdefault(result["method"], {})
        by_seed[result["seed"]] = 100 * result["accuracy"]
        targets[cell] = result["target"]
    for cell, target in targets.items():
        kind = SPACES["wide"] if _is_integer(cell.budget) else SPACES["fliqs_l"]
        for name, formats in (
            ("uniform", SPACES[cell.space]),
            ("any_uniform", kind),
        ):
            curves = _curves(uniform, cell, formats)
            interpolated = {
                seed: interpolate_uniform(curve, target)
                for seed, curve in curves.items()
            }
            cells[cell][name] = {
                k: v for k, v in interpolated.items() if v is not None
            }
    return cells


def _curves(
    uniform: Sequence[Mapping[str, Any]], cell: Cell, formats: Sequence[str]
) -> dict[int, dict[float, float]]:
    """Accuracy by cost of some uniform formats, by seed."""
    curves: dict[int, dict[float, float]] = collections.defaultdict(dict)
    for result in uniform:
        start = result.get("start", "scratch")
        is_same = (start, result["network"]) == (cell.start, cell.network)
        if is_same and result["budget"][0] in formats:
            accuracy = 100 * result["accuracy"]
            curves[result["seed"]][result["cost"]] = accuracy
    return curves


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
    """Returns the tables and their summaries, in Markdown, start by start."""
    all_cells = accuracies(results)
    parts = []
    for start in sorted({cell.start for cell in all_cells}, reverse=True):
        cells = {c: m for c, m in all_cells.items() if c.start == start}
        if start != "scratch":
            parts.append(f"From networks trained in {start}:")
        parts += ["\n".join(_table(cells)), "\n".join(_summary(cells))]
    return "\n\n".join(parts)


def _table(cells: Mapping[Cell, dict[str, dict[int, float]]]) -> list[str]:
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
    return lines


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


def _is_integer(budget: tuple[str, float]) -> bool:
    return budget[0].startswith("INT")


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
