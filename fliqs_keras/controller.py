"""What drives a search: choices out, plain numbers in.

A controller knows no Keras. A choice is a position for each decision; what
it costs is known; how good it is, the controller is told. How it gives credit
to the decisions is what sets controllers apart: see `reinforce` and
`sensitivity`.
"""

from collections.abc import Sequence

import numpy as np

from fliqs_keras.cost_tables import Costs, CostTable, Limit
from fliqs_keras.selection import best_within_budget, nearest_choice

# A final choice that costs less leaves budget unused.
_SMALLEST_SHARE_OF_TARGET = 0.97


class Controller:
    """Chooses an option for each decision, and learns from what follows.

    At each training step the caller

    1. measures what each of `probes()` loses, all on the same data, and hands
       the losses to `observe` (there are probes at few steps, or at none);
    2. trains one step with `choice`;
    3. tells `step` how good that was and what it cost.

    Once `settled` is true, `choice` no longer changes.

    Args:
        costs: Cost of each option of each decision; they add up. Or a
            `CostTable`, with costs of sets of options.
        target: The highest cost of the result.
        total_steps: Number of steps that the search has.
        others: Budgets of other costs, which the result keeps, too.

    Raises:
        ValueError: If no choice meets the target, or the other budgets with
            it.
    """

    def __init__(
        self,
        costs: Costs,
        target: float,
        total_steps: int,
        others: Sequence[Limit] = (),
    ):
        self.costs = CostTable.from_rows(costs)
        self.target = target
        self.others = tuple(others)
        self.total_steps = total_steps
        self.choice: np.ndarray | None = None
        self.settled = False
        self._floor = 0.0
        dearest = self._best(self.costs)
        if dearest is None:
            limits = [Limit(self.costs, target), *self.others]
            nearest = nearest_choice(limits)
            costs = [x.table.of(nearest) for x in limits]
            raise ValueError(
                "Expected budgets that some choice meets. Received: "
                f"{[float(x.budget) for x in limits]}; the nearest choice "
                f"costs {costs}"
            )
        # What a final choice costs at least, unless the space has none such.
        self._floor = _SMALLEST_SHARE_OF_TARGET * target
        if self.costs.of(dearest) < self._floor:
            self._floor = self.costs.of(dearest)
            # Where another budget binds, that choice need not be the best.
            if self.others:
                self._floor *= _SMALLEST_SHARE_OF_TARGET

    # How often there are probes, which share the time that they may take.
    probe_rounds = 1
    # The step at which the first ones are due, if there are any.
    first_probe_step: int | None = None

    @property
    def cost(self) -> float:
        """Cost of the current choice."""
        return self.costs.of(self.choice)

    def probes(self) -> list[np.ndarray]:
        """Returns the choices whose losses the controller asks for now."""
        return []

    def observe(self, losses: np.ndarray) -> None:
        """Learns what the probes lose.

        Args:
            losses: A matrix with a row for each of `probes()` and a column
                for each batch, the same batches in every row.
        """

    def step(self, quality: float, cost: float) -> np.ndarray:
        """Learns from a training step with `choice`; makes the next choice.

        Args:
            quality: What is to be large, such as minus the loss of the batch.
            cost: What the choice costs.

        Returns:
            The next choice, which is then `choice`.
        """
        raise NotImplementedError

    def best_choice(self) -> np.ndarray:
        """Returns the choice that the search would end on now.

        It meets the target and the other budgets. It costs no less than 97 %
        of the target where the space has such a choice; where another budget
        keeps it from that, no less than 97 % of what is left.
        """
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Returns the numbers to show, such as a reward."""
        return {}

    @property
    def phase(self) -> str:
        """What the search is doing: `"settled"` once `choice` stays."""
        return "settled" if self.settled else "search"

    def probabilities(self) -> list[np.ndarray] | None:
        """Returns the probability of each option, if there is a policy."""
        return None

    def sensitivity(self) -> list[list[tuple[float, float]]] | None:
        """Returns what each option is estimated to add to the loss, if known.

        Returns:
            For each option of each decision a pair: the estimate and its
            standard error.
        """
        return None

    def _best(self, scores: Costs) -> np.ndarray:
        """Returns the choice of the highest total score within the target."""
        return best_within_budget(
            scores, self.costs, self.target, self._floor, self.others
        )


class FixedController(Controller):
    """Stays on one choice.

    Args:
        costs: Cost of each option of each decision; they add up.
        choice: The choice.
        total_steps: Number of training steps.
    """

    def __init__(
        self,
        costs: Costs,
        choice: Sequence[int],
        total_steps: int,
    ):
        table = CostTable.from_rows(costs)
        super().__init__(table, table.of(choice), total_steps)
        self.choice = np.asarray(choice)
        self.settled = True

    def step(self, quality: float, cost: float) -> np.ndarray:
        return self.choice

    def best_choice(self) -> np.ndarray:
        return self.choice
