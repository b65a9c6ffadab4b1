"""Figures show the numbers that they are given."""

import ast
import io
import pathlib
import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras import clipping, paper_results, plots

RECORDS = [
    {
        "step": step,
        "phase": "search" if step < 20 else "settled",
        "loss": 2.0 - step / 30,
        "cost": 10.0 - step / 10,
        "target": 8.0,
        "entropy": 0.6 - step / 100,
        "reward": -1.0 + step / 100,
        "baseline": -1.0,
        "formats": {"conv": "INT4", "head": "INT8"},
        "probabilities": {
            "conv": {"INT4": 0.5 + step / 100, "INT8": 0.5 - step / 100},
            "head": {"INT8": 1.0},
        },
    }
    for step in (0, 10, 20, 30)
]


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    model = fliqs_keras.apply(model, ["INT4", "E4M3"])
    fliqs_keras.FormatAssignment({"hidden": "INT4", "head": "E4M3"}).apply_to(
        model
    )
    return model


def needs_matplotlib():
    return pytest.importorskip("matplotlib")


def test_no_module_imports_matplotlib_when_it_is_imported():
    # Keras does where it is there, so sys.modules would not tell.
    folder = pathlib.Path(fliqs_keras.__file__).parent
    for path in folder.rglob("*.py"):
        for statement in ast.parse(path.read_text()).body:
            is_import = isinstance(statement, ast.Import | ast.ImportFrom)
            assert not (is_import and "matplotlib" in ast.unparse(statement))


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"fliqs-keras\[plots\]"):
        plots.search_curves(RECORDS)


def test_format_map_has_a_bar_a_layer(model):
    needs_matplotlib()
    weights, activations = plots.format_map(model).axes
    for axis in (weights, activations):
        assert [bar.get_width() for bar in axis.patches] == [4, 8]
        colors = {bar.get_facecolor() for bar in axis.patches}
        assert len(colors) == 2
    names = [label.get_text() for label in weights.get_yticklabels()]
    assert names == ["hidden", "head"]


def test_policy_has_a_heat_map_a_format():
    needs_matplotlib()
    int4, int8, _ = plots.policy(RECORDS).axes
    (mesh,) = int4.collections
    np.testing.assert_allclose(mesh.get_array()[0], [0.5, 0.6, 0.7, 0.8])
    # The head has no INT4.
    assert np.ma.getmaskarray(mesh.get_array())[1].all()
    (mesh,) = int8.collections
    np.testing.assert_allclose(mesh.get_array()[1], 1)


def test_curves_show_what_the_log_has():
    needs_matplotlib()
    figure = plots.search_curves(RECORDS)
    shown = [axis.get_ylabel() for axis in figure.axes]
    assert shown == ["loss", "cost", "entropy", "reward"]
    cost = figure.axes[1].lines
    np.testing.assert_allclose(cost[0].get_ydata(), [10, 9, 8, 7])
    np.testing.assert_allclose(cost[1].get_ydata(), 8)
    # The new phase begins at step 20.
    assert cost[2].get_xdata()[0] == 20
    plain = [{k: r[k] for k in ("step", "loss", "cost")} for r in RECORDS]
    assert len(plots.search_curves(plain).axes) == 2


def test_accuracy_against_cost_stands_before_the_paper():
    needs_matplotlib()
    series = {"searched": [(40.0, 70.0), (30.0, 69.0)], "none yet": []}
    (axis,) = plots.accuracy_against_cost(series, paper_model="resnet18").axes
    assert axis.get_xscale() == "log"
    *faint, curve, _ = axis.lines
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in faint]
    assert points == [*paper_results.PAPER_RESULTS["resnet18"].values()]
    np.testing.assert_array_equal(curve.get_xdata(), [30, 40])
    (axis,) = plots.accuracy_against_cost(series).axes
    assert axis.get_legend_handles_labels()[1] == ["searched"]


def test_frontiers_join_the_best_points_and_bars_show_spreads():
    needs_matplotlib()
    series = {"uniform": [(2.0, 70.0, 1.0), (1.0, 71.0, 0.5), (3.0, 72.0, 0.0)]}
    (axis,) = plots.accuracy_against_cost(
        series, frontiers=True, levels={"FP32": 75.0}
    ).axes
    level, curve, dots = axis.lines
    np.testing.assert_array_equal(level.get_ydata(), 75)
    # The dearer 70 is below the 71.
    np.testing.assert_array_equal(curve.get_xdata(), [1, 3])
    np.testing.assert_array_equal(dots.get_xdata(), [1, 2, 3])
    (bars,) = axis.collections
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [[70.5, 71.5], [69, 71], [72, 72]]


def test_sensitivities_show_means_and_errors():
    needs_matplotlib()
    estimates = {
        "conv": {"INT4": (0.02, 0.01), "INT8": (0.0, 0.0)},
        "head": {"INT8": (0.0, 0.0)},
    }
    (axis,) = plots.sensitivities(estimates).axes
    int4, int8 = axis.containers
    assert int4.lines[0].get_xdata().tolist() == [0.02]
    assert int8.lines[0].get_ydata().tolist() == [0, 1]


def test_switching_by_hand():
    # INT2 has the codes -1, 0 and 1: at its best both ones are kept. INT3 has
    # three steps of 1/3 there and keeps them, too.
    found = clipping.measure_switching(
        np.array([1.0, -1.0, 0]), ["INT2", "E4M3"]
    )
    np.testing.assert_allclose(found.thresholds, 1)
    np.testing.assert_allclose(found.errors, 0, atol=1e-6)


def test_switching_is_dearest_where_a_bitwidth_is_small():
    values = np.random.default_rng(0).normal(size=4000)
    names = ["INT2", "INT3", "INT4", "INT8"]
    found = clipping.measure_switching(values, names)
    np.testing.assert_array_equal(found.errors, found.errors.T)
    np.testing.assert_array_equal(np.diagonal(found.errors), 0)
    # The least squared error of three levels on a normal: 0.19.
    assert found.errors[0, 3] == pytest.approx(0.19, abs=0.01)
    assert (np.diff(found.errors[:3, 3]) < 0).all()
    assert (np.diff(found.thresholds) > 0).all()


def test_switching_figures_show_what_is_measured():
    needs_matplotlib()
    values = np.random.default_rng(0).normal(size=1000)
    names = ["INT3", "INT8", "E2M1"]
    found = clipping.measure_switching(values, names)
    axis = plots.switching_error(values, names).axes[0]
    shown = axis.images[0].get_array()
    assert shown[0, 1] == pytest.approx(np.log10(found.errors[0, 1]))
    (axis,) = plots.best_thresholds(values, names).axes
    integer, floats = axis.lines
    np.testing.assert_allclose(integer.get_ydata(), found.thresholds[:2])
    np.testing.assert_allclose(floats.get_ydata(), found.thresholds[2:])


def test_dollars_in_names_begin_no_formula():
    needs_matplotlib()
    name = "a$_{$"
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name=name)(inputs))
    records = [{**RECORDS[0], "probabilities": {name: {"INT4": 1.0}}}] * 2
    points = [(1.0, 2.0)]
    for figure in (
        plots.format_map(fliqs_keras.apply(model, "INT4")),
        plots.policy(records),
        plots.sensitivities({name: {"INT4": (0.0, 0.1)}}),
        plots.accuracy_against_cost({name: points}, levels={name: 2.0}),
    ):
        file = io.StringIO()
        figure.savefig(file, format="svg")
        # The text that was drawn, in a comment beside its outlines.
        assert f"<!-- {name}" in file.getvalue()


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plots.policy([{"step": 0}]), "reinforce"),
        (lambda: plots.search_curves([]), "no records"),
        (lambda: plots.sensitivities(None), "Received: None"),
        (lambda: plots.accuracy_against_cost({"a": [(0, 1)]}), r"\[0\]"),
        (
            lambda: plots.accuracy_against_cost({"a": [(1, 2), (3, 4, 5)]}),
            r"\(3, 4, 5\)\] in 'a'",
        ),
        (
            lambda: plots.accuracy_against_cost({}, paper_model="vgg"),
            "paper_model='vgg'",
        ),
        (lambda: plots.best_thresholds(np.ones(3), ["BF16"]), "BF16"),
        (lambda: plots.switching_error(np.zeros(3), ["INT4"]), "all zero"),
    ],
    ids=[
        *("policy", "curves", "sensitivities", "cost", "lengths", "paper"),
        *("bf16", "zeros"),
    ],
)
def test_wrong_input_is_named(draw, message):
    needs_matplotlib()
    with pytest.raises(ValueError, match=message):
        draw()


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
