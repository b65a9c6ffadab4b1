"""Schedules: the weight of a term of the loss over the progress of a search.

Each takes the progress, 0 at the first and 1 at the last policy update, and
the value it ends on. A search penalises the policy's entropy by them, so
that the policy settles.
"""

import math

__all__ = [
    "SCHEDULES",
    "constant_schedule",
    "cosine_schedule",
    "linear_schedule",
    "step_schedule",
    "zero_schedule",
]


def zero_schedule(progress: float, end_value: float) -> float:
    """Returns zero."""
    return 0.0


def constant_schedule(progress: float, end_value: float) -> float:
    """Returns the end value."""
    return end_value


def linear_schedule(progress: float, end_value: float) -> float:
    """Rises evenly from zero to the end value."""
    return end_value * progress


def step_schedule(progress: float, end_value: float) -> float:
    """Returns zero in the first half and the end value in the second."""
    return end_value if progress >= 0.5 else 0.0


def cosine_schedule(progress: float, end_value: float) -> float:
    """Rises from zero to the end value along half a cosine (FLIQS).

    `end_value - 0.5 * end_value * (1 + cos(pi * progress))`

    Args:
        progress: 0 at the beginning, 1 at the end.
        end_value: The value at the end.

    Returns:
        The value at this progress.

    Example:

    >>> round(cosine_schedule(0.5, 0.4), 3)
    0.2
    """
    return end_value - 0.5 * end_value * (1.0 + math.cos(math.pi * progress))


SCHEDULES = {
    "none": zero_schedule,
    "constant": constant_schedule,
    "linear": linear_schedule,
    "step": step_schedule,
    "cosine": cosine_schedule,
}
