"""Rewards: quality against cost, as one number to be made large.

In all of them `quality` is what shall be large (minus a loss, or an
accuracy), `cost` and `target` are in the same unit, and `penalty` is how much
a relative difference between the two weighs.
"""

__all__ = [
    "REWARDS",
    "absolute_reward",
    "hard_exponential_reward",
    "one_sided_reward",
    "soft_exponential_reward",
]


def absolute_reward(
    quality: float, cost: float, target: float, penalty: float
) -> float:
    """Penalises costs on both sides of the target (TuNAS, FLIQS).

    `quality - penalty * |cost / target - 1|`

    Example:

    >>> round(absolute_reward(0.95, cost=3, target=5, penalty=2), 6)
    0.15
    """
    return quality - penalty * abs(cost / target - 1.0)


def one_sided_reward(
    quality: float, cost: float, target: float, penalty: float
) -> float:
    """Penalises only costs above the target.

    `quality - penalty * max(cost / target - 1, 0)`
    """
    return quality - penalty * max(cost / target - 1.0, 0.0)


def soft_exponential_reward(
    quality: float, cost: float, target: float, penalty: float
) -> float:
    """Multiplies the quality by a power of the relative cost (MnasNet).

    `quality * (cost / target) ** penalty`. A quality that is negative, such
    as minus a loss, calls for a positive penalty, an accuracy for a negative
    one.
    """
    return quality * (cost / target) ** penalty


def hard_exponential_reward(
    quality: float, cost: float, target: float, penalty: float
) -> float:
    """As `soft_exponential_reward`, but only above the target.

    `quality * max(cost / target, 1) ** penalty`
    """
    return quality * max(cost / target, 1.0) ** penalty


REWARDS = {
    "absolute": absolute_reward,
    "one_sided": one_sided_reward,
    "soft_exponential": soft_exponential_reward,
    "hard_exponential": hard_exponential_reward,
}
