"""The curve of accuracy and cost: tiny runs, and tables by hand."""

import dataclasses
import json
import sys

import pytest

import fliqs_keras
from recipes import (
    data,
    models,
    pareto,
    pareto_table,
    result_lines,
    training,
)

# Recipes run on TensorFlow.
pytestmark = pytest.mark.tensorflow

CONFIG = {
    "dataset": "digits",
    "network": "conv_net",
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 3e-3,
}
RUNS = [
    pareto.Run(0.25, None, "float", None, 0),
    pareto.Run(0.25, "fliqs_l", "uniform", ("INT4", 1.0), 0),
    pareto.Run(0.25, "fliqs_l", "search", ("INT4", 1.8), 0),
]


@pytest.fixture(scope="module")
def dataset():
    digits = data.load("digits")
    return dataclasses.replace(
        digits, x_train=digits.x_train[:256], y_train=digits.y_train[:256]
    )


@pytest.fixture(scope="module")
def workdir(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pareto")
    pareto.run(CONFIG, dataset, RUNS[:2], workdir)
    pareto.run(CONFIG, dataset, RUNS, workdir)
    return workdir


def test_every_space_stands_beside_uniform_formats_of_its_kind():
    runs = list(pareto.list_runs([0.5, 1.0], ["fliqs_s"], [1.2, 1.8], 3))
    assert len(set(runs)) == len(runs) == 3 * 2 * (1 + 4 + 2)
    # The first seed is a whole comparison.
    assert [run.seed for run in runs[:14]] == [0] * 14
    formats = {run.budget[0] for run in runs if run.method == "uniform"}
    assert formats == {"INT4", "INT5", "INT6", "INT8"}


@pytest.mark.parametrize("space", pareto.SPACES)
def test_targets_are_relative_to_the_narrowest_format(space):
    model = models.build("conv_net", (8, 8, 1), 10, 0.25)
    table = fliqs_keras.budget(model, pareto.SPACES[space])
    uniform = table.uniform[pareto.NARROWEST[space]]
    assert uniform == pytest.approx(table.cheapest)
    assert table.dearest > max(pareto._FACTORS.default) * uniform


def test_runs_are_continued_and_keep_their_budget(workdir, dataset):
    path = workdir / "results.jsonl"
    before = path.read_text()
    results = result_lines.ResultLines(path).results
    assert [r["method"] for r in results] == ["float", "uniform", "search"]
    _, uniform, search = results
    assert set(uniform["assignment"].values()) == {"INT4"}
    assert uniform["cost"] < search["cost"] <= 1.8 * uniform["cost"]
    pareto.run(CONFIG, dataset, RUNS, workdir)
    assert path.read_text() == before
    with pytest.raises(ValueError, match="Choose another --workdir"):
        pareto.run({**CONFIG, "epochs": 2}, dataset, RUNS, workdir)


def test_a_run_depends_on_nothing_before_it(workdir, dataset, tmp_path):
    pareto.run(CONFIG, dataset, RUNS[2:], tmp_path)
    (alone,) = result_lines.ResultLines(tmp_path / "results.jsonl").results
    after = result_lines.ResultLines(workdir / "results.jsonl").results[2]
    assert {**alone, "seconds": 0} == {**after, "seconds": 0}


def test_figures_and_table_are_written(workdir, tmp_path):
    pytest.importorskip("matplotlib")
    table = pareto.draw(workdir)
    assert (workdir / "table.md").read_text() == table + "\n"
    assert (workdir / "integer.png").stat().st_size > 0
    assert not (workdir / "float.png").exists()
    with pytest.raises(ValueError, match="without --draw_only"):
        pareto.draw(tmp_path)


def make_results():
    """Uniform formats gain 4 points from cost 1 to 2; the search 3 at 1.5."""
    for seed, luck in enumerate([0.0, 0.01, 0.02]):
        common = {"width": 1.0, "seed": seed, "space": "fliqs_l"}
        for name, cost, accuracy in (("INT4", 1.0, 0.8), ("INT5", 2.0, 0.84)):
            yield {
                **common,
                "method": "uniform",
                "budget": [name, 1.0],
                "cost": cost,
                "accuracy": accuracy + luck,
            }
        yield {
            **common,
            "method": "search",
            "budget": ["INT4", 1.5],
            "cost": 1.5,
            "accuracy": 0.85 + luck + 0.001 * seed,
        }
        yield {
            **common,
            "method": "float",
            "space": None,
            "budget": None,
            "accuracy": 0.9,
        }


def test_searched_formats_are_compared_at_equal_cost():
    table = pareto_table.render([*make_results()])
    assert "| 1 | FP32 | – | – | 90.0 ± 0.0 (3) | – | – |" in table
    # Half-way from 80 to 84 are 82, so 3 more, and 0.1 on average by seed.
    row = (
        "| 1 | FLIQS-L | 1.5 × INT4 | 1.5e+03 | 86.1 ± 1.1 (3) | +3.1* | yes |"
    )
    assert row in table
    # Dearer than the searched formats, and not better.
    assert "| uniform integer | INT5 | 2e+03 | 85.0 ± 1.0 (3) | – |  |" in table
    assert "| FLIQS-L | 1 | 1 | +3.10 | 0 | 1 |" in table


def test_series_hold_cost_accuracy_and_spread():
    series = pareto_table.series([*make_results()], "integer")
    assert list(series) == ["uniform integer", "FLIQS-L"]
    assert series["uniform integer"] == [
        pytest.approx((1000.0, 81.0, 1.0)),
        pytest.approx((2000.0, 85.0, 1.0)),
    ]
    assert pareto_table.series([*make_results()], "float") == {}


def test_frontier_is_what_no_cheaper_point_equals():
    costs = [(1.0, 80.0), (2.0, 79.0), (3.0, 80.0), (3.0, 85.0), (4.0, 84.0)]
    points = [
        pareto_table.Point("s", "integer", 1.0, ("f", 1.0), {0: c}, {0: a})
        for c, a in costs
    ]
    best = pareto_table.frontier(reversed(points))
    assert best == [points[0], points[3]]


@pytest.mark.parametrize("end", ["", '{"a": 3', '{"a": 3}'])
def test_a_line_cut_short_is_dropped(end, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1, "b": [2]}\n' + end)
    lines = result_lines.ResultLines(path)
    assert lines.find({"b": (2,)}) == {"a": 1, "b": [2]}
    assert lines.find({"a": 3}) is None
    # Of other versions than the line before, perhaps.
    lines.add({"a": 3, "b": (4,)})
    written = [json.loads(line) for line in path.read_text().splitlines()]
    new = {"a": 3, "b": [4], "versions": training.versions()}
    assert written == lines.results == [{"a": 1, "b": [2]}, new]


@pytest.mark.parametrize("line", ["[1]", "{"])
def test_a_file_of_something_else_is_refused(line, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(ValueError, match="line 2 of .* choose another file"):
        result_lines.ResultLines(path)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
