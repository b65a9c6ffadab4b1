"""Policies: a distribution over choices that learns from rewards."""

from collections.abc import Sequence

import numpy as np

__all__ = ["CategoricalPolicy"]


class CategoricalPolicy:
    """Independent categorical distributions, one a decision.

    The logits start at zero: every option is equally likely. They are
    trained with REINFORCE and Adam.

    Args:
        num_options: Number of options of each decision.
        learning_rate: Learning rate of Adam.

    Raises:
        ValueError: If there is no decision, or one without an option.

    Example:

    >>> policy = CategoricalPolicy([2, 4])
    >>> [p.round(2).tolist() for p in policy.probabilities()]
    [[0.5, 0.5], [0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, num_options: Sequence[int], learning_rate: float = 0.02):
        if not len(num_options) or min(num_options) < 1:
            raise ValueError(
                "Expected at least one decision and one option in each. "
                f"Received: num_options={list(num_options)}"
            )
        self._num_options = np.asarray(num_options)
        self._learning_rate = learning_rate
        # Rows of one matrix; what a decision does not have stays at -inf.
        columns = np.arange(self._num_options.max())
        self._exists = columns < self._num_options[:, None]
        self._logits = np.where(self._exists, 0.0, -np.inf)
        self._moments = np.zeros((2, *self._logits.shape))
        self._updates = 0

    def sample(self, generator: np.random.Generator) -> np.ndarray:
        """Draws one option for each decision.

        Args:
            generator: The source of randomness.

        Returns:
            An integer array, a position for each decision.
        """
        # The largest of the logits plus Gumbel noise is a sample.
        noise = generator.gumbel(size=self._logits.shape)
        return np.argmax(self._logits + noise, axis=1)

    def mode(self) -> np.ndarray:
        """Returns the most likely option of each decision."""
        return np.argmax(self._logits, axis=1)

    def log_probabilities(self) -> list[np.ndarray]:
        """Returns the log-probability of each option of each decision."""
        table = self._log_softmax()
        return [r[:n] for r, n in zip(table, self._num_options, strict=True)]

    def probabilities(self) -> list[np.ndarray]:
        """Returns the probability of each option of each decision."""
        return [np.exp(row) for row in self.log_probabilities()]

    def entropy(self) -> float:
        """Returns the mean entropy of the decisions, in nats."""
        return float(self._entropies(self._log_softmax()).mean())

    def update(
        self, choice: np.ndarray, advantage: float, entropy_weight: float
    ) -> None:
        """Takes one Adam step down the gradient of the REINFORCE loss

            -advantage * mean(log p(choice)) + entropy_weight * mean(entropy)

        Args:
            choice: The options that were taken.
            advantage: Reward minus baseline.
            entropy_weight: Weight of the entropy, which is penalised.
        """
        log_p = self._log_softmax()
        p = np.exp(log_p)
        taken = np.arange(p.shape[1]) == np.asarray(choice)[:, None]
        finite_log_p = np.where(self._exists, log_p, 0.0)
        entropies = self._entropies(log_p)[:, None]
        entropy_gradient = -p * (finite_log_p + entropies)
        gradient = -advantage * (taken - p) + entropy_weight * entropy_gradient
        self._adam_step(gradient / len(self._num_options))

    def _log_softmax(self) -> np.ndarray:
        shifted = self._logits - self._logits.max(axis=1, keepdims=True)
        total = np.exp(shifted).sum(axis=1, keepdims=True)
        return shifted - np.log(total)

    def _entropies(self, log_p: np.ndarray) -> np.ndarray:
        finite_log_p = np.where(self._exists, log_p, 0.0)
        return -(np.exp(log_p) * finite_log_p).sum(axis=1)

    def _adam_step(self, gradient: np.ndarray) -> None:
        decay = np.array([0.9, 0.999])[:, None, None]
        self._updates += 1
        powers = np.stack([gradient, gradient**2])
        self._moments = decay * self._moments + (1 - decay) * powers
        first, second = self._moments / (1 - decay**self._updates)
        self._logits -= self._learning_rate * first / (np.sqrt(second) + 1e-8)


def warm_up(
    generator: np.random.Generator,
    choice: np.ndarray,
    widest: np.ndarray,
    decisions: Sequence[int],
    probability: float,
) -> np.ndarray:
    """Returns a choice in which some decisions take their widest option.

    The warm-up of TuNAS, with a probability that falls to zero: large sizes
    of a network learn to work before small ones are drawn from their weights.

    Args:
        generator: The source of randomness.
        choice: Positions of an option for each decision.
        widest: Those of the widest options.
        decisions: The decisions that take part.
        probability: Probability of the widest option.
    """
    choice = np.array(choice)
    grown = np.asarray(decisions, dtype=int)
    grown = grown[generator.random(len(grown)) < probability]
    choice[grown] = np.asarray(widest)[grown]
    return choice
