"""The study of formats and sizes, at tiny size."""

import json
import sys

import keras
import numpy as np
import pytest

import fliqs_keras
from recipes import data, mobile_networks, nas_study, nas_table
from recipes.mobile_networks import MobileNetwork, Stage

# Recipes run on TensorFlow.
pytestmark = pytest.mark.tensorflow

CONFIG = {
    "dataset": "digits",
    "train_size": 64,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 3e-3,
}


def test_imagenet_space_is_that_of_mobile_net_v2():
    network = mobile_networks.MOBILE_NET_V2
    base = network.build((224, 224, 3), 1000)
    base = fliqs_keras.apply(base, "INT4")
    # The paper's 4.81 GBOPs.
    assert round(fliqs_keras.BitOps()(base), 2) == 4.81
    largest = network.build_largest((224, 224, 3), 1000)
    decisions = network.space(["INT4", "INT8"]).decisions(largest)
    # 17 blocks, ten of them residual; the first has no expansion.
    for ending, count in (
        (":kernel", 17),
        (":depth", 10),
        ("expand:width", 16),
        (":width", 16 + 1 + 7),
    ):
        assert sum(name.endswith(ending) for name in decisions) == count
    assert decisions["stem:width"] == (16, 24, 32, 40, 48, 64)
    assert decisions["block_3_1_project:width"] == (16, 24, 32, 40, 48, 64)
    assert decisions["block_2_1_expand:width"] == (96, 192)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The results of one seed on a few digits, of a tiny network."""
    folder = tmp_path_factory.mktemp("nas")
    tiny = MobileNetwork(8, (Stage(8, 1, 1, expansion=2),), 0, divisor=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nas_study, "SMALL_MOBILE_NET", tiny)
        patch.setattr(nas_study, "WIDTHS", (1.0,))
        patch.setattr(nas_study, "UNIFORM", ("INT4",))
        methods = ["joint", "in_turn", "formats", "uniform"]
        runs = list(nas_study.list_runs(methods, [0.9], 1))
        nas_study.run(CONFIG, data.load("digits"), runs, folder)
        # Done already, but for what cannot be done: this trains nothing.
        before = (folder / "results.jsonl").read_text()
        nas_study.run(CONFIG, data.load("digits"), runs, folder)
        assert (folder / "results.jsonl").read_text() == before
    return folder


def test_every_method_stays_within_its_budget(workdir):
    lines = (workdir / "results.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in lines]
    # Of width 1 all formats cost more than the budget.
    assert [result["method"] for result in results] == [
        "joint",
        "in_turn",
        "uniform",
    ]
    for result in results:
        assert 0 <= result["accuracy"] <= 1
        if result["target"] is not None:
            assert 0 < result["cost"] <= result["target"] * (1 + 1e-9)


def test_results_are_drawn(workdir):
    table = nas_study.draw(workdir)
    assert "sizes and formats at once" in table
    assert (workdir / "table.md").read_text() == table + "\n"
    assert (workdir / "nas.png").stat().st_size > 10_000


def test_epochs_must_be_even(tmp_path):
    with pytest.raises(ValueError, match="even number of epochs"):
        nas_study.run({**CONFIG, "epochs": 3}, None, [], tmp_path)


def make_result(method, seed, accuracy, cost, target=None, **more):
    fixed = {"width": None, "format": None, **more}
    return {
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "cost": cost / 1e3,
        "target": None if target is None else target / 1e3,
        "macs": 1e6,
        **fixed,
    }


RESULTS = [
    make_result("joint", 0, 0.80, 4.0, 4.0),
    make_result("joint", 1, 0.84, 4.0, 4.0),
    make_result("architecture", 1, 0.81, 3.9, 4.0, format="INT8"),
    *(
        make_result("uniform", seed, a + 0.01 * seed, c, width=w, format=f)
        for seed in (0, 1)
        for a, c, w, f in [
            (0.70, 2.0, 0.5, "INT4"),
            (0.78, 8.0, 1.0, "INT4"),
            (0.72, 4.0, 0.25, "INT8"),
        ]
    ),
]


def test_widths_are_interpolated_in_the_logarithm_of_the_cost():
    # Half-way between 2 and 8 lies 4: 0.74 and 0.75 in INT4.
    name, reached = nas_table.scaled_widths(RESULTS, 4.0)
    assert name == "INT4"
    assert reached == pytest.approx({0: 74.0, 1: 75.0})
    assert nas_table.scaled_widths(RESULTS, 16.0) is None


def test_table_says_what_is_gained():
    table = nas_table.render(RESULTS)
    assert "| sizes, all INT8 | 81.00 | 3.90 | 1.000 | 1.97 | +3.00 | 1 |" in (
        table
    )
    # 6 and 9 points: 7.5 on average.
    assert "interpolated | 74.50 | 4.00 | | | +7.50 ± 2.12 | 2 |" in table


def test_small_network_has_sizes_that_differ():
    network = mobile_networks.SMALL_MOBILE_NET
    largest = network.build_largest((28, 28, 1), 10)
    decisions = network.space(["INT8"]).decisions(largest)
    assert decisions["block_2_1_project:width"] == (8, 12, 16, 24)
    x = np.zeros((1, 28, 28, 1), "float32")
    assert keras.ops.shape(largest(x)) == (1, 10)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
