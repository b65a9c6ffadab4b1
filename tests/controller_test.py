"""The search half: rewards, schedules, policy, selection, controller."""

import itertools
import sys

import numpy as np
import pytest

from fliqs_keras import rewards, schedules
from fliqs_keras.controller import FixedController
from fliqs_keras.cost_tables import Limit
from fliqs_keras.policies import CategoricalPolicy
from fliqs_keras.reinforce import Reinforce, ReinforceController
from fliqs_keras.selection import (
    best_within_budget,
    cost_of,
    nearest_choice,
)
from fliqs_keras.sensitivity import (
    Sensitivity,
    SensitivityController,
    estimate_increases,
)


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


@pytest.mark.parametrize("seed", range(20))
def test_several_budgets_are_kept_as_by_brute_force(seed):
    generator = np.random.default_rng(seed)
    scores = [generator.normal(size=n) for n in (2, 3, 4, 3)]
    limits = [
        Limit([generator.uniform(1, 9, size=len(row)) for row in scores], b)
        for b in generator.uniform(8, 20, size=2)
    ]

    def excess(choice):
        return max(cost_of(choice, x.costs) / x.budget for x in limits)

    choices = list(itertools.product(*(range(len(row)) for row in scores)))
    feasible = [choice for choice in choices if excess(choice) <= 1]
    (costs, budget), other = limits
    found = best_within_budget(scores, costs, budget, others=[other])
    if feasible:
        best = max(feasible, key=lambda choice: cost_of(choice, scores))
        assert tuple(found) == best
        assert all(limit.is_kept_by(found) for limit in limits)
    else:
        assert found is None
    nearest = tuple(nearest_choice(limits))
    assert excess(nearest) == pytest.approx(min(map(excess, choices)))


COSTS = [np.array([1.0, 4.0]) * weight for weight in (1.0, 2.0, 5.0)]


def run_controller(seed, quality, total_steps=800, target=17.0):
    controller = ReinforceController(COSTS, target, total_steps, seed=seed)
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


@pytest.mark.parametrize(
    "controller_class", [ReinforceController, SensitivityController]
)
def test_controllers_keep_a_second_budget(controller_class):
    # The first budget alone would let the last decision be dear.
    second = Limit([np.array([0.0, 1.0])] * 2 + [np.array([0.0, 9.0])], 2.0)
    controller = controller_class(COSTS, 30.0, 50, others=[second])
    for _ in range(50):
        if probes := controller.probes():
            losses = [[1.0 - probe[2]] * 3 for probe in probes]
            controller.observe(np.array(losses))
        controller.step(float(controller.choice[2]), controller.cost)
    assert controller.best_choice()[2] == 0
    # What is left of the first budget is used: 4 + 8 + 5 of 30.
    assert cost_of(controller.best_choice(), COSTS) == 17.0


def test_budgets_that_no_choice_meets_together_are_refused():
    second = Limit([np.array([9.0, 1.0])] * 3, 12.0)
    with pytest.raises(ValueError, match=r"\[9.0, 12.0\]; the nearest") as info:
        SensitivityController(COSTS, 9.0, 10, others=[second])
    # One of the first two dear: 1 + 9 + 9 is 19 / 12 of the second budget,
    # where two of them are 17 / 9 of the first.
    assert str(info.value).endswith("19.0]")


def test_names_stand_for_rewards_and_schedules():
    def run(**settings):
        config = Reinforce(**settings)
        controller = ReinforceController(COSTS, 17.0, 60, config, seed=0)
        return [
            controller.step(float(controller.choice[0]), controller.cost)
            for _ in range(60)
        ]

    named = run(reward="one_sided", entropy_schedule="linear")
    given = run(
        reward=rewards.one_sided_reward,
        entropy_schedule=schedules.linear_schedule,
    )
    np.testing.assert_array_equal(named, given)
    assert not np.array_equal(named, run())


@pytest.mark.parametrize("name", ["reward", "entropy_schedule"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}='best'"):
        Reinforce(**{name: "best"})


def test_same_seed_same_choices_and_another_differs():
    runs = [run_controller(s, lambda c: float(c[0]), 50)[1] for s in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_policy_waits_for_the_delay_and_the_baseline_does_not():
    controller = ReinforceController(
        COSTS, 8.0, 100, Reinforce(delay=0.5, penalty=0.0), seed=0
    )
    for quality in [1.0] + [2.0] * 49:
        controller.step(quality, controller.cost)
    assert controller.entropy == pytest.approx(np.log(2))
    # The first reward starts the average: 2 - 0.99 ** 49.
    assert controller.baseline == pytest.approx(2 - 0.99**49)
    controller.step(3.0, controller.cost)
    assert controller.entropy < np.log(2)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_policy_learns_nothing_from_a_loss_that_is_no_number(loss):
    controller = ReinforceController(
        COSTS, 8.0, 4, Reinforce(delay=0.0, settle=0.0), seed=0
    )
    controller.step(-loss, controller.cost)
    assert controller.entropy == pytest.approx(np.log(2))
    assert np.isnan(controller.metrics()["baseline"])
    controller.step(-1.0, controller.cost)
    learnt = controller.probabilities()
    assert np.isfinite(controller.baseline)
    controller.step(-loss, controller.cost)
    np.testing.assert_array_equal(controller.probabilities(), learnt)
    assert cost_of(controller.step(-loss, 0.0), COSTS) <= 8.0


def reachable_floor(target):
    totals = [sum(choice) for choice in itertools.product(*COSTS)]
    reachable = max(total for total in totals if total <= target)
    return min(0.97 * target, reachable) * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [8.0, 11.0, 14.5, 32.0])
def test_reinforce_meets_the_target(seed, target):
    controller, choices = run_controller(
        seed, lambda c: float(sum(c)), 60, target
    )
    best = controller.best_choice()
    cost = cost_of(best, COSTS)
    assert reachable_floor(target) <= cost <= target * (1 + 1e-9)
    # Settled for the last tenth of the steps.
    np.testing.assert_array_equal(choices[-6:], np.tile(best, (6, 1)))


def test_reward_needs_a_target_above_zero():
    with pytest.raises(ValueError, match="Received: a target of 0"):
        ReinforceController([np.array([0.0, 1.0])], 0.0, total_steps=9)


def test_target_below_the_cheapest_is_refused():
    with pytest.raises(ValueError, match=r"nearest choice costs \[8.0\]"):
        ReinforceController(COSTS, 7.0, 10)


@pytest.mark.parametrize(
    "config, change",
    [
        (Reinforce, {"delay": 1.0}),
        (Reinforce, {"settle": -0.1}),
        (Reinforce, {"delay": 0.5, "settle": 0.5}),
        (Reinforce, {"baseline_momentum": -1}),
        (Reinforce, {"learning_rate": 0}),
        (Sensitivity, {"start": 1.0}),
    ],
)
def test_settings_are_checked(config, change):
    with pytest.raises(ValueError, match="Received"):
        config(**change)


def test_fixed_controller_stays():
    controller = FixedController(COSTS, [1, 0, 1], 10)
    assert controller.target == controller.cost == 4 + 2 + 20
    assert controller.step(quality=-9.0, cost=26.0).tolist() == [1, 0, 1]
    assert controller.settled and not controller.probes()


def test_estimate_by_hand():
    # One change; differences 0.0 and 0.4: mean 0.2, variance 0.08, half of
    # it 0.04. The only mean sets the scale: the prior is 0.2 +- 0.1, and so
    # is the evidence 0.2 with standard error 0.2.
    mean, error = estimate_increases(np.array([[0.0, 0.4]]))
    assert mean == pytest.approx([0.2])
    assert error == pytest.approx([(1 / 0.1**2 + 1 / 0.2**2) ** -0.5])


def test_estimate_leans_on_the_variance_where_the_mean_is_noise():
    generator = np.random.default_rng(0)
    true = np.array([0.3, 0.1, 0.03, 0.01, 0.003, 0.001])
    noise = generator.normal(size=(200, 6, 256))
    # The differences of a log-likelihood: variance twice the increase.
    differences = true[:, None] + np.sqrt(2 * true)[:, None] * noise
    estimates = np.array([estimate_increases(d)[0] for d in differences])
    means = np.maximum(differences.mean(axis=2), 0)
    relative = np.abs(estimates / true - 1).mean(axis=0)
    relative_of_means = np.abs(means / true - 1).mean(axis=0)
    assert (relative < 0.3).all()
    assert (relative <= relative_of_means).all()
    # A hundred times below the largest the mean alone says nothing.
    assert relative_of_means[-1] > 1


@pytest.mark.parametrize("unit", [1e-4, 10.0, 1e4])
def test_estimates_have_the_unit_of_the_loss(unit):
    generator = np.random.default_rng(0)
    true = np.array([0.3, 0.03, 0.003, 0.001])
    noise = generator.normal(size=(4, 256))
    differences = true[:, None] + np.sqrt(2 * true)[:, None] * noise
    mean, error = estimate_increases(differences)
    scaled_mean, scaled_error = estimate_increases(unit * differences)
    np.testing.assert_allclose(scaled_mean, unit * mean, rtol=1e-9)
    np.testing.assert_allclose(scaled_error, unit * error, rtol=1e-9)


def test_estimate_of_what_changes_nothing_is_zero():
    mean, error = estimate_increases(np.array([[0.0, 0.0], [0.1, 0.3]]))
    assert mean[0] == error[0] == 0
    assert mean[1] > 0


def test_sensitivity_asks_once_and_then_stays():
    controller = SensitivityController(COSTS, 17.0, 10, Sensitivity(start=0.3))
    for _ in range(3):
        assert not controller.probes()
        assert controller.choice.tolist() == [1, 1, 1]
        controller.step(quality=0.0, cost=controller.cost)
    probes = controller.probes()
    assert [p.tolist() for p in probes] == [
        [1, 1, 1],
        [0, 1, 1],
        [1, 0, 1],
        [1, 1, 0],
    ]
    losses = np.array([[0.0, 0.0], [0.5, 0.6], [0.1, 0.2], [0.01, 0.02]])
    controller.observe(losses)
    # 4 + 8 + 5 is all that 17 buys without the third.
    assert controller.choice.tolist() == [1, 1, 0]
    assert controller.settled and not controller.probes()
    assert controller.best_choice().tolist() == [1, 1, 0]
    estimates = controller.sensitivity()
    assert estimates[0][1] == (0.0, 0.0)
    assert estimates[0][0].mean == pytest.approx(0.55, rel=0.1)


def test_sensitivity_starts_from_the_widest_also_where_nothing_costs():
    costs = [np.zeros(2), np.array([1.0, 4.0])]
    controller = SensitivityController(costs, 1.0, 4, widest=[1, 1])
    controller.step(quality=0.0, cost=4.0)
    probes = [probe.tolist() for probe in controller.probes()]
    assert probes == [[1, 1], [0, 1], [1, 0]]
    controller.observe(np.array([[0.0, 0.1], [0.2, 0.5], [0.3, 0.4]]))
    assert controller.choice.tolist() == [1, 0]


def test_sensitivity_refuses_a_model_that_diverged():
    controller = SensitivityController(COSTS, 17.0, 10)
    with pytest.raises(ValueError, match="finite"):
        controller.observe(np.full((4, 2), np.nan))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_sensitivity_keeps_from_formats_that_break_the_model(broken, scale):
    # Buys the third and the first, or, if the third does little, both others.
    controller = SensitivityController(COSTS, 26.0, 10)
    losses = scale * np.array([[2.0, 2.0], [5.0, 6.0], [7.0, 9.0], [2.1, 2.2]])
    losses[3, 1] = broken
    controller.observe(losses)
    assert controller.choice[2] == 1
    increases = [row[0].mean for row in controller.sensitivity()]
    assert increases[2] > increases[0] + increases[1]
    assert np.isfinite(increases).all()


@pytest.mark.parametrize("target", [8.0, 11.0, 14.5, 32.0])
def test_sensitivity_meets_the_target(target):
    controller = SensitivityController(COSTS, target, 4)
    # Also if it would end before anything was measured.
    for _ in range(2):
        cost = cost_of(controller.best_choice(), COSTS)
        assert reachable_floor(target) <= cost <= target * (1 + 1e-9)
        controller.observe(np.random.default_rng(0).normal(size=(4, 8)))


class AdditiveProblem:
    """Layers whose formats add known losses, seen through noise."""

    def __init__(self, seed, layers=12):
        self.generator = np.random.default_rng(seed)
        self.bits = np.arange(2, 9)
        weight = np.exp(self.generator.normal(scale=1.5, size=layers))
        macs = np.exp(self.generator.normal(size=layers))
        # Each bit divides the loss by four, or so.
        noise = np.exp(self.generator.normal(scale=0.3, size=(layers, 7)))
        self.losses = weight[:, None] * 4.0**-self.bits * noise
        self.losses -= self.losses.min(axis=1, keepdims=True)
        self.costs = list(macs[:, None] * self.bits**2)

    def loss(self, choice):
        return self.losses[np.arange(len(choice)), choice].sum()

    def observe(self, choices, examples):
        # Examples differ, and more so the more a choice adds.
        own = self.generator.normal(0.5, 0.3, size=examples)
        rows = []
        for choice in choices:
            loss = self.loss(choice)
            noise = self.generator.normal(size=examples)
            rows.append(own + loss + np.sqrt(2 * loss) * noise)
        return np.array(rows)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("uniform_bits", [3, 4, 6])
def test_sensitivity_is_near_the_best_and_better_than_uniform(
    seed, uniform_bits
):
    problem = AdditiveProblem(seed)
    uniform = np.full(len(problem.costs), uniform_bits - 2)
    budget = cost_of(uniform, problem.costs)
    controller = SensitivityController(problem.costs, budget, 8)
    for _ in range(2):
        controller.step(quality=0.0, cost=controller.cost)
    controller.observe(problem.observe(controller.probes(), examples=256))
    found = problem.loss(controller.choice)
    best = problem.loss(
        best_within_budget(list(-problem.losses), problem.costs, budget)
    )
    assert found <= problem.loss(uniform)
    assert found <= 1.2 * best


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
