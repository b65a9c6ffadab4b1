"""The benchmarks at tiny size: that they run, and what they report."""

import sys

import pytest

from benchmarks import networks, step_timing

CONFIG = {
    "network": "chain",
    "depth": 1,
    "jit_compile": False,
    "batch": 4,
    "steps": 4,
    "rounds": 2,
    "ways": ["float", "search of 2 formats"],
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


@pytest.mark.tensorflow
def test_memory_is_measured_in_processes():
    config = {**CONFIG, "ways": ["float"]}
    (row,) = step_timing.measure_memory(config)
    # More than an empty process, less than this machine has.
    assert 100 < row["peak_megabytes"] < 1e5


@pytest.mark.parametrize(
    "name, convolutions", [("chain", 6), ("residual", 21), ("mobilenet_v2", 52)]
)
def test_networks_are_of_the_depth_they_say(name, convolutions):
    layers = networks.build(name).layers
    names = [type(layer).__name__ for layer in layers]
    assert (
        names.count("Conv2D") + names.count("DepthwiseConv2D") == convolutions
    )


def test_sixteen_formats_are_sixteen():
    assert len(set(step_timing.SIXTEEN)) == 16


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
