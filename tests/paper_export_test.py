"""Files of the paper's networks, compared layer by layer.

Where a value is near a tie, the order of additions turns it into another code,
and all that follows differs: the outputs of a deep network tell little. Here,
Keras takes the codes of the file at each quantizer, so that each layer is
compared on inputs that are the same.

    python -m pytest -n0 -m full_size tests/paper_export_test.py

compares the large ones, in minutes.
"""

import collections
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import fliqs_keras
from fliqs_keras.quantized_layers import CallHook, use_hook
from recipes import paper_models


class Following(CallHook):
    """Continues on the codes of a file.

    Attributes:
        differences: Of each quantized layer, the mean difference of the codes
            that Keras computes from those of the file, as a part of their
            range.
    """

    def __init__(self, tensors):
        self.differences = {}
        self._tensors = collections.defaultdict(list)
        for tensor in tensors:
            self._tensors[tensor.size].append(tensor)

    def input(self, layer, quantizer, inputs):
        y = np.asarray(quantizer(inputs, training=False))
        # The tensors of a file do not name the layers. A wrong one is found
        # where none is right, and differs.
        found = min(
            (x.reshape(y.shape) for x in self._tensors[y.size]),
            key=lambda x: np.abs(x - y).mean(dtype="f8"),
        )
        difference = np.abs(found - y).mean() / np.ptp(y)
        self.differences[f"{layer.path}/{quantizer.name}"] = difference
        return tf.convert_to_tensor(found)


def run_file(path, images):
    """Returns the output of a file, and all that it computed before."""
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=(
            OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
        experimental_preserve_all_tensors=True,
    )
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, images)
    interpreter.invoke()
    output = interpreter.get_output_details()[0]["index"]
    tensors = []
    for details in interpreter.get_tensor_details():
        if details["dtype"] == np.float32:
            try:
                tensors.append(interpreter.get_tensor(details["index"]))
            except ValueError:
                pass  # It was never allocated.
    # Scratch memory of kernels may hold anything.
    return interpreter.get_tensor(output), [
        x for x in tensors if np.isfinite(x).all()
    ]


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
def test_layers_agree_on_the_codes_of_the_file(name, size, tmp_path):
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
    output, tensors = run_file(path, images)
    following = Following(tensors)
    with use_hook(following):
        expected = np.asarray(model(images, training=False))
    assert len(following.differences) >= len(decisions)
    # Of a few codes that turn, each by one step.
    assert max(following.differences.values()) <= 1e-5
    np.testing.assert_allclose(output, expected, atol=2e-6 * np.ptp(expected))


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
