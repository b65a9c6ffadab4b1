"""The study at tiny size, and its table on numbers worked by hand."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest

import fliqs_keras
from recipes import (
    data,
    models,
    result_lines,
    rival_assignments,
    study,
    study_runs,
    study_table,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset():
    digits = data.load("digits")
    return dataclasses.replace(
        digits, x_train=digits.x_train[:256], y_train=digits.y_train[:256]
    )


@pytest.fixture(scope="module")
def path(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "results.jsonl"
    tiny = study.Study(dataset, SETTINGS, path)
    tiny.complete(RUNS)
    assert tiny.results == read(path)
    return path


def read(path):
    return result_lines.ResultLines(path).results


SETTINGS = {
    "dataset": "digits",
    "image_size": None,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 3e-3,
}
RUNS = [
    run
    for run in study_runs.list_runs(
        ["conv_net"], ["fliqs_s", "wide"], study.METHODS, [0], ["INT2", "INT4"]
    )
    if run.budget in [("INT4", 1.2), ("INT2", 1.0), ("INT4", 1.0)]
]


def test_runs_are_every_way_in_every_cell():
    runs = list(
        study_runs.list_runs(
            study.NETWORKS, study_runs.SPACES, study.METHODS, range(5)
        )
    )
    assert len(set(runs)) == len(runs)
    uniform = [run for run in runs if run.method == "uniform"]
    # 7 integers and 5 floats, and 18 cells for each of 5 other ways.
    assert len(uniform) == 5 * 3 * (7 + 5)
    assert len(runs) - len(uniform) == 5 * 18 * 5


def test_every_way_keeps_its_budget(path):
    results = read(path)
    assert len(results) == len(RUNS)
    for result in results:
        assert result["cost"] <= result["target"] * (1 + 1e-9)
        assert 0 <= result["accuracy"] <= 1
        assert set(result["assignment"]) == {"stem", "conv_1", "conv_2", "head"}
        if result["method"] == "uniform":
            assert set(result["assignment"].values()) == {result["budget"][0]}
    by_method = {r["method"]: r for r in results if r["method"] != "uniform"}
    assert set(by_method) == set(study.METHODS) - {"uniform"}
    found = by_method["sensitivity"]["assignment"]
    assert by_method["from_scratch"]["assignment"] == found


def test_study_resumes_and_keeps_what_it_has(path, dataset):
    before = path.read_text()
    again = study.Study(dataset, SETTINGS, path)
    again.complete(RUNS)
    assert path.read_text() == before


def test_same_run_same_result(path, dataset, tmp_path):
    run = RUNS[0]
    other = study.Study(dataset, SETTINGS, tmp_path / "other.jsonl")
    other.complete([run])
    [result], first = other.results, read(path)[0]
    assert result["accuracy"] == first["accuracy"]
    assert result["assignment"] == first["assignment"]


def test_a_search_starts_from_a_float_network(path, dataset, tmp_path):
    wanted = ("fliqs_s", "sensitivity", ("INT4", 1.2))
    tiny = study.Study(dataset, SETTINGS, tmp_path / "float.jsonl")
    run = study_runs.Run("conv_net", *wanted[:2], 0, wanted[2], "float")
    tiny.complete([run, run])
    [result] = tiny.results
    assert result["start"] == "float"
    scratch = next(
        r for r in read(path) if (r["space"], r["method"]) == wanted[:2]
    )
    assert result["accuracy"] > scratch["accuracy"]


def test_results_of_other_settings_are_refused(path, dataset):
    settings = SETTINGS | {"epochs": 9}
    with pytest.raises(ValueError, match="Choose another --results"):
        study.Study(dataset, settings, path)


def test_formats_from_scratch_need_a_search(dataset, tmp_path):
    tiny = study.Study(dataset, SETTINGS, tmp_path / "none.jsonl")
    run = next(run for run in RUNS if run.method == "from_scratch")
    with pytest.raises(ValueError, match="Run that method, too"):
        tiny.complete([run])
    assert not (tmp_path / "none.jsonl").exists()


def test_by_hand_widens_first_last_and_pointwise():
    model = fliqs_keras.apply(
        models.build("separable_net", (28, 28, 1), 10),
        study_runs.SPACES["fliqs_s"],
    )
    run = study_runs.Run(
        "separable_net", "fliqs_s", "by_hand", 0, ("INT4", 1.8)
    )
    assignment = rival_assignments.widen_by_hand(
        model,
        study_runs.SPACES[run.space],
        run.budget[0],
        study.target_of(model, run),
    )
    wide = {name for name, f in assignment.items() if f == "INT8"}
    assert {"stem", "head"} <= wide
    assert not any(name.startswith("depthwise") for name in wide)
    cost = fliqs_keras.BitOps()(model, assignment)
    assert cost <= study.target_of(model, run)


UNIFORM = [("INT3", 9, 0.80), ("INT4", 16, 0.87), ("INT5", 25, 0.90)]


def make_results(gains, cost=12.5, space="wide"):
    for seed, gain in enumerate(gains):
        common = {"network": "net", "seed": seed, "space": space}
        for name, uniform_cost, accuracy in UNIFORM:
            yield {
                **common,
                "method": "uniform",
                "budget": [name, 1.0],
                "cost": uniform_cost,
                "target": uniform_cost,
                "accuracy": accuracy,
            }
        yield {
            **common,
            "method": "sensitivity",
            "budget": ["INT3", 1.4],
            "cost": cost - 1,
            "target": cost,
            "accuracy": 0.835 + gain / 100,
        }


def test_gain_is_over_uniform_formats_at_the_target():
    # Half-way between INT3 and INT4: 83.5 %.
    results = json.loads(json.dumps(list(make_results([1.0, 2.0, 3.0]))))
    [methods] = study_table.accuracies(results).values()
    assert methods["uniform"] == pytest.approx({0: 83.5, 1: 83.5, 2: 83.5})
    assert methods["any_uniform"] == methods["uniform"]
    difference = study_table.compare(methods["sensitivity"], methods["uniform"])
    assert difference.mean == pytest.approx(2)
    assert difference.spread == pytest.approx(1)
    assert difference.count == 3
    # t = 2 / (1 / sqrt(3)) with two degrees of freedom:
    # p = 1 - t / sqrt(t**2 + 2).
    t = 2 * math.sqrt(3)
    assert difference.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2))


def test_formats_that_a_space_lacks_are_a_column_of_their_own():
    results = [*make_results([1.0], cost=20, space="fliqs_s")]
    results.append({**results[1], "budget": ["INT8", 1.0], "cost": 64})
    [methods] = study_table.accuracies(results).values()
    # Half-way between INT4 and INT5, but no such step between INT4 and INT8,
    # which here reaches no more than INT4.
    assert methods["any_uniform"] == pytest.approx({0: 87 + 3 * 4 / 9})
    assert methods["uniform"] == pytest.approx({0: 87})


def test_starts_are_compared_apart():
    scratch = [*make_results([1.0])]
    others = [{**r, "start": "float"} for r in make_results([3.0])]
    cells = study_table.accuracies(scratch + others)
    gains = {
        cell.start: methods["sensitivity"][0] - methods["uniform"][0]
        for cell, methods in cells.items()
    }
    assert gains == pytest.approx({"scratch": 1.0, "float": 3.0})
    assert "trained in float:" in study_table.render(scratch + others)


def test_uniform_formats_do_not_reach_beyond_their_costs():
    assert study_table.interpolate_uniform({9: 1.0, 16: 2.0}, 17) is None
    assert study_table.interpolate_uniform({}, 17) is None


def test_table_shows_gain_significance_and_seeds():
    results = [*make_results([2.0, 2.1, 2.2])]
    table = study_table.render(results)
    assert "| net | wide | 1.4 × INT3 | 85.6 ± 0.1 (3) | 83.5 (+2.1*, 3)" in (
        table
    )
    assert "| uniform | 1 | 100% | +2.10 | – | 0 |" in table


def test_loss_beyond_noise_is_counted():
    table = study_table.render([*make_results([-2.0, -2.1, -2.2])])
    assert "| uniform | 1 | 0% | -2.10 | – | 1 |" in table
    noisy = study_table.render([*make_results([-2.0, 1.0, -0.5])])
    assert "| uniform | 1 | 0% | -0.50 | – | 0 |" in noisy


def test_random_assignments_use_their_budget():
    model = fliqs_keras.apply(
        models.build("conv_net", (8, 8, 1), 10), study_runs.SPACES["wide"]
    )
    cost = fliqs_keras.BitOps()
    drawn = set()
    for budget in study_runs.BUDGETS["wide"]:
        run = study_runs.Run("conv_net", "wide", "random", 0, budget)
        generator = np.random.default_rng(0)
        for _ in range(5):
            assignment = rival_assignments.draw_assignment(
                model,
                study_runs.SPACES[run.space],
                study.target_of(model, run),
                generator,
            )
            share = cost(model, assignment) / study.target_of(model, run)
            assert 0.9 <= share <= 1 + 1e-9
            drawn.add(str(assignment))
    assert len(drawn) > 5


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
