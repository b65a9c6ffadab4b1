"""What formats add to the loss, measured on digits."""

import json
import sys

import pytest

import fliqs_keras
from recipes import models, sensitivity

# Recipes run on TensorFlow.
pytestmark = pytest.mark.tensorflow

CONFIG = {
    "dataset": "digits",
    "idx_folder": None,
    "model": "conv_net",
    "measured_formats": ["INT2", "INT8"],
    "epochs": 3,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "seed": 0,
    "verbose": 0,
}


def test_narrow_formats_add_to_the_loss(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "float.keras"
    models.build("conv_net", (8, 8, 1), 10).save(path)
    workdir = tmp_path / "run"
    estimates = sensitivity.run({**CONFIG, "model": str(path)}, workdir)
    assert list(estimates) == ["stem", "conv_1", "conv_2", "head"]
    for row in estimates.values():
        assert row["INT8"] == (0, 0)
        assert row["INT2"].mean > row["INT2"].standard_error > 0
    written = json.loads((workdir / "sensitivity.json").read_text())
    stem = estimates["stem"]["INT2"]
    assert written["stem"]["INT2"] == stem._asdict()
    assert (workdir / "sensitivity.png").stat().st_size > 0
    page = (workdir / "sensitivity.md").read_text()
    assert f"| stem | {1000 * stem.mean:.3g} ± " in page
    # All but the last step trains in the widest formats.
    *before, last = fliqs_keras.read_search_log(workdir)
    assert {record["phase"] for record in before} == {"widest"}
    assert {*last["formats"].values()} == {"INT8"}
    assert last["phase"] == "settled" and last["step"] == 3 * 23 - 1
    with pytest.raises(ValueError, match="Choose another --workdir"):
        sensitivity.run({**CONFIG, "seed": 1}, workdir)


@pytest.mark.parametrize("order", [1, -1])
def test_table_shows_the_most_sensitive_layer_first(order):
    def row(mean, error):
        return dict([("INT2", (mean, error)), ("INT8", (0.0, 0.0))][::order])

    table = sensitivity.render(
        {"stem": row(0.0012, 0.0001), "head": row(0.25, 0.01)}
    )
    assert table.splitlines()[2:] == [
        f"| layer | {' | '.join(['INT2', 'INT8'][::order])} |",
        "|---|---|---|",
        f"| head | {' | '.join(['250 ± 10', '0'][::order])} |",
        f"| stem | {' | '.join(['1.2 ± 0.1', '0'][::order])} |",
    ]


def test_one_step_is_refused_before_it_trains(tmp_path):
    one = {**CONFIG, "epochs": 1, "batch_size": 1437}
    with pytest.raises(ValueError, match="two steps.*Received: 1, of 1 epo"):
        sensitivity.run(one, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
