"""The log of a search, with both controllers."""

import importlib.util
import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras import search_logs

STEPS = 20


def search(folder, controller, log_every=3):
    x, y = examples()
    callback = fliqs_keras.FormatSearch(
        ("INT2", 4.0),
        data=(x, y),
        controller=controller,
        seed=0,
        log_dir=folder,
        log_every=log_every,
    )
    return train(callback, x, y)


def examples():
    y = np.arange(80) % 2
    noise = np.random.default_rng(0).normal(size=(80, 4))
    return (noise + y[:, None]).astype("float32"), y


def train(callback, x, y):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(hidden))
    model = fliqs_keras.apply(model, ["INT2", "INT8"])
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    fit = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[callback], **fit)
    return callback


@pytest.fixture(scope="module", params=["sensitivity", "reinforce"])
def logged(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    callback = search(folder, request.param)
    return request.param, folder, callback


def test_fixed_formats_are_logged(tmp_path):
    formats = {"hidden": "INT2", "head": "INT8"}
    fixed = fliqs_keras.FixedFormats(formats, log_dir=tmp_path, log_every=19)
    train(fixed, *examples())
    records = fliqs_keras.read_search_log(tmp_path)
    assert [record["step"] for record in records] == [0, 19]
    for record in records:
        assert record["phase"] == "settled" and record["formats"] == formats


@pytest.mark.parametrize("is_log", [True, False])
def test_an_earlier_log_is_replaced(is_log, tmp_path):
    if is_log:
        (tmp_path / "search.jsonl").write_text("{}\n")
    others = ["events.out.tfevents.1.of_others", "train/events.out.1.v2"]
    (tmp_path / "train").mkdir()
    for name in ["events.out.tfevents.1.host.2.3.v2", *others]:
        (tmp_path / name).write_text("")
    search_logs.SearchLog(tmp_path).close()
    assert (tmp_path / "search.jsonl").read_text() == ""
    assert all((tmp_path / name).exists() for name in others)
    earlier = tmp_path / "events.out.tfevents.1.host.2.3.v2"
    # Without a log they are not of one.
    assert earlier.exists() != is_log


def test_losses_are_those_of_each_batch(tmp_path):
    x, y = examples()
    x, y = x[:20], y[:20]
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="head")(inputs))
    model = fliqs_keras.apply(model, ["FP32"])
    model.compile(
        # Steps of no length.
        keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    fixed = fliqs_keras.FixedFormats(
        {"head": "FP32"}, log_dir=tmp_path, log_every=1
    )
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, callbacks=[fixed])
    logits = model.predict(x, verbose=0)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    losses = -log_p[np.arange(20), y]
    means = [losses[:8].mean(), losses[8:16].mean(), losses[16:].mean()]
    found = [r["loss"] for r in fliqs_keras.read_search_log(tmp_path)]
    np.testing.assert_allclose(found, 2 * means, rtol=1e-5)


def test_a_line_every_few_steps_and_the_last(logged):
    controller, folder, callback = logged
    records = fliqs_keras.read_search_log(folder)
    steps = [record["step"] for record in records]
    assert steps == [0, 3, 6, 9, 12, 15, 18, 19]
    for record in records:
        shown = callback.history[record["step"]]
        assert {name: record[name] for name in shown} == shown
        assert record["target"] == callback.target
        assert np.isfinite(record["loss"])
    phases = list(dict.fromkeys(record["phase"] for record in records))
    wanted = {
        "sensitivity": ["widest", "settled"],
        "reinforce": ["delay", "search", "settled"],
    }
    assert phases == wanted[controller]


def test_the_formats_logged_are_those_of_the_cost(logged):
    _, folder, callback = logged
    for record in fliqs_keras.read_search_log(folder):
        cost = fliqs_keras.BitOps()(callback.model, record["formats"])
        assert cost == pytest.approx(record["cost"])
    assert record["formats"] == {
        name: f.name for name, f in callback.assignment.items()
    }


def test_probabilities_are_those_of_a_policy(logged):
    controller, folder, _ = logged
    first, *_, last = fliqs_keras.read_search_log(folder)
    if controller == "sensitivity":
        assert "probabilities" not in first
        return
    even = {"INT2": 0.5, "INT8": 0.5}
    assert first["probabilities"] == {"hidden": even, "head": even}
    for row in last["probabilities"].values():
        assert sum(row.values()) == pytest.approx(1)
        assert row["INT2"] != 0.5


def test_without_a_folder_the_search_is_the_same(logged, tmp_path, monkeypatch):
    controller, _, callback = logged
    monkeypatch.chdir(tmp_path)
    plain = search(None, controller)
    assert plain.assignment == callback.assignment
    assert plain.history == callback.history
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="TensorBoard is not installed",
)
def test_events_have_clear_tags(logged):
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    controller, folder, _ = logged
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    tags = {"search/loss", "search/cost", "sample/hidden", "sample/head"}
    tags.add("sample/bits")
    if controller == "reinforce":
        tags |= {f"search/{n}" for n in ("entropy", "reward", "baseline")}
        tags |= {f"probabilities/{f}" for f in ("INT2", "INT8")}
        tags |= {
            f"probability/{layer}/{f}"
            for layer in ("hidden", "head")
            for f in ("INT2", "INT8")
        }
    assert set(events.Tags()["tensors"]) == tags
    records = fliqs_keras.read_search_log(folder)
    got = [
        float(tensor_util.make_ndarray(event.tensor_proto))
        for event in events.Tensors("search/cost")
    ]
    assert got == pytest.approx([record["cost"] for record in records])
    assert [e.step for e in events.Tensors("search/cost")] == [
        record["step"] for record in records
    ]


def test_lines_are_whole_while_the_search_runs(tmp_path):
    log = search_logs.SearchLog(tmp_path)
    record = {"step": 0, "formats": {"head": "INT4"}, "cost": 1.0}
    log.write(record)
    assert fliqs_keras.read_search_log(tmp_path) == [record]
    log.close()


@pytest.mark.parametrize(
    "text", ["3\n", "{}\n", '["step", "formats"]\n', '{"step": 1, "for']
)
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "search.jsonl").write_text(text)
    with pytest.raises(ValueError, match="Received: line 1 of"):
        fliqs_keras.read_search_log(tmp_path)


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"log_dir=\.\.\."):
        fliqs_keras.read_search_log(tmp_path)


def test_log_every_is_checked():
    with pytest.raises(ValueError, match="log_every=0"):
        fliqs_keras.FormatSearch(
            1.0, controller="reinforce", log_dir="x", log_every=0
        )


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
