"""The search half: rewards, schedules, policy, selection, controller."""

import itertools
import sys

import numpy as np
import pytest

from fliqs_keras import rewards, schedules
from fliqs_keras.controller import Controller, ControllerConfig
from fliqs_keras.policies import CategoricalPolicy
from fliqs_keras.selection import best_within_budget


@pytest.mark.parametrize(
    "reward, cost, penalty, target, quality, expected",
    [
        (rewards.absolute_reward, 15, 1, 5, 0.8, -1.2),
        (rewards.absolute_reward, 5, 1, 5, 0.9, 0.9),
        (rewards.absolute_reward, 3, 2, 5, 0.95, 0.15),
        (rewards.one_sided_reward, 3, 2, 5, 0.95, 0.95),
        (rewards.one_sided_reward, 15, 1, 5, 0.8, -1.2),
        (rewards.soft_exponential_reward, 10, 1, 5, 0.8, 1.6),
        (rewards.soft_exponential_reward, 3, 2, 6, 0.9, 0.225),
        (rewards.hard_exponential_reward, 10, 1, 5, 0.8, 1.6),
        (rewards.hard_exponential_reward, 3, 2, 5, 0.95, 0.95),
    ],
)
def test_golden_rewards(reward, cost, penalty, target, quality, expected):
    assert reward(quality, cost, target, penalty) == pytest.approx(expected)


@pytest.mark.parametrize(
    "schedule, values",
    [
        (schedules.zero_schedule, [0, 0, 0, 0, 0]),
        (schedules.constant_schedule, [2, 2, 2, 2, 2]),
        (schedules.linear_schedule, [0, 0.5, 1, 1.5, 2]),
        (schedules.step_schedule, [0, 0, 2, 2, 2]),
        (schedules.cosine_schedule, [0, 1 - 0.5**0.5, 1, 1 + 0.5**0.5, 2]),
    ],
)
def test_schedules_by_hand(schedule, values):
    progress = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [schedule(p, 2.0) for p in progress] == pytest.approx(values)


def test_entropy_of_an_untrained_policy_is_log_n():
    entropy = CategoricalPolicy([2, 4, 5]).entropy()
    assert entropy == pytest.approx(np.log([2, 4, 5]).mean())


def test_samples_follow_the_probabilities():
    policy = CategoricalPolicy([2, 4])
    generator = np.random.default_rng(0)
    samples = np.stack([policy.sample(generator) for _ in range(4000)])
    assert np.bincount(samples[:, 0]) / 4000 == pytest.approx(1 / 2, abs=0.03)
    assert np.bincount(samples[:, 1]) / 4000 == pytest.approx(1 / 4, abs=0.03)


def reinforce_loss(logits, choice, advantage, entropy_weight):
    """The loss of the paper's open code, written down anew."""
    log_p = [x - np.log(np.exp(x).sum()) for x in logits]
    taken = np.mean([row[i] for row, i in zip(log_p, choice, strict=True)])
    entropy = np.mean([-(np.exp(row) * row).sum() for row in log_p])
    return -advantage * taken + entropy_weight * entropy


def test_update_descends_the_gradient_of_the_loss():
    policy = CategoricalPolicy([3, 3], learning_rate=0.1)
    generator = np.random.default_rng(0)
    for _ in range(5):
        policy.update(policy.sample(generator), generator.normal(), 0.3)
    recorded = []
    policy._adam_step = recorded.append
    logits = policy._logits.copy()
    policy.update(np.array([0, 2]), advantage=0.7, entropy_weight=0.4)
    numeric = np.zeros_like(logits)
    for position in itertools.product(range(2), range(3)):
        step = np.zeros_like(logits)
        step[position] = 1e-5
        numeric[position] = (
            reinforce_loss(logits + step, [0, 2], 0.7, 0.4)
            - reinforce_loss(logits - step, [0, 2], 0.7, 0.4)
        ) / 2e-5
    np.testing.assert_allclose(recorded[0], numeric, atol=1e-8)


def test_first_adam_step_has_the_length_of_the_learning_rate():
    policy = CategoricalPolicy([2], learning_rate=0.1)
    policy.update(np.array([1]), advantage=1.0, entropy_weight=0.0)
    np.testing.assert_allclose(policy._logits, [[-0.1, 0.1]], rtol=1e-6)


@pytest.mark.parametrize("options", [[], [2, 0]])
def test_policy_needs_options(options):
    with pytest.raises(ValueError, match="Received"):
        CategoricalPolicy(options)


@pytest.mark.parametrize("seed", range(20))
def test_selection_equals_brute_force(seed):
    generator = np.random.default_rng(seed)
    scores = [generator.normal(size=n) for n in (2, 3, 4, 3)]
    costs = [generator.uniform(1, 9, size=len(row)) for row in scores]
    low, high = sorted(generator.uniform(8, 30, size=2))
    feasible = [
        (sum(row[i] for row, i in zip(scores, choice, strict=True)), choice)
        for choice in itertools.product(*(range(len(row)) for row in scores))
        if low <= sum(r[i] for r, i in zip(costs, choice, strict=True)) <= high
    ]
    found = best_within_budget(scores, costs, high, low)
    if feasible:
        assert tuple(found) == max(feasible)[1]
    else:
        assert found is None


COSTS = [np.array([1.0, 4.0]) * weight for weight in (1.0, 2.0, 5.0)]


def run_controller(seed, quality, total_steps=800, target=17.0):
    controller = Controller(COSTS, target, total_steps, seed=seed)
    choices = []
    for _ in range(total_steps):
        choices.append(controller.choice)
        controller.step(quality(controller.choice), controller.cost)
    return controller, np.stack(choices)


def test_controller_protects_what_matters():
    # The first and second decisions need their dearer option.
    controller, _ = run_controller(
        0, lambda choice: float(choice[0] + choice[1])
    )
    assert controller.best_choice().tolist() == [1, 1, 0]
    assert controller.entropy < 0.2


def test_same_seed_same_choices_and_another_differs():
    runs = [run_controller(s, lambda c: float(c[0]), 50)[1] for s in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_policy_waits_for_the_delay_and_the_baseline_does_not():
    controller = Controller(
        COSTS, 8.0, 100, ControllerConfig(delay=0.5, penalty=0.0), seed=0
    )
    for quality in [1.0] + [2.0] * 49:
        controller.step(quality, controller.cost)
    assert controller.entropy == pytest.approx(np.log(2))
    # The first reward starts the average: 2 - 0.99 ** 49.
    assert controller.baseline == pytest.approx(2 - 0.99**49)
    controller.step(3.0, controller.cost)
    assert controller.entropy < np.log(2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [8.0, 11.0, 14.5, 32.0])
def test_best_choice_meets_the_target(seed, target):
    controller, _ = run_controller(seed, lambda c: float(sum(c)), 60, target)
    totals = [sum(choice) for choice in itertools.product(*COSTS)]
    reachable = max(total for total in totals if total <= target)
    cost = controller.cost_of(controller.best_choice())
    floor = min(0.9 * target, reachable) * (1 - 1e-9)
    assert floor <= cost <= target * (1 + 1e-9)


def test_target_below_the_cheapest_is_refused():
    with pytest.raises(ValueError, match="cheapest"):
        Controller(COSTS, 7.0, 10).best_choice()


@pytest.mark.parametrize(
    "change", [{"delay": 1.0}, {"baseline_momentum": -1}, {"learning_rate": 0}]
)
def test_config_is_checked(change):
    with pytest.raises(ValueError, match="Received"):
        ControllerConfig(**change)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
