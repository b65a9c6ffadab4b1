"""What searching formats and sizes gains: tables, and curves to draw."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Results = Sequence[Mapping[str, Any]]
BySeed = dict[int, float]

_TITLES = {
    "joint": "sizes and formats at once",
    "in_turn": "sizes, then formats",
    "architecture": "sizes, all {format}",
    "formats": "formats, width {width:g}",
    "uniform": "all {format}",
}


class Cell(NamedTuple):
    """The runs of one method at one budget.

    Attributes:
        accuracies: Accuracy by seed, in percent.
        cost: Mean cost in MBOPs.
        mega_macs: Mean multiplications, in millions.
    """

    accuracies: BySeed
    cost: float
    mega_macs: float

    @property
    def accuracy(self) -> float:
        """Mean accuracy, in percent."""
        return float(np.mean(list(self.accuracies.values())))

    @property
    def bits(self) -> float:
        """Bits of a weight or an input, averaged over the multiplications.

        The root of the mean product of both, which is the bits of the format
        where all layers have one.
        """
        return float(np.sqrt(self.cost / self.mega_macs))


def title_of(result: Mapping[str, Any]) -> str:
    """Returns how a method, with what it holds fixed, is called."""
    return _TITLES[result["method"]].format(**result)


def cells(results: Results) -> dict[float, dict[str, Cell]]:
    """Collects the searches by their budget, in MBOPs, and what they chose."""
    runs = collections.defaultdict(lambda: collections.defaultdict(list))
    for result in results:
        if result["target"] is not None:
            budget = round(1e3 * result["target"], 9)
            runs[budget][title_of(result)].append(result)
    return {
        budget: {name: _cell(runs[budget][name]) for name in runs[budget]}
        for budget in sorted(runs)
    }


def _cell(runs: Results) -> Cell:
    return Cell(
        {run["seed"]: 100 * run["accuracy"] for run in runs},
        float(np.mean([1e3 * run["cost"] for run in runs])),
        float(np.mean([run["macs"] / 1e6 for run in runs])),
    )


def scaled_widths(results: Results, budget: float) -> tuple[str, BySeed] | None:
    """Returns what scaling the width reaches at a cost, in its best format.

    Between two widths accuracy is interpolated in the logarithm of the cost.

    Args:
        results: The results.
        budget: The cost, in MBOPs.

    Returns:
        The format whose mean is highest, and its accuracies by seed in
        percent; `None` if no format has a width on either side.
    """
    curves = collections.defaultdict(lambda: collections.defaultdict(dict))
    for run in results:
        if run["method"] == "uniform":
            curve = curves[run["format"]][run["seed"]]
            curve[np.log(1e3 * run["cost"])] = 100 * run["accuracy"]
    found = {}
    for name, by_seed in curves.items():
        reached = {
            seed: float(
                np.interp(np.log(budget), sorted(c), [c[k] for k in sorted(c)])
            )
            for seed, c in by_seed.items()
            if min(c) <= np.log(budget) <= max(c)
        }
        if reached:
            found[name] = reached
    if not found:
        return None
    return max(found.items(), key=lambda item: np.mean([*item[1].values()]))


def gain(of: BySeed, over: BySeed) -> tuple[float, float, int] | None:
    """Returns mean and standard deviation of a gain, and how many seeds.

    Only the seeds that both have count; `None` if there are none.
    """
    seeds = sorted(of.keys() & over.keys())
    if not seeds:
        return None
    gains = [of[seed] - over[seed] for seed in seeds]
    spread = float(np.std(gains, ddof=1)) if len(gains) > 1 else 0.0
    return float(np.mean(gains)), spread, len(gains)


def render(results: Results) -> str:
    """Returns the results as Markdown: a row a method at a budget."""
    lines = [
        "| budget, MBOPs | searched | accuracy, % | cost, MBOPs | MMACs | bits "
        "| at once gains | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for budget, by_name in cells(results).items():
        rows = sorted(by_name.items(), key=lambda item: -item[1].accuracy)
        joint = by_name.get(_TITLES["joint"])
        for name, cell in rows:
            lines.append(
                f"| {budget:.2f} | {name} | {cell.accuracy:.2f} "
                f"| {cell.cost:.2f} | {cell.mega_macs:.3f} | {cell.bits:.2f} "
                f"| {_gain_text(joint, cell.accuracies)} "
                f"| {len(cell.accuracies)} |"
            )
        if (scaled := scaled_widths(results, budget)) is not None:
            name, accuracies = scaled
            lines.append(
                f"| {budget:.2f} | width alone, all {name}, interpolated "
                f"| {np.mean([*accuracies.values()]):.2f} | {budget:.2f} | | "
                f"| {_gain_text(joint, accuracies)} | {len(accuracies)} |"
            )
    return "\n".join(lines)


def _gain_text(joint: Cell | None, over: BySeed) -> str:
    found = None if joint is None else gain(joint.accuracies, over)
    if found is None or joint.accuracies is over:
        return ""
    mean, spread, count = found
    return f"{mean:+.2f} ± {spread:.2f}" if count > 1 else f"{mean:+.2f}"


def series(results: Results) -> dict[str, list[tuple[float, float]]]:
    """Returns mean cost and accuracy of each kind of run, to be drawn."""
    drawn = collections.defaultdict(list)
    for by_name in cells(results).values():
        for name, cell in by_name.items():
            kind = "formats, some width" if "width" in name else name
            drawn[kind].append((cell.cost, cell.accuracy))
    uniform = collections.defaultdict(list)
    for run in results:
        if run["method"] == "uniform":
            uniform[title_of(run), run["width"]].append(run)
    for (name, _), runs in uniform.items():
        cell = _cell(runs)
        drawn[f"widths, {name}"].append((cell.cost, cell.accuracy))
    return dict(drawn)
