"""Credit by measured sensitivity: paired losses, then an exact choice."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from fliqs_keras.controller import Controller
from fliqs_keras.cost_tables import Costs, Limit

__all__ = ["Sensitivity"]

# How far, relatively, the true increase may be from its second-order estimate.
_RELATIVE_SPREAD = 0.5


class Estimate(NamedTuple):
    """What a format is estimated to add to the loss."""

    mean: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Settings of the controller that measures what each format costs.

    The model first trains in its widest formats. Then each format of each
    decision is tried alone, by forward passes on the same examples as all
    others. What they add to the loss is estimated from the mean and from the
    variance of the differences (`estimate_increases`); one that makes the loss
    infinite counts as worse than all others together. The choice with the
    lowest total among those within the target, found as an integer program,
    stays for the rest of the training.

    Args:
        start: Share of the steps before the formats are measured.

    Raises:
        ValueError: If `start` is out of its range.

    Example:

    >>> search = fliqs_keras.FormatSearch(
    ...     ("INT4", 1.2),
    ...     data=(x[:1024], y[:1024]),
    ...     controller=fliqs_keras.Sensitivity(start=0.3),
    ... )
    """

    start: float = 0.25

    needs_data = True

    def __post_init__(self):
        if not 0 <= self.start < 1:
            raise ValueError(
                "Expected `start` to be at least 0 and below 1. Received: "
                f"start={self.start!r}"
            )

    def controller(
        self,
        costs: Costs,
        target: float,
        total_steps: int,
        widest: Sequence[int] | None = None,
        seed: int | None = None,
        others: Sequence[Limit] = (),
        sizes: Sequence[Sequence[int] | None] = (),
    ) -> "SensitivityController":
        """Returns a controller with these settings.

        Args:
            costs: Cost of each option of each decision; they add up.
            target: The highest cost of the result.
            total_steps: Number of steps that the search has.
            widest: Option of each decision that harms least. Defaults to the
                dearest.
            seed: Unused: nothing is sampled.
            others: Budgets of other costs.
            sizes: The options of each decision about a size, and `None` for
                each decision about a format. None may be about a size.

        Raises:
            ValueError: If a decision is about a size.
        """
        if any(options is not None for options in sizes):
            raise ValueError(
                "Expected decisions about formats alone: a network that was "
                "trained in its largest sizes tells nothing about others. "
                "Received: decisions about sizes. Use `controller="
                "'supernet'` or `'reinforce'`"
            )
        return SensitivityController(
            costs, target, total_steps, self, widest, others
        )


class SensitivityController(Controller):
    """Chooses by what each option alone adds to the loss.

    Args:
        costs: Cost of each option of each decision; they add up.
        target: The highest cost of the result.
        total_steps: Number of steps that the search has.
        config: The settings.
        widest: Option of each decision to start from and to compare with.
            Defaults to the dearest.
        others: Budgets of other costs.

    Example:

    >>> costs = [np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    >>> controller = SensitivityController(costs, target=3.0, total_steps=4)
    >>> controller.step(quality=-1.0, cost=4.0)
    array([1, 1])
    >>> [probe.tolist() for probe in controller.probes()]
    [[1, 1], [0, 1], [1, 0]]
    >>> controller.observe(np.array([[0.1, 0.2], [0.4, 0.6], [0.2, 0.2]]))
    >>> controller.choice
    array([1, 0])
    """

    def __init__(
        self,
        costs: Costs,
        target: float,
        total_steps: int,
        config: Sensitivity | None = None,
        widest: Sequence[int] | None = None,
        others: Sequence[Limit] = (),
    ):
        super().__init__(costs, target, total_steps, others)
        self.config = config or Sensitivity()
        # One step at least, which shows activation quantizers some data.
        self.first_probe_step = max(1, round(self.config.start * total_steps))
        self._steps = 0
        self._estimates: list[np.ndarray] | None = None
        if widest is None:
            widest = [int(np.argmax(row)) for row in self.costs.rows]
        self._widest = np.array(widest)
        self.choice = self._widest

    def probes(self) -> list[np.ndarray]:
        if self.settled or self._steps < self.first_probe_step:
            return []
        probes = [self.choice]
        for decision, option in self._alternatives():
            probe = self.choice.copy()
            probe[decision] = option
            probes.append(probe)
        return probes

    def observe(self, losses: np.ndarray) -> None:
        unchanged, changed = losses[0], losses[1:]
        if not np.isfinite(unchanged).all():
            raise ValueError(
                "Expected finite losses of the formats that the model trains "
                "in. Received: NaN or infinity. Check that the model trains "
                "at this learning rate, and that `data` is as in training"
            )
        means, errors = estimate_formats(changed, unchanged)
        self._estimates = [np.zeros((len(row), 2)) for row in self.costs.rows]
        for (decision, option), mean, error in zip(
            self._alternatives(), means, errors, strict=True
        ):
            self._estimates[decision][option] = mean, error
        self.choice = self._best([-row[:, 0] for row in self._estimates])
        self.settled = True

    def step(self, quality: float, cost: float) -> np.ndarray:
        self._steps += 1
        return self.choice

    def best_choice(self) -> np.ndarray:
        """Returns the choice that the search would end on now.

        Before the formats are measured that is the dearest within the target.
        """
        return self.choice if self.settled else self._best(self.costs)

    @property
    def phase(self) -> str:
        """`"widest"` until the formats are measured, then `"settled"`."""
        return "settled" if self.settled else "widest"

    def sensitivity(self) -> list[list[Estimate]] | None:
        if self._estimates is None:
            return None
        return [
            [Estimate(float(mean), float(error)) for mean, error in row]
            for row in self._estimates
        ]

    def _alternatives(self) -> list[tuple[int, int]]:
        return [
            (decision, option)
            for decision, row in enumerate(self.costs.rows)
            for option in range(len(row))
            if option != self._widest[decision]
        ]


def estimate_formats(
    changed: np.ndarray, unchanged: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates how much formats add to the loss, each of them alone.

    One that makes the loss NaN or infinite counts as worse than all others
    together.

    Args:
        changed: Losses in each format, of shape `(formats, examples)`.
        unchanged: Losses of the same examples without it.

    Returns:
        The estimates, none of them negative, and their standard errors.
    """
    means, errors = np.zeros((2, len(changed)))
    is_finite = np.isfinite(changed).all(axis=1)
    means[is_finite], errors[is_finite] = estimate_increases(
        changed[is_finite] - unchanged
    )
    if not is_finite.all():
        logging.warning(
            "Of %d formats that were compared, each in one layer, %d make "
            "the loss NaN or infinite. They count as worse than all the "
            "others together.",
            len(changed),
            np.sum(~is_finite),
        )
        worst = means.sum() + np.abs(unchanged).mean()
        means[~is_finite] = worst or 1.0
    return means, errors


def estimate_increases(
    differences: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates how much changes of a model add to its loss.

    The mean of the differences of `n` examples is an estimate without bias
    whose noise hides small increases: if a change `d` of the weights and
    activations adds `d' H d / 2`, the differences vary by `d' F d`, with `F`
    the Fisher information, so that the relative error is
    `sqrt(2 / (n * increase))`. But for a log-likelihood `H` is about `F`:
    half the variance of the differences is an estimate of the increase, too,
    whose relative error does not grow as the increase shrinks. It is the
    sensitivity by squared gradients of HAWQ and ModelOpt, without gradients.

    The variance, on a scale fitted to the means, is the prior, trusted to
    within a half; the mean is the evidence. What is returned is the posterior
    of the two Gaussians, so that large increases are those measured, and
    small ones those expected.

    Args:
        differences: Losses of each change less those of the unchanged model,
            of shape `(changes, examples)`.

    Returns:
        The estimates, none of them negative, and their standard errors.
    """
    count = differences.shape[1]
    mean = differences.mean(axis=1)
    variance = differences.var(axis=1, ddof=1 if count > 1 else 0)
    seen = variance > 0
    if not seen.any():
        return np.maximum(mean, 0.0), np.zeros_like(mean)
    second_order = np.where(seen, variance / 2, 1.0)
    precision = np.where(seen, count / np.maximum(variance, 1e-300), 0.0)
    # Least squares of the means on the second-order estimates. The scale is
    # positive, and one for a log-likelihood; but it has a unit.
    information = (precision * second_order**2).sum()
    scale = (precision * second_order * mean).sum() / information
    prior = max(scale, information**-0.5) * second_order
    prior_precision = 1 / (_RELATIVE_SPREAD * prior) ** 2
    total = precision + prior_precision
    posterior = (precision * mean + prior_precision * prior) / total
    return (
        np.where(seen, np.maximum(posterior, 0.0), np.maximum(mean, 0.0)),
        np.where(seen, total**-0.5, 0.0),
    )
