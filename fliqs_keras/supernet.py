"""Credit in a network of shared weights: sizes and formats, measured."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fliqs_keras.controller import Controller
from fliqs_keras.cost_tables import Costs, Limit
from fliqs_keras.policies import warm_up
from fliqs_keras.sensitivity import (
    Estimate,
    Sensitivity,
    SensitivityController,
    estimate_formats,
)
from fliqs_keras.size_effects import SizeEffects, estimate_size_effects

__all__ = ["Supernet"]


@dataclasses.dataclass(frozen=True)
class Supernet:
    """Settings of the controller for searches of an architecture.

    The model first trains in random sizes and in its widest formats, so that
    one set of weights serves all sizes. In the beginning a size is the largest
    with a probability that falls from one to zero, as in TuNAS. Then random
    networks, and formats one by one, are compared by forward passes on the
    same examples. From those losses the effect of each size and of each
    format is estimated, with its uncertainty (`estimate_size_effects`,
    `estimate_formats`). Of several choices within the budget that are best
    under samples of these estimates, the sizes of the one that loses least
    when it is measured itself stay. The network found trains on in its widest
    formats; then they are measured in it, and chosen anew, as by `Sensitivity`.

    Formats and sizes compete for one budget, and they are measured early. As
    the loss falls, what a size adds to it falls alike, but what a format adds
    does not: relative to the loss, formats matter more in the end.

    Args:
        start: Share of the steps in which sizes are random.
        warm_up: Share of those before sizes are wholly random.
        networks: Number of random networks that are measured, for each size
            of each decision besides the largest.
        candidates: Number of choices within the budget that are measured.
        format_growth: How many times more a format is taken to matter in the
            end than when it is measured with the sizes, relative to the loss.
        formats_start: Share of the steps before the formats of the network
            found are chosen anew. Not above `start`, those stay that were
            found with the sizes.

    Raises:
        ValueError: If a setting is out of its range.

    Example:

    >>> search = fliqs_keras.FormatSearch(
    ...     cost_target=0.01,
    ...     data=(x[:1024], y[:1024]),
    ...     controller=fliqs_keras.Supernet(start=0.25),
    ... )
    """

    start: float = 0.0625
    warm_up: float = 0.5
    networks: float = 3.0
    candidates: int = 24
    format_growth: float = 3.0
    formats_start: float = 0.5

    needs_data = True

    def __post_init__(self):
        for name in ("start", "warm_up", "formats_start"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(
                    f"Expected `{name}` to be at least 0 and below 1. "
                    f"Received: {name}={value!r}"
                )
        for name in ("networks", "format_growth"):
            value = getattr(self, name)
            if value <= 0:
                raise ValueError(
                    f"Expected `{name}` to be positive. Received: "
                    f"{name}={value!r}"
                )
        if self.candidates < 1:
            raise ValueError(
                "Expected `candidates` to be at least 1. Received: "
                f"candidates={self.candidates!r}"
            )

    def controller(
        self,
        costs: Costs,
        target: float,
        total_steps: int,
        widest: Sequence[int],
        seed: int | None = None,
        others: Sequence[Limit] = (),
        sizes: Sequence[Sequence[int] | None] | None = None,
    ) -> "SupernetController":
        """Returns a controller with these settings.

        Args:
            costs: Cost of each option of each decision.
            target: The highest cost of the result.
            total_steps: Number of steps that the search has.
            widest: Option of each decision that harms least.
            seed: Seed of the random sizes.
            others: Budgets of other costs.
            sizes: The options of each decision about a size, and `None` for
                each decision about a format. One at least is about a size.

        Raises:
            ValueError: If none is about a size.
        """
        if not any(options is not None for options in sizes or ()):
            raise ValueError(
                "Expected decisions about sizes. Received: decisions about "
                "formats alone. Use `controller='sensitivity'`"
            )
        return SupernetController(
            costs, target, total_steps, widest, sizes, self, seed, others
        )


class SupernetController(Controller):
    """Chooses sizes and formats by what they are estimated to add to the loss.

    Args:
        costs: Cost of each option of each decision.
        target: The highest cost of the result.
        total_steps: Number of steps that the search has.
        widest: Option of each decision that harms least.
        sizes: The options of each decision about a size, rising, and `None`
            for each decision about a format.
        config: The settings.
        seed: Seed of the random sizes.
        others: Budgets of other costs.
    """

    probe_rounds = 3

    def __init__(
        self,
        costs: Costs,
        target: float,
        total_steps: int,
        widest: Sequence[int],
        sizes: Sequence[Sequence[int] | None],
        config: Supernet | None = None,
        seed: int | None = None,
        others: Sequence[Limit] = (),
    ):
        super().__init__(costs, target, total_steps, others)
        self.config = config or Supernet()
        self._widest = np.array(widest)
        self._is_sized = np.array([options is not None for options in sizes])
        self._sized = np.flatnonzero(self._is_sized)
        self._sizes = [sizes[i] for i in self._sized]
        self._generator = np.random.default_rng(seed)
        self.first_probe_step = max(1, round(self.config.start * total_steps))
        self._steps = 0
        self._probes: list[np.ndarray] = []
        self._effects: SizeEffects | None = None
        self._estimates = [np.zeros((len(r), 2)) for r in self.costs.rows]
        self._base = 1.0
        # Chooses the formats, once the sizes are found.
        self._formats_chooser: SensitivityController | None = None
        self.choice = self._widest

    def probes(self) -> list[np.ndarray]:
        if self.settled or self._steps < self.first_probe_step:
            return []
        if self._formats_chooser is not None:
            return [
                self._with_sizes(probe)
                for probe in self._formats_chooser.probes()
            ]
        if not self._probes:
            if self._effects is None:
                self._probes = self._first_probes()
            else:
                self._probes = self._candidates()
        return self._probes

    def observe(self, losses: np.ndarray) -> None:
        if self._formats_chooser is not None:
            self._formats_chooser.observe(losses)
            self._take_formats()
            return
        if self._effects is None:
            self._estimate(losses)
        else:
            self._take_candidate(losses)
        self._probes = []

    def step(self, quality: float, cost: float) -> np.ndarray:
        self._steps += 1
        if self._formats_chooser is not None:
            self._formats_chooser.step(quality, cost)
        elif not self.settled:
            steps = max(self.config.warm_up * self.first_probe_step, 1.0)
            choice = self._widest.copy()
            counts = [len(options) for options in self._sizes]
            choice[self._sized] = self._generator.integers(counts)
            self.choice = warm_up(
                self._generator,
                choice,
                self._widest,
                self._sized,
                1.0 - self._steps / steps,
            )
        return self.choice

    def best_choice(self) -> np.ndarray:
        """Returns the choice that the search would end on now.

        Before networks are measured that is the dearest within the target.
        """
        if self.settled:
            return self.choice
        if self._formats_chooser is not None:
            return self._with_sizes(self._formats_chooser.best_choice())
        return self._best(
            self.costs if self._effects is None else self._scores()
        )

    @property
    def phase(self) -> str:
        """`"supernet"`, then `"widest"` formats, then `"settled"`."""
        if self._formats_chooser is None and not self.settled:
            return "supernet"
        return "settled" if self.settled else "widest"

    def sensitivity(self) -> list[list[Estimate]] | None:
        if self._effects is None:
            return None
        return [
            [Estimate(float(mean), float(error)) for mean, error in row]
            for row in self._estimates
        ]

    def _settle_sizes(self, found: np.ndarray) -> None:
        """Has the sizes of a choice stay, and its formats if it is late."""
        self.choice = found
        share = self._steps / self.total_steps
        if not self._formats() or self.config.formats_start <= share:
            self.settled = True
            return
        self._formats_chooser = SensitivityController(
            self.costs.fix(self._sized, found),
            self.target,
            self.total_steps,
            Sensitivity(self.config.formats_start - share),
            np.where(self._is_sized, 0, self._widest),
            [
                Limit(limit.table.fix(self._sized, found), limit.budget)
                for limit in self.others
            ],
        )
        self.choice = self._with_sizes(self._formats_chooser.choice)

    def _take_formats(self) -> None:
        chooser = self._formats_chooser
        self.choice = self._with_sizes(chooser.choice)
        self.settled = True
        for decision, row in enumerate(chooser.sensitivity()):
            if not self._is_sized[decision]:
                self._estimates[decision] = np.array(row)

    def _with_sizes(self, choice: np.ndarray) -> np.ndarray:
        """Returns a choice of the formats, with the sizes that were found."""
        return np.where(self._is_sized, self.choice, choice)

    def _first_probes(self) -> list[np.ndarray]:
        """Returns the widest, each format alone, and random networks."""
        probes = [self._widest]
        for decision, option in self._formats():
            probe = self._widest.copy()
            probe[decision] = option
            probes.append(probe)
        steps = sum(len(options) - 1 for options in self._sizes)
        for _ in range(max(8, round(self.config.networks * steps))):
            # From mostly small to mostly large, so that all costs are seen.
            level = self._generator.uniform(-0.25, 1.25)
            spread = self._generator.uniform(-0.5, 0.5, len(self._sized))
            share = np.clip(level + spread, 0.0, 1.0 - 1e-9)
            probe = self._widest.copy()
            counts = [len(options) for options in self._sizes]
            probe[self._sized] = np.floor(share * counts)
            probes.append(probe)
        return probes

    def _estimate(self, losses: np.ndarray) -> None:
        formats = self._formats()
        unchanged, alone = losses[0], losses[1 : 1 + len(formats)]
        measured = losses[1 + len(formats) :]
        _require_finite(np.isfinite([unchanged, *measured]).all())
        measured = _positive_means(measured)
        [base] = _positive_means(unchanged[None])
        if formats:
            means, errors = estimate_formats(alone, unchanged)
            for (decision, option), mean, error in zip(
                formats, means, errors, strict=True
            ):
                self._estimates[decision][option] = mean, error
        networks = np.array(self._probes[1 + len(formats) :])
        self._effects = estimate_size_effects(
            networks[:, self._sized], np.log(measured / base), self._sizes
        )
        self._base = base
        errors = self._effects.standard_errors()
        for decision, means, deviations in zip(
            self._sized, self._effects.effects(), errors, strict=True
        ):
            rows = np.column_stack([means, deviations])
            self._estimates[decision] = base * rows

    def _candidates(self) -> list[np.ndarray]:
        """Returns choices that are best under samples of the estimates."""
        found = [self._best(self._scores())]
        for _ in range(self.config.candidates - 1):
            found.append(self._best(self._scores(self._generator)))
        return list(np.unique(found, axis=0))

    def _take_candidate(self, losses: np.ndarray) -> None:
        """Has the sizes stay of the candidate that loses least in the end."""
        is_finite = np.isfinite(losses).all(axis=1)
        _require_finite(is_finite.any())
        in_the_end = np.full(len(losses), np.inf)
        in_the_end[is_finite] = np.log(_positive_means(losses[is_finite]))
        in_the_end += [self._growth_of_formats(p) for p in self._probes]
        self._settle_sizes(self._probes[int(np.argmin(in_the_end))])

    def _growth_of_formats(self, choice: np.ndarray) -> float:
        """Returns what formats will add to the logarithm of the loss yet."""
        added = sum(
            self._estimates[decision][option][0] / self._base
            for decision, option in enumerate(choice)
            if decision not in self._sized
        )
        return (self.config.format_growth - 1.0) * added

    def _scores(
        self, generator: np.random.Generator | None = None
    ) -> list[np.ndarray]:
        """Returns minus what each option adds to the logarithm of the loss.

        In the end of the training.
        """
        scores = []
        for row in self._estimates:
            mean, error = row.T / self._base
            if generator is not None:
                mean = np.maximum(generator.normal(mean, error), 0.0)
            scores.append(-self.config.format_growth * mean)
        effects = self._effects.effects(generator)
        for decision, effect in zip(self._sized, effects, strict=True):
            scores[decision] = -effect
        return scores

    def _formats(self) -> list[tuple[int, int]]:
        return [
            (decision, option)
            for decision, row in enumerate(self.costs.rows)
            for option in range(len(row))
            if option != self._widest[decision] and decision not in self._sized
        ]


def _require_finite(is_finite: bool) -> None:
    if not is_finite:
        raise ValueError(
            "Expected finite losses of the networks that are compared: of "
            "each in the widest formats, and of one within the budget. "
            "Received: NaN or infinity. Check that the model trains at this "
            "learning rate, and that `data` is as in training"
        )


def _positive_means(losses: np.ndarray) -> np.ndarray:
    means = losses.mean(axis=1)
    if (means <= 0).any():
        raise ValueError(
            "Expected positive losses, whose logarithm is estimated. "
            f"Received: a mean loss of {means.min():.3g}. "
            "Use `controller='reinforce'`"
        )
    return means
