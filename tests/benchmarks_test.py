"""The benchmarks at tiny size: that they run, and what they report."""

import ast
import dataclasses
import pathlib
import sys

import pytest

from benchmarks import (
    callback_time,
    growth,
    networks,
    search_time,
    step_timing,
)
from recipes import data

CONFIG = {
    "network": "chain",
    "depth": 1,
    "jit_compile": False,
    "batch": 4,
    "steps": 4,
    "rounds": 1,
    "ways": ["float", "search of 2 formats"],
}


ROOT = pathlib.Path(__file__).parent.parent
SOURCES = {
    path.stem: path.read_text()
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if "def main(" in path.read_text()
}


@pytest.mark.parametrize("name", SOURCES)
def test_all_flags_are_read_that_a_benchmark_takes(name):
    source = SOURCES[name]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            module = f"{node.module}.{alias.name}"
            if module.endswith("_flags"):
                # Those of data and of training, which give all of theirs.
                assert f"{alias.name}.settings()" in source
            elif node.module.endswith("_flags"):
                read = {a.name for a in node.names}
                assert read == defined_flags(node.module)
                assert f"{alias.name}.value" in source


def defined_flags(module):
    path = ROOT / f"{module.replace('.', '/')}.py"
    return {
        statement.targets[0].id
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Assign)
        and "DEFINE_" in ast.unparse(statement.value)
    }


def test_steps_are_timed():
    rows = step_timing.measure_time(CONFIG)
    assert [row["way"] for row in rows] == CONFIG["ways"]
    assert rows[0]["ratio"] == 1
    for row in rows:
        # What compiles takes longer than what is compiled.
        steps = CONFIG["steps"] * row["step_seconds"]
        assert 0 < steps < row["first_round_seconds"]
    assert "| float | 1 |" in step_timing.render(rows)


def test_steps_are_those_between_ends(monkeypatch):
    timer = step_timing.StepTimer()
    clocks = iter([10.0, 1.0, 13.0, 2.0, 14.5, 2.5])
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(step_timing.time, clock, lambda: next(clocks))
    for batch in range(3):
        timer.on_train_batch_end(batch)
    assert timer.seconds == [3.0, 1.5]
    assert timer.cpu_seconds == [1.0, 0.5]


def test_growth_is_measured_a_layer():
    (row,) = growth.measure([1], jit_compile=False, rounds=1)
    assert row["layers"] == 2
    assert row["added_step_seconds_a_layer"] < 1


@pytest.mark.tensorflow
def test_callbacks_are_timed():
    rows = callback_time.measure(decisions=2, steps=4)
    assert [row["part"] for row in rows] == ["set", "learn", "both"]
    assert all(0 < row["milliseconds"] < 1e3 for row in rows)


@pytest.mark.tensorflow
def test_whole_searches_are_timed():
    config = {
        "rounds": 1,
        "epochs": 1,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "jit_compile": False,
    }
    digits = data.load("digits")
    few = dataclasses.replace(
        digits, x_train=digits.x_train[:512], y_train=digits.y_train[:512]
    )
    row = search_time.measure("conv_net", few, config)
    assert row["rounds"] == 1
    assert row["float_cpu_seconds"] > 0
    # Of one round, whose ratios multiply.
    product = row["search / fixed"] * row["fixed / float"]
    assert row["search / float"] == pytest.approx(product)


def test_memory_is_measured_in_processes():
    config = {**CONFIG, "ways": ["float"]}
    (row,) = step_timing.measure_memory(config)
    # More than an empty process, less than this machine has.
    assert 100 < row["peak_megabytes"] < 1e5


def test_memory_is_that_of_the_median_process(monkeypatch):
    peaks = iter([100.0, 130.0, 120.0, 120.0, 110.0, 121.0])
    monkeypatch.setattr(step_timing, "_peak_in_process", lambda *_: next(peaks))
    _, row = step_timing.measure_memory({**CONFIG, "rounds": 3})
    # Medians of 100, 120, 110 and of 130, 120, 121.
    assert row["ratio"] == pytest.approx(1.1)
    assert row["least_megabytes"] == 120
    assert row["largest_megabytes"] == 130


def test_settings_of_memory_are_part_of_the_environment(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert step_timing.environment()["MALLOC_ARENA_MAX"] == "1"


@pytest.mark.parametrize(
    "name, convolutions",
    [("chain", 6), ("residual", 21), ("mobilenet_v2", 52), ("resnet50", 53)],
)
def test_networks_are_of_the_depth_they_say(name, convolutions):
    layers = networks.build(name).layers
    names = [type(layer).__name__ for layer in layers]
    assert (
        names.count("Conv2D") + names.count("DepthwiseConv2D") == convolutions
    )


@pytest.mark.tensorflow
def test_sizes_are_searched_where_there_are_sizes():
    (sizes,) = set(step_timing.ways_of("mobile_sizes")) - set(
        step_timing.ways_of("chain")
    )
    config = {**CONFIG, "network": "mobile_sizes", "ways": [sizes]}
    (row,) = step_timing.measure_time(config)
    assert row["way"] == sizes and row["step_seconds"] > 0


def test_sixteen_formats_are_sixteen():
    assert len(set(step_timing.SIXTEEN)) == 16


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
