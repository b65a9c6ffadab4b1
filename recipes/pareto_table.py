"""What accuracy costs: searched and uniform formats over several widths."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recipes import study_table

Results = Sequence[Mapping[str, Any]]
# The results of uniform formats of a kind, and their title.
_UNIFORM = {"integer": "uniform integer", "float": "uniform float"}
_SPACES = {
    "fliqs_s": "FLIQS-S",
    "fliqs_l": "FLIQS-L",
    "fliqs_s_float": "FLIQS-S float",
    "fliqs_l_float": "FLIQS-L float",
}


class Point(NamedTuple):
    """The runs that differ in nothing but their seeds.

    Attributes:
        series: What chose the formats, from which space.
        kind: `"integer"` or `"float"`.
        width: Multiple of the width of the network.
        budget: Format and factor of the target; the factor of a uniform
            format is one.
        costs: Cost by seed.
        accuracies: Accuracy by seed, in percent.
    """

    series: str
    kind: str
    width: float
    budget: tuple[str, float]
    costs: dict[int, float]
    accuracies: dict[int, float]

    @property
    def cost(self) -> float:
        """Mean cost."""
        return float(np.mean(list(self.costs.values())))

    @property
    def accuracy(self) -> float:
        """Mean accuracy, in percent."""
        return float(np.mean(list(self.accuracies.values())))

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracy; zero for a single seed."""
        values = list(self.accuracies.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def points(results: Results) -> list[Point]:
    """Collects the results of quantized networks.

    Integers first, of them the narrowest network, of that the cheapest.
    """
    found: dict[tuple, Point] = {}
    for result in results:
        if result["method"] == "float":
            continue
        kind = "float" if result["space"].endswith("_float") else "integer"
        series = _SPACES[result["space"]]
        if result["method"] == "uniform":
            series = _UNIFORM[kind]
        key = (series, kind, result["width"], tuple(result["budget"]))
        point = found.setdefault(key, Point(*key, {}, {}))
        point.costs[result["seed"]] = result["cost"]
        point.accuracies[result["seed"]] = 100 * result["accuracy"]
    return sorted(
        found.values(), key=lambda p: (p.kind == "float", p.width, p.cost)
    )


def float_accuracies(results: Results) -> dict[float, list[float]]:
    """Returns the accuracies of the float networks, by width, in percent."""
    found = collections.defaultdict(list)
    for result in results:
        if result["method"] == "float":
            found[result["width"]].append(100 * result["accuracy"])
    return dict(sorted(found.items()))


def frontier(of: Iterable[Point]) -> list[Point]:
    """Returns the points that no other one beats: none cheaper is as good."""
    best = []
    for point in sorted(of, key=lambda p: (p.cost, -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def against_uniform(
    point: Point, others: Iterable[Point]
) -> study_table.Difference | None:
    """Compares a point with uniform formats of its width at equal cost.

    Uniform formats are linear in the cost between those around the point's,
    seed by seed.
    """
    uniform = [
        other
        for other in others
        if (other.series, other.width) == (_UNIFORM[point.kind], point.width)
    ]
    expected = {}
    for seed, cost in point.costs.items():
        curve = {
            other.costs[seed]: other.accuracies[seed]
            for other in uniform
            if seed in other.costs
        }
        accuracy = study_table.interpolate_uniform(curve, cost)
        if accuracy is not None:
            expected[seed] = accuracy
    return study_table.compare(point.accuracies, expected)


def series(
    results: Results, kind: str
) -> dict[str, list[tuple[float, float, float]]]:
    """Returns MBOPs, accuracy and spread of each series, for a figure.

    Args:
        results: The results.
        kind: `"integer"` or `"float"`.
    """
    found = collections.defaultdict(list)
    names = [_UNIFORM[kind], *_SPACES.values()]
    for point in points(results):
        if point.kind == kind:
            found[point.series].append(
                (1000 * point.cost, point.accuracy, point.spread)
            )
    return {name: found[name] for name in names if name in found}


def render(results: Results) -> str:
    """Returns the tables, in Markdown."""
    all_points = points(results)
    best = {
        kind: frontier(p for p in all_points if p.kind == kind)
        for kind in _UNIFORM
    }
    lines = [
        "| width | formats | budget | MBOPs | accuracy |"
        " against uniform formats | on the frontier |",
        "|" + "---|" * 7,
    ]
    for width, accuracies in float_accuracies(results).items():
        lines.append(
            f"| {width:g} | FP32 | – | – | "
            f"{_mean_and_spread(accuracies)} | – | – |"
        )
    for point in all_points:
        name, factor = point.budget
        budget = name if _is_uniform(point) else f"{factor:g} × {name}"
        is_best = point in best[point.kind]
        lines.append(
            f"| {point.width:g} | {point.series} | {budget} | "
            f"{1000 * point.cost:.3g} | "
            f"{_mean_and_spread(list(point.accuracies.values()))} | "
            f"{_gain(point, all_points)} | {'yes' if is_best else ''} |"
        )
    return "\n".join([*lines, "", *_summary(all_points, best)])


def _summary(
    all_points: Sequence[Point], best: Mapping[str, Sequence[Point]]
) -> list[str]:
    lines = [
        "| formats | points | higher than uniform formats | mean gain |"
        " lower beyond noise | on the frontier |",
        "|" + "---|" * 6,
    ]
    for name in _SPACES.values():
        of_space = [p for p in all_points if p.series == name]
        differences = [
            difference
            for point in of_space
            if (difference := against_uniform(point, all_points))
        ]
        if not differences:
            continue
        means = [d.mean for d in differences]
        worse = sum(d.mean < 0 and d.p_value < 0.05 for d in differences)
        on_frontier = sum(p in best[p.kind] for p in of_space)
        lines.append(
            f"| {name} | {len(means)} | {sum(m > 0 for m in means)} | "
            f"{np.mean(means):+.2f} | {worse} | {on_frontier} |"
        )
    return lines


def _gain(point: Point, others: Sequence[Point]) -> str:
    difference = against_uniform(point, others)
    if _is_uniform(point) or difference is None:
        return "–"
    star = "*" if difference.p_value < 0.05 else ""
    return f"{difference.mean:+.1f}{star}"


def _is_uniform(point: Point) -> bool:
    return point.series in _UNIFORM.values()


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread} ({len(values)})"
