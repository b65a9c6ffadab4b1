"""Credit by REINFORCE: the controller of FLIQS and TuNAS."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from fliqs_keras.controller import Controller
from fliqs_keras.cost_tables import Costs, Limit
from fliqs_keras.policies import CategoricalPolicy, warm_up
from fliqs_keras.rewards import REWARDS
from fliqs_keras.schedules import SCHEDULES

__all__ = ["Reinforce"]


@dataclasses.dataclass(frozen=True)
class Reinforce:
    """Settings of the paper's controller, which learns from sampled formats.

    At every step each decision samples an option, the model trains with the
    sample, and a policy learns from the reward: minus the loss of the batch,
    less a penalty for the distance of the cost from its target. The policy
    starts even and settles under a rising penalty of its entropy.

    Args:
        delay: Share of the steps before the policy is updated. The formats
            are then sampled evenly, and only the baseline moves, so that the
            reward is stable when the policy begins to learn from it. A
            decision about a size takes the largest with a probability that
            falls from one to zero in these steps (the warm-up of TuNAS).
        settle: Share of the steps at the end in which the formats found stay
            fixed. The paper has none.
        learning_rate: Learning rate of the policy's Adam.
        penalty: Weight of the relative distance of the cost from its target
            in the reward.
        baseline_momentum: Momentum of the moving average of the reward.
        entropy_weight: Weight of the policy's entropy at the end.
        reward: `"absolute"` (the paper's), `"one_sided"`,
            `"soft_exponential"`, `"hard_exponential"`, or a function
            `reward(quality, cost, target, penalty)`.
        entropy_schedule: How the weight of the entropy rises: `"cosine"`
            (the paper's), `"linear"`, `"step"`, `"constant"`, `"none"`, or a
            function `schedule(progress, entropy_weight)`.

    Raises:
        ValueError: If a number is out of its range, if `delay` and `settle`
            leave no steps to learn in, or if a name is unknown.

    Example:

    >>> search = fliqs_keras.FormatSearch(
    ...     ("INT4", 1.2), controller=fliqs_keras.Reinforce(penalty=2.0)
    ... )
    """

    delay: float = 0.25
    settle: float = 0.1
    learning_rate: float = 0.02
    penalty: float = 1.0
    baseline_momentum: float = 0.99
    entropy_weight: float = 0.5
    reward: str | Callable[[float, float, float, float], float] = "absolute"
    entropy_schedule: str | Callable[[float, float], float] = "cosine"

    needs_data = False

    def __post_init__(self):
        for name in ("delay", "settle", "baseline_momentum"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(
                    f"Expected `{name}` to be at least 0 and below 1. "
                    f"Received: {name}={value!r}"
                )
        if self.delay + self.settle >= 1:
            raise ValueError(
                "Expected steps between `delay` and `settle`, in which the "
                f"policy learns. Received: delay={self.delay!r}, "
                f"settle={self.settle!r}, which sum up to 1 or more"
            )
        if not self.learning_rate > 0:
            raise ValueError(
                "Expected `learning_rate` to be positive. Received: "
                f"learning_rate={self.learning_rate!r}"
            )
        for name, known in (
            ("reward", REWARDS),
            ("entropy_schedule", SCHEDULES),
        ):
            value = getattr(self, name)
            if isinstance(value, str) and value not in known:
                raise ValueError(
                    f"Expected `{name}` to be a function or one of "
                    f"{list(known)}. Received: {name}={value!r}"
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
    ) -> "ReinforceController":
        """Returns a controller with these settings.

        Args:
            costs: Cost of each option of each decision; they add up.
            target: The cost to arrive at.
            total_steps: Number of steps that the search has.
            widest: Unused: all formats are sampled from the start.
            seed: Seed of the samples.
            others: Budgets of other costs.
            sizes: The options of each decision about a size, rising, and
                `None` for each decision about a format.
        """
        return ReinforceController(
            costs, target, total_steps, self, seed, others, sizes
        )


class ReinforceController(Controller):
    """Searches the options of decisions by REINFORCE.

    Args:
        costs: Cost of each option of each decision; they add up.
        target: The cost to arrive at.
        total_steps: Number of steps that the search has.
        config: The settings.
        seed: Seed of the samples.
        others: Budgets of other costs.
        sizes: The options of each decision about a size, rising, and `None`
            for each decision about a format. Defaults to none about a size.

    Example:

    >>> costs = [np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    >>> controller = ReinforceController(costs, target=3.0, total_steps=100)
    >>> for _ in range(100):
    ...     choice = controller.choice
    ...     controller.step(quality=float(choice[0]), cost=controller.cost)
    >>> controller.best_choice()
    array([1, 0])
    """

    def __init__(
        self,
        costs: Costs,
        target: float,
        total_steps: int,
        config: Reinforce | None = None,
        seed: int | None = None,
        others: Sequence[Limit] = (),
        sizes: Sequence[Sequence[int] | None] = (),
    ):
        super().__init__(costs, target, total_steps, others)
        if not target:
            raise ValueError(
                "Expected a target above zero, which the reward is relative "
                "to. Received: a target of 0. Give another budget first, or "
                "search with `controller='sensitivity'`"
            )
        self.config = config or Reinforce()
        self._sizes = {
            decision: len(options) - 1
            for decision, options in enumerate(sizes)
            if options is not None
        }
        self._reward = REWARDS.get(self.config.reward, self.config.reward)
        schedule = self.config.entropy_schedule
        self._entropy_schedule = SCHEDULES.get(schedule, schedule)
        self._delay_steps = round(self.config.delay * total_steps)
        self._settle_step = total_steps - round(
            self.config.settle * total_steps
        )
        self._steps = 0
        self._generator = np.random.default_rng(seed)
        self.policy = CategoricalPolicy(
            self.costs.sizes, self.config.learning_rate
        )
        self.baseline: float | None = None
        self.reward: float | None = None
        self.choice = self._sample()

    @property
    def entropy(self) -> float:
        """Mean entropy of the decisions, in nats."""
        return self.policy.entropy()

    def step(self, quality: float, cost: float) -> np.ndarray:
        # Of several budgets the one that is used most counts, on the scale of
        # the first: a sum of penalties would pull costs up to budgets that
        # another budget keeps them from.
        shares = [limit.share(self.choice) for limit in self.others]
        cost = max([cost, *(share * self.target for share in shares)])
        self.reward = self._reward(
            quality, cost, self.target, self.config.penalty
        )
        if self.settled:
            return self.choice
        # A loss that is no number tells nothing of the formats.
        if np.isfinite(self.reward):
            self._learn()
        self._steps += 1
        if self._steps >= self._settle_step:
            self.choice = self.best_choice()
            self.settled = True
        else:
            self.choice = self._sample()
        return self.choice

    def _learn(self) -> None:
        config = self.config
        if self.baseline is None:
            self.baseline = self.reward
        if self._steps >= self._delay_steps:
            updates = max(self._settle_step - self._delay_steps - 1, 1)
            progress = (self._steps - self._delay_steps) / updates
            self.policy.update(
                self.choice,
                advantage=self.reward - self.baseline,
                entropy_weight=self._entropy_schedule(
                    min(progress, 1.0), config.entropy_weight
                ),
            )
        momentum = config.baseline_momentum
        self.baseline += (1 - momentum) * (self.reward - self.baseline)

    def _sample(self) -> np.ndarray:
        choice = self.policy.sample(self._generator)
        if not self._sizes or self._steps >= self._delay_steps:
            return choice
        largest = np.zeros_like(choice)
        largest[list(self._sizes)] = list(self._sizes.values())
        return warm_up(
            self._generator,
            choice,
            largest,
            list(self._sizes),
            1.0 - self._steps / self._delay_steps,
        )

    def best_choice(self) -> np.ndarray:
        """Returns the choice that the search would end on now.

        The most likely option of each decision, as the paper has it, if that
        meets the target and uses 97 % of it. Otherwise the most likely choice
        that does, and if there is none, the dearest one within the target.
        """
        if self.settled:
            return self.choice
        mode = self.policy.mode()
        is_within = all(limit.is_kept_by(mode) for limit in self.others)
        cost = self.costs.of(mode)
        if is_within and self._floor <= cost <= self.target:
            return mode
        return self._best(self.policy.log_probabilities())

    @property
    def phase(self) -> str:
        """`"delay"` while the policy waits, then `"search"`."""
        is_waiting = self._steps < self._delay_steps
        return "delay" if is_waiting and not self.settled else super().phase

    def probabilities(self) -> list[np.ndarray]:
        return self.policy.probabilities()

    def metrics(self) -> dict[str, float]:
        return {
            "entropy": self.entropy,
            "reward": self.reward,
            "baseline": np.nan if self.baseline is None else self.baseline,
        }
