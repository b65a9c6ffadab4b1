"""Estimates of what sizes cost, on networks whose losses are known."""

import sys

import numpy as np
import pytest

from fliqs_keras.cost_tables import CostTable
from fliqs_keras.policies import warm_up
from fliqs_keras.reinforce import Reinforce
from fliqs_keras.size_effects import estimate_size_effects
from fliqs_keras.supernet import Supernet, SupernetController

SIZES = [(2, 4, 8), (0, 1), (3, 5, 7), (1, 2)]
# What each size adds to the logarithm of the loss.
EFFECTS = [[0.5, 0.2, 0.0], [0.3, 0.0], [0.02, 0.01, 0.0], [0.0, 0.0]]


def log_loss(choices):
    return sum(np.take(e, c) for e, c in zip(EFFECTS, choices.T, strict=True))


def random_choices(count, seed=0):
    generator = np.random.default_rng(seed)
    counts = [len(options) for options in SIZES]
    return generator.integers(counts, size=(count, len(counts)))


def test_effects_without_noise_are_found():
    choices = random_choices(60)
    found = estimate_size_effects(choices, log_loss(choices), SIZES)
    for got, expected in zip(found.effects(), EFFECTS, strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-3)


def test_effects_with_noise_are_within_their_errors():
    choices = random_choices(80)
    noise = np.random.default_rng(1).normal(scale=0.05, size=80)
    found = estimate_size_effects(choices, log_loss(choices) + noise, SIZES)
    for got, error, expected in zip(
        found.effects(), found.standard_errors(), EFFECTS, strict=True
    ):
        assert (abs(got - expected) <= 3 * error + 1e-9).all()
        assert (error[:-1] > 0).all() and error[-1] == 0


def test_few_networks_leave_sizes_alike():
    # One network says how much sizes matter, not which.
    choices = np.array([[0, 0, 0, 0]])
    found = estimate_size_effects(choices, np.array([1.0]), SIZES)
    smallest = [effect[0] for effect in found.effects()]
    assert sum(smallest) == pytest.approx(1.0, rel=0.05)
    assert min(smallest) > 0.02


def test_samples_are_spread_as_the_errors_say():
    choices = random_choices(40)
    noise = np.random.default_rng(2).normal(scale=0.05, size=40)
    found = estimate_size_effects(choices, log_loss(choices) + noise, SIZES)
    generator = np.random.default_rng(3)
    samples = [found.effects(generator)[0] for _ in range(500)]
    # Its effects are so large that none is cut off at zero.
    np.testing.assert_allclose(
        np.std(samples, axis=0)[0], found.standard_errors()[0][0], rtol=0.15
    )


def test_warm_up_takes_the_widest_with_its_probability():
    generator = np.random.default_rng(0)
    widest = np.array([1, 2, 3])
    taken = [
        warm_up(generator, np.zeros(3), widest, [0, 2], 0.25)
        for _ in range(4000)
    ]
    np.testing.assert_allclose(
        np.mean(taken, axis=0), [0.25, 0.0, 0.75], atol=0.06
    )


# A format, and two sizes: their product is what the network costs.
FORMAT_EFFECTS = [0.4, 0.0]
COSTS = CostTable(
    [np.zeros(2), np.zeros(3), np.zeros(2)],
    {(0, 1, 2): np.multiply.outer(np.outer([1, 2], [1, 2, 4]), [1, 2])},
)
OPTIONS = [None, (2, 4, 8), (1, 2)]


def losses_of(probes, seed):
    """Losses of 256 examples, whose noise is shared by all networks."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(scale=0.3, size=256)
    logs = [
        FORMAT_EFFECTS[a] + EFFECTS[0][b] + [0.1, 0.0][c] for a, b, c in probes
    ]
    own = generator.normal(scale=0.02, size=(len(logs), 256))
    return np.exp(np.array(logs))[:, None] * (1.0 + own) + noise


@pytest.mark.parametrize(
    ("target", "best"),
    [(16, [1, 2, 1]), (8, [1, 2, 0]), (4, [1, 1, 0]), (2, [1, 0, 0])],
    ids=["all", "half", "quarter", "eighth"],
)
def test_controller_ends_on_the_best_choice_within_budget(target, best):
    controller = Supernet(start=0.125).controller(
        COSTS, target, 100, [1, 2, 1], seed=0, sizes=OPTIONS
    )
    rounds, phases = {}, []
    for step in range(100):
        while probes := controller.probes():
            controller.observe(losses_of(probes, 0))
            rounds[step] = rounds.get(step, 0) + 1
        phases.append(controller.phase)
        controller.step(0.0, controller.cost)
    # The sizes in two rounds, then their formats.
    assert rounds == {12: 2, 50: 1}
    assert phases == ["supernet"] * 12 + ["widest"] * 38 + ["settled"] * 50
    assert controller.choice.tolist() == best
    assert controller.sensitivity()[0][0].mean > 0


def test_formats_of_the_network_found_are_chosen_late():
    """Early the first format seems to harm, late the second does."""
    costs = CostTable(
        [np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    )
    controller = Supernet(start=0.25, formats_start=0.75).controller(
        costs, 4.0, 8, [1, 1, 1], seed=0, sizes=[None, None, (1, 2)]
    )
    harmful, found = 0, []
    for step in range(8):
        while probes := controller.probes():
            logs = [1.0 * (p[harmful] == 0) + 0.9 * (p[2] == 0) for p in probes]
            controller.observe(np.exp(logs)[:, None] * np.ones(64))
            found.append(controller.best_choice().tolist())
        harmful = int(step >= 2)
        controller.step(0.0, controller.cost)
    # After the sizes, their formats and the second look at formats.
    assert found[0] == found[1] == [1, 0, 0]
    assert found[2] == [0, 1, 0]


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"formats_start": 0.0}, OPTIONS),
        ({"formats_start": 0.125}, OPTIONS),
        ({}, [(1, 2), (2, 4, 8), (1, 2)]),
    ],
    ids=["with_the_sizes", "at_the_start", "no_formats"],
)
def test_search_may_end_with_the_sizes(settings, options):
    controller = Supernet(start=0.125, **settings).controller(
        COSTS, 8, 16, [1, 2, 1], seed=0, sizes=options
    )
    for step in range(3):
        while probes := controller.probes():
            controller.observe(losses_of(probes, 0))
        assert controller.settled == (step == 2)
        controller.step(0.0, controller.cost)


# The narrow format adds 0.1 when it is measured and 0.3 in the end, the small
# size adds 0.25: either meets the budget.
@pytest.mark.parametrize(
    ("growth", "best"), [(1.0, [0, 1]), (3.0, [1, 0])], ids=["none", "three"]
)
def test_formats_count_for_more_than_they_are_measured(growth, best):
    costs = CostTable(
        [np.zeros(2), np.zeros(2)], {(0, 1): np.outer([1, 2], [1, 2])}
    )
    controller = Supernet(format_growth=growth).controller(
        costs, 2.0, 8, [1, 1], seed=0, sizes=[None, (4, 8)]
    )
    while not controller.settled:
        while probes := controller.probes():
            logs = np.array(
                [0.1 * (a == 0) + 0.25 * (b == 0) for a, b in probes]
            )
            controller.observe(np.exp(logs)[:, None] * np.ones(64))
        controller.step(0.0, controller.cost)
    assert controller.choice.tolist() == best


def test_sizes_are_largest_first_and_formats_always_widest():
    controller = Supernet(start=0.9, warm_up=0.9).controller(
        COSTS, 16, 1000, [1, 2, 1], seed=0, sizes=OPTIONS
    )
    choices = np.array([controller.step(0.0, 0.0) for _ in range(880)])
    assert (choices[:, 0] == 1).all()
    share = (choices[:, 1] == 2).reshape(8, 110).mean(axis=1)
    assert share[0] > 0.9 > share[3] > share[-1]
    assert share[-1] == pytest.approx(1 / 3, abs=0.15)


def test_reinforce_warms_sizes_up_in_its_delay():
    controller = Reinforce(delay=0.5).controller(
        COSTS, 8, 1000, seed=0, sizes=OPTIONS
    )
    choices = np.array([controller.step(0.0, 4.0) for _ in range(500)])
    assert choices[:50, 1].mean() > 1.8
    assert choices[:50, 0].mean() == pytest.approx(0.5, abs=0.25)
    assert choices[450:, 1].mean() == pytest.approx(1.0, abs=0.4)


def at_its_probes(**kwargs):
    """Returns a controller of formats and sizes, and its first probes."""
    controller = SupernetController(
        *(COSTS, 8, 10, [1, 2, 1], OPTIONS), seed=0, **kwargs
    )
    controller.step(0.0, 0.0)
    return controller, controller.probes()


# The widest, its format alone in the other option, then networks.
@pytest.mark.parametrize("row", [0, 2, -1], ids=["widest", "network", "last"])
def test_networks_whose_losses_are_no_numbers_are_refused(row):
    controller, probes = at_its_probes()
    losses = losses_of(probes, 0)
    losses[row, 5] = np.nan
    with pytest.raises(ValueError, match="finite losses"):
        controller.observe(losses)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_format_that_breaks_the_loss_is_the_worst(broken, caplog):
    controller, probes = at_its_probes()
    losses = losses_of(probes, 0)
    losses[1, 5] = broken
    controller.observe(losses)
    assert "1 make the loss NaN" in caplog.text
    [narrow, _] = controller.sensitivity()[0]
    # There is no other format: it adds what the widest lose.
    assert narrow.mean == pytest.approx(losses[0].mean())
    # Rather than in it, all the budget goes into smaller sizes.
    assert all(choice[0] == 1 for choice in controller.probes())


def at_its_candidates():
    controller, probes = at_its_probes()
    # Of losses that tell sizes badly there are many best choices.
    losses = np.random.default_rng(2).uniform(0.5, 2.0, (len(probes), 1))
    controller.observe(losses * np.ones(3))
    candidates = controller.probes()
    assert len(candidates) > 1
    return controller, candidates


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_candidates_that_break_the_loss_are_not_taken(broken):
    controller, candidates = at_its_candidates()
    losses = np.ones((len(candidates), 3))
    # The least losses by far, but for one example.
    losses[0] = [1e-9, 1e-9, broken]
    losses[-1] = 1e-6
    controller.observe(losses)
    assert controller.choice[1:].tolist() == candidates[-1][1:].tolist()


def test_candidates_that_all_break_the_loss_are_refused():
    controller, candidates = at_its_candidates()
    with pytest.raises(ValueError, match="one within the budget"):
        controller.observe(np.full((len(candidates), 3), np.inf))


def test_losses_without_a_logarithm_are_refused():
    controller = SupernetController(COSTS, 8, 10, [1, 2, 1], OPTIONS)
    for _ in range(4):
        controller.step(0.0, 0.0)
    probes = controller.probes()
    with pytest.raises(ValueError, match="positive losses"):
        controller.observe(np.full((len(probes), 3), -1.0))


def test_decisions_about_formats_alone_are_refused():
    with pytest.raises(ValueError, match="decisions about sizes"):
        Supernet().controller(COSTS, 8, 10, [1, 2, 1], sizes=[None] * 3)


@pytest.mark.parametrize(
    "setting",
    [
        {"start": 1.0},
        {"warm_up": -0.1},
        {"formats_start": 1.0},
        {"networks": 0},
        {"candidates": 0.5},
        {"format_growth": 0.0},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_wrong_setting_is_refused(setting):
    with pytest.raises(ValueError, match="Expected `"):
        Supernet(**setting)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
