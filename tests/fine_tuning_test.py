"""A search on a trained network, beside searches from scratch."""

import dataclasses
import json
import sys

import pytest

from recipes import data, fine_tuning, result_lines

# Recipes run on TensorFlow.
pytestmark = pytest.mark.tensorflow

CONFIG = {
    "dataset": "digits",
    "network": "conv_net",
    "epochs": 1,
    "first_epochs": 4,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "rate_factor": 1 / 3,
}


@pytest.mark.slow
def test_a_trained_network_begins_with_what_it_has_learned(tmp_path):
    digits = data.load("digits")
    digits = dataclasses.replace(
        digits, x_train=digits.x_train[:512], y_train=digits.y_train[:512]
    )
    comparison = fine_tuning.Comparison(CONFIG, digits, tmp_path)
    comparison.do("float", 0)
    # Another process goes on from the weights of the float network.
    again = fine_tuning.Comparison(CONFIG, digits, tmp_path)
    for method in ("float", "fine_tuned", "scratch_short"):
        again.do(method, 0)
    path = tmp_path / "results.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()]
    found = {r["method"]: r["accuracy"] for r in results}
    assert len(results) == len(found) == 3
    assert found["fine_tuned"] > found["scratch_short"] + 0.1
    with pytest.raises(ValueError, match="Choose another --workdir"):
        fine_tuning.Comparison({**CONFIG, "epochs": 2}, digits, tmp_path)


def test_table_compares_seed_by_seed(tmp_path):
    lines = result_lines.ResultLines(tmp_path / "results.jsonl")
    for seed, luck in enumerate([0.0, 0.02, 0.04]):
        for method, accuracy in (("fine_tuned", 0.8), ("scratch_long", 0.81)):
            lines.add(
                {
                    "method": method,
                    "seed": seed,
                    "accuracy": accuracy + luck + 0.001 * seed * len(method),
                }
            )
    # Less 1.0, 1.2 and 1.4 points.
    assert fine_tuning.render(lines.results).splitlines()[2:] == [
        "| searched from there | 83.0 ± 3.0 (3) | – |",
        "| searched from scratch, as long as both | 84.2 ± 3.2 (3) | -1.2* |",
    ]


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
