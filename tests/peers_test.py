"""The comparisons with peers at tiny size."""

import json
import sys

import pytest
from absl import app, flags
from absl.testing import flagsaver

from benchmarks import (
    networks,
    peer_environments,
    peer_networks,
    peer_timing,
    peers,
    records,
    step_timing,
)

CONFIG = {
    "environments": None,
    "peers": ["fliqs_keras", "keras"],
    "depth": 1,
    "batch": 4,
    "steps": 4,
    "rounds": 1,
    "jit_compile": False,
}


@pytest.mark.slow
@pytest.mark.tensorflow
def test_ours_and_the_floor_are_timed():
    rows = peer_timing.measure(CONFIG)
    ways = [
        (peer, way)
        for peer in CONFIG["peers"]
        for way in peer_environments.PEERS[peer].ways
    ]
    assert [(r["peer"], r["way"], r["jit_compile"]) for r in rows] == [
        (*way, False) for way in ways
    ]
    for row in rows:
        assert "error" not in row
        # With one round, medians of ratios are ratios of medians.
        for time in ("", "cpu_"):
            seconds = row[f"{time}ratio"] * row[f"float_step_{time}seconds"]
            assert seconds == pytest.approx(row[f"step_{time}seconds"])


def test_what_fails_or_is_faster_is_said():
    def row(peer, way, jit_compile, ratio):
        quartiles = [ratio - 0.1, ratio + 0.1]
        times = {"cpu_ratio": ratio, "cpu_quartiles": quartiles}
        return {"peer": peer, "way": way, "jit_compile": jit_compile, **times}

    rows = [
        row("fliqs_keras", "fixed INT8", False, 1.2),
        row("fliqs_keras", "fixed INT8", True, 1.0),
        row("keras", "op", False, 0.9),
        {
            "peer": "keras",
            "way": "op",
            "jit_compile": True,
            "error": "TypeError: no",
        },
    ]
    text = peer_timing.render(rows)
    assert "| keras | op | 0.90 (0.80 to 1.00) | fails (TypeError) |" in text
    assert (
        "Without XLA, faster than our fixed INT8: keras (op), 0.75 of its "
        "ratio.\nWith XLA, faster than our fixed INT8: none."
    ) in text


def test_peers_train_the_network_that_we_train():
    ours = networks.build("chain", 3)
    theirs = peer_networks.build("keras", 3, quantized=False)
    assert theirs.count_params() == ours.count_params()
    assert [type(x) for x in theirs.layers] == [type(x) for x in ours.layers]


@pytest.mark.tensorflow
def test_the_floor_quantizes():
    model = peer_networks.build("keras", 1, quantized=True)
    layer = model.layers[1]
    kernel = layer.kernel.numpy()
    image = 0.01 * kernel[:, :, :, :1].transpose(3, 0, 1, 2)
    # Inputs below half a step of 6 / 127 are rounded to zero.
    assert abs(image).max() < 3 / 127
    assert not layer(image).numpy().any()


def test_missing_environments_are_said(tmp_path):
    with pytest.raises(ValueError, match="install_peers"):
        peer_environments.python_of("tfmot", str(tmp_path))


def test_records_replace_what_was_there(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- peers -->\nold\n<!-- /peers -->\nb\n")
    records.write("peers", {"rows": [1]}, "new", tmp_path)
    expected = "a\n<!-- peers -->\nnew\n<!-- /peers -->\nb\n"
    assert readme.read_text() == expected
    assert json.loads((tmp_path / "peers.json").read_text()) == {"rows": [1]}


def test_a_readme_without_a_place_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("<!-- peers -->\n")
    with pytest.raises(ValueError, match="<!-- /peers -->"):
        records.write("peers", {}, "new", tmp_path)
    assert not (tmp_path / "peers.json").exists()


@pytest.fixture
def call(monkeypatch):
    """Runs a benchmark; returns what it would have written down."""

    def run(benchmark, *arguments):
        written = []
        monkeypatch.setattr(
            records, "write", lambda name, result, text: written.append(result)
        )
        with flagsaver.flagsaver():
            benchmark.main(flags.FLAGS([benchmark.__name__, *arguments]))
        return written

    return run


def test_peers_are_recorded_where_all_are_timed(call, monkeypatch):
    monkeypatch.setattr(peer_timing, "measure", lambda config: [])
    assert call(peers) == call(peers, "--peers=keras") == []
    with pytest.raises(app.UsageError, match="without fliqs_keras, tfmot"):
        call(peers, "--peers=keras,hgq2,qkeras", "--record")
    *_, result = call(peers, "--record")
    assert result["config"]["peers"] == [*peer_environments.PEERS]
    assert result["environment"] == step_timing.environment()


@pytest.mark.tensorflow
def test_trials_are_recorded_where_it_is_asked(call, monkeypatch):
    pytest.importorskip("keras_tuner")
    from benchmarks import trial_search, trials

    sizes = []

    def compare(dataset, config, seed):
        sizes.append(len(dataset.x_train))
        return {}

    monkeypatch.setattr(trial_search, "compare", compare)
    monkeypatch.setattr(trial_search, "render", lambda rows: "")
    assert call(trials) == []
    *_, result = call(trials, "--record", "--repetitions=1")
    # Fewer than --examples are there.
    assert result["examples"] == sizes[-1] == 1437
    assert result["environment"] == step_timing.environment()


@pytest.mark.slow
@pytest.mark.tensorflow
def test_trials_are_compared_with_a_search():
    pytest.importorskip("keras_tuner")
    from benchmarks import trial_search
    from recipes import data

    config = {
        "network": "conv_net",
        "epochs": 2,
        "trial_epochs": 1,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "formats": ("INT4", "INT8"),
        "target": ("INT4", 3.0),
    }
    dataset = trial_search.take(data.load("digits"), 384)
    row = trial_search.compare(dataset, config, seed=0)
    assert row["search"]["cost"] <= 1
    assert row["search"]["cpu_seconds"] > 0
    trials = row["trials"]
    assert 0 <= trials["within_target"] <= trials["in_time"]
    if trials["within_target"]:
        assert trials["cost"] <= 1
        assert 0 < trials["accuracy"] < 1
    assert len(trial_search.render([row]).splitlines()) == 3


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
