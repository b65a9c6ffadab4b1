"""The controller: samples choices, learns from their rewards, settles.

It knows no Keras: a choice is a position for each decision.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from fliqs_keras.policies import CategoricalPolicy
from fliqs_keras.rewards import absolute_reward
from fliqs_keras.schedules import cosine_schedule
from fliqs_keras.selection import best_within_budget

__all__ = ["Controller", "ControllerConfig"]

# A final choice that costs less leaves budget unused.
_SMALLEST_SHARE_OF_TARGET = 0.9


@dataclasses.dataclass(frozen=True)
class ControllerConfig:
    """Settings of the FLIQS controller.

    Args:
        delay: Share of the steps before the policy is updated. The formats
            are then sampled evenly, and only the baseline moves, so that the
            reward is stable when the policy begins to learn from it.
        learning_rate: Learning rate of the policy's Adam.
        penalty: Weight of the relative distance of the cost from its target
            in the reward.
        baseline_momentum: Momentum of the moving average of the reward.
        entropy_weight: Weight of the policy's entropy at the end.
        reward: `reward(quality, cost, target, penalty)`.
        entropy_schedule: `schedule(progress, entropy_weight)`.

    Raises:
        ValueError: If a number is out of its range.
    """

    delay: float = 0.25
    learning_rate: float = 0.02
    penalty: float = 1.0
    baseline_momentum: float = 0.99
    entropy_weight: float = 0.5
    reward: Callable[[float, float, float, float], float] = absolute_reward
    entropy_schedule: Callable[[float, float], float] = cosine_schedule

    def __post_init__(self):
        for name in ("delay", "baseline_momentum"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(
                    f"Expected `{name}` to be at least 0 and below 1. "
                    f"Received: {name}={value!r}"
                )
        if not self.learning_rate > 0:
            raise ValueError(
                "Expected `learning_rate` to be positive. Received: "
                f"learning_rate={self.learning_rate!r}"
            )


class Controller:
    """Searches the options of decisions by REINFORCE (FLIQS, TuNAS).

    Args:
        costs: Cost of each option of each decision; they add up.
        target: The cost to arrive at.
        total_steps: Number of steps that the search has.
        config: The settings.
        seed: Seed of the samples.

    Example:

    >>> costs = [np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    >>> controller = Controller(costs, target=3.0, total_steps=100)
    >>> for _ in range(100):
    ...     choice = controller.choice
    ...     controller.step(quality=float(choice[0]), cost=controller.cost)
    >>> controller.best_choice()
    array([1, 0])
    """

    def __init__(
        self,
        costs: Sequence[np.ndarray],
        target: float,
        total_steps: int,
        config: ControllerConfig | None = None,
        seed: int | None = None,
    ):
        self.config = config or ControllerConfig()
        self.target = target
        self._costs = [np.asarray(row, dtype="float64") for row in costs]
        self._total_steps = total_steps
        self._delay_steps = round(self.config.delay * total_steps)
        self._steps = 0
        self._generator = np.random.default_rng(seed)
        self.policy = CategoricalPolicy(
            [len(row) for row in self._costs], self.config.learning_rate
        )
        self.baseline: float | None = None
        self.reward: float | None = None
        self.choice = self.policy.sample(self._generator)

    def cost_of(self, choice: np.ndarray) -> float:
        """Returns the cost of a choice."""
        return float(
            sum(row[i] for row, i in zip(self._costs, choice, strict=True))
        )

    @property
    def cost(self) -> float:
        """Cost of the current choice."""
        return self.cost_of(self.choice)

    @property
    def entropy(self) -> float:
        """Mean entropy of the decisions, in nats."""
        return self.policy.entropy()

    def step(self, quality: float, cost: float) -> np.ndarray:
        """Learns from the current choice and makes the next one.

        Args:
            quality: What the current choice is to make large, such as minus
                the loss of the batch that was trained with it.
            cost: What the current choice costs.

        Returns:
            The next choice, which is then `controller.choice`.
        """
        config = self.config
        self.reward = config.reward(quality, cost, self.target, config.penalty)
        if self.baseline is None:
            self.baseline = self.reward
        if self._steps >= self._delay_steps:
            updates = max(self._total_steps - self._delay_steps - 1, 1)
            progress = (self._steps - self._delay_steps) / updates
            self.policy.update(
                self.choice,
                advantage=self.reward - self.baseline,
                entropy_weight=config.entropy_schedule(
                    min(progress, 1.0), config.entropy_weight
                ),
            )
        momentum = config.baseline_momentum
        self.baseline += (1 - momentum) * (self.reward - self.baseline)
        self._steps += 1
        self.choice = self.policy.sample(self._generator)
        return self.choice

    def best_choice(self) -> np.ndarray:
        """Returns the choice that the search ends on.

        The most likely option of each decision, as the paper has it, if that
        meets the target and uses nine tenths of it. Otherwise the most likely
        choice that does, and if there is none, the dearest one within the
        target.

        Raises:
            ValueError: If no choice meets the target.
        """
        dearest = best_within_budget(self._costs, self._costs, self.target)
        if dearest is None:
            raise ValueError(
                "Expected a target that the cheapest choice meets. Received: "
                f"target={self.target}, cheapest choice "
                f"{sum(row.min() for row in self._costs)}"
            )
        floor = min(
            _SMALLEST_SHARE_OF_TARGET * self.target, self.cost_of(dearest)
        )
        mode = self.policy.mode()
        if floor <= self.cost_of(mode) <= self.target:
            return mode
        return best_within_budget(
            self.policy.log_probabilities(), self._costs, self.target, floor
        )
