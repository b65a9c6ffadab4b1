"""The networks of the size of ImageNet: names, widths, weights, the table.

    python -m pytest -n0 -m full_size tests/paper_models_test.py

takes each at its full size from `apply` to a file, in about an hour.
"""

import json
import math
import sys

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from recipes import deit, model_checks, model_table, models, paper_models


@pytest.mark.parametrize(
    "name, is_known",
    [
        ("resnet18", True),
        ("resnet50_0.25", True),
        ("mobilenet_v2_1.4", True),
        ("deit_256", True),
        ("deit", False),
        ("efficientnet_b0_0.5", False),
        ("efficientnet_b9", False),
        ("resnet18_0", False),
        ("resnet18_wide", False),
    ],
)
def test_names(name, is_known):
    assert paper_models.is_name(name) == is_known
    assert models.is_name(name) == is_known


# Trainable parameters as torchvision and timm count them. ResNet-18 has the
# projection of the first stage more, and DeiT one token and its position.
@pytest.mark.parametrize(
    "name, parameters",
    [
        ("resnet18", 11_689_512 + 64 * 64 + 2 * 64),
        ("resnet50", 25_557_032),
        ("deit_tiny", 5_717_416 + 2 * 192),
    ],
)
def test_parameters(name, parameters):
    pytest.importorskip("keras_hub")
    model = paper_models.build(name)
    assert (
        sum(math.prod(w.shape) for w in model.trainable_weights) == parameters
    )
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize("name", ["resnet50_0.25", "deit_64"])
def test_width_counts(name):
    pytest.importorskip("keras_hub")
    model = models.load(name, (32, 32, 3), 5)
    # The features that are classified: 2048 / 4, and the hidden size.
    features = {"resnet50_0.25": 512, "deit_64": 64}[name]
    assert model.get_layer("head").kernel.shape == (features, 5)


def test_images_in_zero_to_one_reach_the_range_of_the_network():
    model = paper_models.build("mobilenet_v2_0.35", (32, 32, 3), 5)
    assert model.input_shape == (None, 32, 32, 3)
    rescaling = next(
        x for x in model.layers if isinstance(x, keras.layers.Rescaling)
    )
    np.testing.assert_allclose(rescaling(np.array([0.0, 1.0])), [-1, 1])


def test_weights_of_a_hub_model_are_loaded(tmp_path, monkeypatch):
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.DeiTBackbone(
        image_shape=(32, 32, 3),
        patch_size=16,
        num_layers=12,
        num_heads=1,
        hidden_dim=64,
        intermediate_dim=256,
    )
    trained = hub.models.DeiTImageClassifier(backbone, num_classes=5)
    trained.save_to_preset(tmp_path)
    monkeypatch.setitem(deit.PRESETS, 64, str(tmp_path))
    model = paper_models.build("deit_64", (32, 32, 3), 5, pretrained=True)
    image = np.random.default_rng(0).random((1, 32, 32, 3), "float32")
    normalized = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(
        model(image), trained(normalized.astype("float32")), rtol=1e-4
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: paper_models.build("vgg"), "Received: 'vgg'"),
        (lambda: paper_models.build("deit_100"), "multiple of 64"),
        (
            lambda: paper_models.build("resnet18", pretrained=True),
            "Received: 'resnet18'.*.keras",
        ),
        (
            lambda: paper_models.build("deit_64", pretrained=True),
            r"\[192, 384, 768\]",
        ),
        (lambda: models.load("conv_net", (8, 8, 1), 2, True), "--pretrained"),
    ],
    ids=["name", "hidden_size", "no_weights", "no_preset", "small_network"],
)
def test_errors(call, message):
    pytest.importorskip("keras_hub")
    with pytest.raises(ValueError, match=message):
        call()


def check_all(name, input_shape=None):
    result = model_checks.check(name, input_shape)
    assert not result["left_in_float"]
    assert result["agrees"]
    assert np.isfinite(result["loss"]) and result["output_range"] > 0.1
    return result


@pytest.mark.slow
@pytest.mark.tensorflow
def test_check_and_table():
    name, shape = "resnet18_0.25", (32, 32, 3)
    check = check_all(name, shape)
    costs = model_checks.measure_costs(name, shape)
    # The stem: 16 × 16 outputs of 7 · 7 · 3 inputs in 16 filters, and so on
    # at a quarter of each width, two blocks and a projection a stage.
    macs = 16**2 * 49 * 3 * 16
    for size, filters in ((8, 16), (4, 32), (2, 64), (1, 128)):
        before = max(filters // 2, 16)
        macs += size**2 * filters * (10 * before + 27 * filters)
    macs += 128 * 1000
    assert costs["gmacs"] == pytest.approx(macs / 1e9)
    assert costs["gbops"]["INT4"] == pytest.approx(16 * macs / 1e9)
    page = model_table.render(
        {"resnet18": costs, "deit_tiny": {"failed": "x"}}, {"resnet18": check}
    )
    assert "29.23 / 116.9 / 467.7" in page
    assert "| ok |" in page and "| **x** |" in page
    assert 0.1 < check["peak_megabytes"] / 1e3 < 20
    assert "Not run yet: deit_tiny." in page


def test_table_measures_what_is_not_yet_measured_cheapest_first(
    tmp_path, monkeypatch
):
    gmacs = {name: -i for i, name in enumerate(model_table.NETWORKS)}
    done, page = [], tmp_path / "models.md"

    def measure(what, name, folder):
        if done:
            # What came before is in both tables already.
            assert page.read_text().count(f"| {done[-1]} |") == 2
        done.append(name)
        (folder / f"{name}.{what}.json").write_text('{"failed": "x"}')

    monkeypatch.setattr(model_table, "measure", measure)
    for name in model_table.NETWORKS:
        costs = {"failed": "x", "gmacs": gmacs[name]}
        (tmp_path / f"{name}.costs.json").write_text(json.dumps(costs))
    (tmp_path / "deit_small.check.json").write_text('{"failed": "x"}')
    with flagsaver.flagsaver():
        flags.FLAGS(["x", f"--measurements={tmp_path}", f"--page={page}"])
        model_table.main([])
    wanted = sorted({*gmacs} - {"deit_small"}, key=gmacs.get)
    assert done == wanted


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", model_table.NETWORKS)
def test_full_size(name):
    check_all(name)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
