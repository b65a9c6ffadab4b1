"""Files of the paper's networks, compared layer by layer.

    python -m pytest -n0 -m full_size tests/paper_export_test.py

compares the large ones, in minutes.
"""

import sys

import keras
import numpy as np
import pytest

import fliqs_keras
from recipes import paper_models


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name, size",
    [
        ("resnet18_0.25", 32),
        *(
            pytest.param(*args, marks=pytest.mark.full_size)
            for args in (
                ("resnet50_0.25", 64),
                ("mobilenet_v2_0.5", 64),
                ("efficientnet_b0", 64),
                ("inception_v3", 96),
                ("deit_64", 64),
                # Whose outputs differ by more than Keras's from themselves.
                ("resnet18_0.5", 224),
                ("resnet18", 224),
                ("resnet18_2.0", 224),
                ("mobilenet_v2_1.4", 224),
            )
        ),
    ],
)
def test_files_agree_layer_by_layer(name, size, tmp_path):
    if name.startswith("deit"):
        pytest.importorskip("keras_hub")
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).random((4, size, size, 3), "float32")
    float_model = paper_models.build(name, images.shape[1:])
    # Values fade to zero by the statistics of a start.
    fliqs_keras.recalibrate_batch_norm(float_model, images)
    model = fliqs_keras.apply(float_model, ["INT4", "INT8"])
    decisions = fliqs_keras.FormatAssignment.from_model(model)
    fliqs_keras.FormatAssignment(
        {d: ("INT4", "INT8")[i % 2] for i, d in enumerate(decisions)}
    ).apply_to(model)
    fliqs_keras.calibrate(model, images)
    fliqs_keras.recalibrate_batch_norm(model, images)
    path = tmp_path / "model.tflite"
    fliqs_keras.export_tflite(model, path)
    report = fliqs_keras.verify_export(model, path, images, tolerance=1e-5)
    assert report.agrees, str(report)
    for found in report.layerwise.values():
        assert len(found.quantizers) >= len(decisions)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
