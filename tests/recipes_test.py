"""The search recipe at tiny size."""

import dataclasses
import importlib
import json
import pkgutil
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import benchmarks
import fliqs_keras
import recipes
from recipes import (
    clipping_study,
    data,
    evaluate,
    export,
    export_study,
    export_table,
    figures,
    models,
    screenshots,
    search,
    train,
)

CONFIG = {
    "dataset": "digits",
    "idx_folder": None,
    "model": "conv_net",
    "formats": ["INT4", "INT8"],
    "target_format": "INT4",
    "target_factor": 1.5,
    "controller": "sensitivity",
    "epochs": 2,
    "batch_size": 128,
    "learning_rate": 3e-3,
    "seed": 0,
    "verbose": 0,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    search.run(CONFIG, workdir)
    return workdir


def test_run_writes_its_results(workdir):
    report = json.loads((workdir / "report.json").read_text())
    assert report["within_target"]
    assert report["agreement"] >= 0.995
    assert abs(report["accuracy_tflite"] - report["accuracy_keras"]) <= 0.005
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"] == CONFIG
    assert config["versions"]["keras"] == keras.version()
    model = keras.saving.load_model(workdir / "model.keras")
    assignment = fliqs_keras.FormatAssignment.from_json(
        workdir / "assignment.json"
    )
    assert fliqs_keras.FormatAssignment.from_model(model) == assignment
    assert (workdir / "model.tflite").stat().st_size == report["file_bytes"]
    page = (workdir / "report.html").read_text()
    assert f"{report['accuracy_tflite']:.4g}" in page
    last = fliqs_keras.read_search_log(workdir)[-1]
    assert last["cost"] == pytest.approx(report["cost"])


def test_folder_of_another_configuration_is_refused(workdir):
    before = (workdir / "report.json").read_text()
    with pytest.raises(ValueError, match="Choose another --workdir"):
        search.run({**CONFIG, "seed": 1}, workdir)
    assert (workdir / "report.json").read_text() == before


def test_evaluate_finds_what_the_search_reported(workdir):
    report = json.loads((workdir / "report.json").read_text())
    found = evaluate.run(workdir, data.load("digits"))
    assert found == {name: report[name] for name in found}


def test_evaluate_names_what_does_not_fit(workdir, tmp_path):
    digits = data.load("digits")
    with pytest.raises(ValueError, match="Expected model.keras in"):
        evaluate.run(tmp_path, digits)
    wide = dataclasses.replace(digits, x_test=digits.x_test[:, :, :4])
    with pytest.raises(ValueError, match="Choose the --dataset"):
        evaluate.run(workdir, wide)


def test_figures(workdir, tmp_path):
    pytest.importorskip("matplotlib")
    paths = figures.run(workdir, "svg")
    names = {"formats", "search", "switching_error", "best_thresholds"}
    assert {path.stem for path in paths} == names
    assert all("<svg" in path.read_text() for path in paths)
    with pytest.raises(ValueError, match="Expected model.keras in"):
        figures.run(tmp_path, "svg")


@pytest.mark.slow
def test_a_network_of_integer_tensors_is_exported_with_integer_ends(tmp_path):
    config = {**CONFIG, "assignment": "INT8", "every_tensor": "INT8"}
    train.run({**config, "epochs": 1, "batch_size": 512}, tmp_path)
    options = {"mode": "integer", "integer_io": True}
    export.run(tmp_path, data.load("digits"), **options)
    (image,) = Interpreter(str(tmp_path / "model.tflite")).get_input_details()
    assert image["dtype"] == np.int8


def test_screenshots_need_a_report_and_a_browser(workdir, tmp_path):
    with pytest.raises(ValueError, match="recipes.search --workdir"):
        screenshots.run(tmp_path, tmp_path, "chromium")
    with pytest.raises(ValueError, match="--browser=no-such-browser"):
        screenshots.run(workdir, tmp_path, "no-such-browser")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", models.MODELS)
def test_models_are_quantized_throughout(name):
    model = models.build(name, (8, 8, 1), 10)
    assignment = fliqs_keras.FormatAssignment.from_model(
        fliqs_keras.apply(model, "INT8")
    )
    weights = [w.path.split("/")[0] for w in model.trainable_weights]
    kernels = {n for n in weights if not n.endswith(("norm", "positions"))}
    assert set(assignment) == kernels


def test_digits_are_split_without_overlap():
    digits = data.load("digits")
    assert len(digits.x_train) + len(digits.x_test) == 1797
    assert digits.x_train.max() == 1.0
    assert digits.x_train.shape[1:] == (8, 8, 1)


@pytest.mark.parametrize("load", [data.load, lambda n: models.build(n, (), 1)])
def test_unknown_names_are_refused(load):
    with pytest.raises(ValueError, match="Received: 'mystery'"):
        load("mystery")


def test_export_table():
    cells = {("integer", "INT8"): export_table.export_all("INT8", "integer")}
    (row,) = cells.values()
    kernels = {kind: cell.kernels for kind, cell in row.items()}
    assert kernels["Conv2D grouped"] == kernels["Dense"] == ("integer",)
    assert kernels["Conv3D"] == ("dequantize",)
    # One of 254 steps, but for rounding.
    assert max(cell.difference for cell in row.values()) <= 1.1 / 254 * 2
    assert "| Conv2D 1x1 | **INT8** " in export_table.render(cells)


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("float")
    train.run({**TRAINING, "model": "conv_net", "assignment": None}, folder)
    return folder


TRAINING = {
    "dataset": "digits",
    "idx_folder": None,
    "epochs": 2,
    "batch_size": 128,
    "learning_rate": 3e-3,
    "seed": 0,
    "verbose": 0,
}


def test_a_trained_network_is_searched_on(float_folder, tmp_path):
    path = float_folder / "model.keras"
    report = search.run({**CONFIG, "model": str(path), "epochs": 1}, tmp_path)
    before = json.loads((float_folder / "report.json").read_text())
    # Four layers in INT4 and INT8 lose little of what was learned.
    assert report["accuracy_keras"] > before["accuracy"] - 0.1
    assert report["within_target"]


def test_fixed_formats_are_trained_and_exported(float_folder, tmp_path):
    config = {
        **TRAINING,
        "epochs": 1,
        "model": str(float_folder / "model.keras"),
        "assignment": "INT8",
    }
    report = train.run(config, tmp_path)
    assert report["cost_unit"] == "GBOPs" and report["accuracy"] > 0.5
    digits = data.load("digits")
    exported = export.run(tmp_path, digits, "onnx")
    assert exported.verification.agrees
    assert (tmp_path / "model.onnx").is_file()
    again = {**config, "assignment": str(tmp_path / "assignment.json")}
    with pytest.raises(ValueError, match="Choose another --workdir"):
        train.run(again, tmp_path)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: models.load("none.keras", (8, 8, 1), 10), "not there"),
        (lambda p: models.load(str(p), (9, 9, 1), 10), r"\(8, 8, 1\)"),
        (lambda p: export.run(p.parent / "none", None), "Received: none"),
        (
            lambda p: train.run(
                {**TRAINING, "model": str(p), "assignment": "none.json"},
                p.parent / "other",
            ),
            "that is there",
        ),
    ],
    ids=["no_model", "other_shape", "nothing_to_export", "no_assignment"],
)
def test_what_is_not_there_is_named(call, message, float_folder):
    with pytest.raises(ValueError, match=message):
        call(float_folder / "model.keras")


def test_no_flag_is_defined_twice():
    for package in (recipes, benchmarks):
        prefix = f"{package.__name__}."
        for module in pkgutil.iter_modules(package.__path__, prefix):
            importlib.import_module(module.name)


FIELDS = ("x_train", "y_train", "x_test", "y_test")


def test_export_study(monkeypatch):
    monkeypatch.setattr(export_study, "ASSIGNMENTS", {"INT8": ["INT8"]})
    digits = data.load("digits")
    few = {name: getattr(digits, name)[:128] for name in FIELDS}
    monkeypatch.setattr(
        export_study.data,
        "load",
        lambda *_: dataclasses.replace(digits, **few),
    )
    config = {
        "dataset": "digits",
        "idx_folder": None,
        "network": "depthwise_net",
    }
    rows = export_study.run(
        {**config, "float_epochs": 1, "quantized_epochs": 1}
    )
    assert [(row["mode"], row["storage"]) for row in rows] == [
        ("dequantize", "compact"),
        ("integer", "compact"),
        ("integer", "fast"),
    ]
    assert [row["integer kernels"] for row in rows] == [0, 6, 6]
    assert rows[0]["same prediction"] >= 0.99
    assert "| INT8 | integer | fast |" in export_study.render(rows)


def test_clipping_study():
    keras.utils.set_random_seed(0)
    model = models.build("conv_net", (8, 8, 1), 10)
    clipping = clipping_study.measure(model)
    np.testing.assert_allclose(np.diagonal(clipping.errors), 1)
    # Each format's own thresholds are the best among those it can take, and
    # rise with its bits, up to the largest magnitude.
    assert clipping.errors.min() > 0.999
    assert (np.diff(clipping.thresholds) >= 0).all()
    # INT2 suffers most from those of INT8.
    assert clipping.errors[0, -1] == clipping.errors[0].max() > 1.2
    assert "| INT8 |" in clipping_study.render(clipping)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
