"""Models of keras.applications and KerasHub, as they come."""

import sys

import keras
import numpy as np
import pytest
from keras import applications

import fliqs_keras
from tests.backends import IS_TENSORFLOW
from tests.testing import assert_equal, run

pytestmark = pytest.mark.slow

# Each with the size of its input, the smallest that it takes.
FAMILIES = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "Xception": 71,
}
# Each takes as long as several of the others, and has no layers that they lack.
LARGE = (
    "DenseNet121",
    "EfficientNetV2B0",
    "InceptionV3",
    "NASNetMobile",
    "Xception",
)


def build_family(name):
    size = FAMILIES[name]
    return getattr(applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=5,
        classifier_activation=None,
    )


def build_vit():
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
    )
    return hub.models.ViTImageClassifier(
        backbone=backbone, num_classes=5, preprocessor=None
    )


def build_deit():
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.DeiTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
    )
    return hub.models.DeiTImageClassifier(
        backbone=backbone, num_classes=5, preprocessor=None
    )


def build_hub_resnet():
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    )
    return hub.models.ResNetImageClassifier(
        backbone=backbone, num_classes=5, preprocessor=None
    )


def check_model(build, tmp_path):
    # A code near a tie that turns moves the outputs of an untrained network,
    # which lie close together: other weights may not agree.
    keras.utils.set_random_seed(0)
    model = build()
    size = model.inputs[0].shape[1]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, size, size, 3)).astype("float32")
    quantized = fliqs_keras.apply(model, ["INT4", "INT8"])
    summary = fliqs_keras.summary(quantized)
    listed = (*summary.quantized, *summary.left_out)
    assert sum(row.parameters for row in listed) == model.count_params()
    assert all(row.macs is not None for row in summary.quantized)
    fliqs_keras.calibrate(quantized, x)
    quantized.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[],
        run_eagerly=True,
    )
    before = [w.numpy() for w in quantized.trainable_weights]
    assert np.isfinite(quantized.train_on_batch(x, np.array([0, 1])))
    after = [w.numpy() for w in quantized.trainable_weights]
    assert any((a != b).any() for a, b in zip(after, before, strict=True))
    quantized.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(run(loaded, x), run(quantized, x))
    return quantized, x


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full_size)
        if name in LARGE
        else name
        for name in FAMILIES
    ],
)
def test_family(name, tmp_path):
    model, _ = check_model(lambda: build_family(name), tmp_path)
    summary = fliqs_keras.summary(model)
    # Nothing but factors and offsets a channel stays in float.
    odd = {"ConvNeXtTiny": {"LayerScale"}}.get(name, set())
    assert {row.layer_class for row in summary.left_out} <= odd | {
        "BatchNormalization",
        "LayerNormalization",
        "Normalization",
    }


HUB = {
    "vit": (build_vit, {"ViTPatchingAndEmbedding"}),
    "deit": (build_deit, {"DeiTEmbeddings"}),
    "resnet": (build_hub_resnet, set()),
}


@pytest.mark.filterwarnings("ignore:`compile\\(\\)` was not called:UserWarning")
@pytest.mark.parametrize("name", HUB)
def test_hub_model(name, tmp_path):
    build, holders_of_raw_weights = HUB[name]
    model, x = check_model(build, tmp_path)
    summary = fliqs_keras.summary(model)
    classes = {row.layer_class for row in summary.left_out}
    norms = {"BatchNormalization", "LayerNormalization"}
    assert classes - norms == holders_of_raw_weights
    for row in summary.left_out:
        if row.layer_class in holders_of_raw_weights:
            assert "no quantize config" in row.reason
    if IS_TENSORFLOW:
        path = tmp_path / "model.tflite"
        report = fliqs_keras.export_tflite(model, path, verify_data=x)
        assert not report.left_in_float


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
