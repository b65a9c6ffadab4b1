"""What smaller sizes of a network are estimated to cost in loss."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Where the loss goes to as a size goes to nothing: finite, for blocks that
# are skipped.
_OFFSET = 0.2
_NOISE_SHARES = np.geomspace(1e-3, 1.0, 25)
_SMALLEST = 1e-9


class SizeEffects(NamedTuple):
    """A normal distribution of the effects of sizes.

    Attributes:
        steps: For each decision about a size, and each of its options but the
            largest, the position among the coefficients of the step from the
            next larger option down to it, in the order of the options.
        mean: Mean of the coefficients.
        covariance: Their covariance.
    """

    steps: list[np.ndarray]
    mean: np.ndarray
    covariance: np.ndarray

    def effects(
        self, generator: np.random.Generator | None = None
    ) -> list[np.ndarray]:
        """Returns what each option adds, compared with the largest.

        Args:
            generator: Where it is given, a sample of the distribution is
                returned in place of the mean.
        """
        steps = self.mean
        if generator is not None:
            steps = generator.multivariate_normal(
                self.mean, self.covariance, method="eigh"
            )
        # A larger network of the same shared weights loses no more.
        steps = np.maximum(steps, 0.0)
        return [_sum_from_largest(steps[own]) for own in self.steps]

    def standard_errors(self) -> list[np.ndarray]:
        """Returns the standard deviation of what each option adds."""
        errors = []
        for own in self.steps:
            covariance = self.covariance[np.ix_(own, own)]
            # Of the sums of the steps from each option to the largest.
            sums = np.triu(np.ones((len(own) + 1, len(own))))
            variance = np.einsum("oi,ij,oj->o", sums, covariance, sums)
            errors.append(np.sqrt(np.maximum(variance, 0.0)))
        return errors


def estimate_size_effects(
    choices: np.ndarray, losses: np.ndarray, sizes: Sequence[Sequence[int]]
) -> SizeEffects:
    """Estimates what each size adds to the logarithm of the loss.

    The logarithm is taken as a sum of effects of single decisions, each made
    of steps from one option to the next smaller. A priori all sizes matter
    alike: a step is worth `b * log((s' + c) / (s + c))`, for sizes `s' > s`
    relative to the largest, with one `b` for all, known to within itself.
    What the sum leaves out, mostly how sizes act together, is noise, whose
    variance is the one under which the losses are most likely.

    Args:
        choices: Positions of an option for each decision, a row for each
            network that was measured.
        losses: Loss of each network, less that of the network of all largest
            sizes: of logarithms.
        sizes: The options of each decision, rising.

    Returns:
        The posterior.
    """
    features = [_step_features(options) for options in sizes]
    ends = np.cumsum([0, *(len(f) for f in features)])
    steps = [np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    prior_shape = np.concatenate(features)
    design = np.zeros((len(choices), ends[-1]))
    for decision, own in enumerate(steps):
        # An option takes all the steps from the largest down to it.
        taken = choices[:, decision, None] <= np.arange(len(own))
        design[:, own] = taken
    total = design @ prior_shape
    slope = max(float(total @ losses / max(total @ total, _SMALLEST)), 1e-3)
    prior_mean = slope * prior_shape
    signal = (design * prior_mean**2) @ design.T
    residual = losses - design @ prior_mean
    scale = max(float(residual.var()), _SMALLEST)
    noise = scale * max(
        _NOISE_SHARES,
        key=lambda share: _log_likelihood(residual, signal, scale * share),
    )
    covariance = signal + noise * np.eye(len(losses))
    gain = np.linalg.solve(covariance, design * prior_mean**2).T
    mean = prior_mean + gain @ residual
    posterior = np.diag(prior_mean**2) - gain @ (design * prior_mean**2)
    return SizeEffects(steps, mean, posterior)


def _sum_from_largest(steps: np.ndarray) -> np.ndarray:
    return np.append(np.cumsum(steps[::-1])[::-1], 0.0)


def _step_features(options: Sequence[int]) -> np.ndarray:
    shares = np.asarray(options, dtype="float64") / options[-1]
    return np.diff(np.log(shares + _OFFSET))


def _log_likelihood(
    residual: np.ndarray, signal: np.ndarray, noise: float
) -> float:
    covariance = signal + noise * np.eye(len(residual))
    _, log_determinant = np.linalg.slogdet(covariance)
    fit = residual @ np.linalg.solve(covariance, residual)
    return -0.5 * (log_determinant + fit)
