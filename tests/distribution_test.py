"""Several devices: the same formats, the same losses as on one."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import keras, numpy as np, tensorflow as tf
from keras import layers
import fliqs_keras

devices = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * devices
)
names = [d.name for d in tf.config.list_logical_devices("CPU")]
strategy = tf.distribute.MirroredStrategy(names)
assert strategy.num_replicas_in_sync == devices
with strategy.scope():
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(3, name="head")(x))
    model = fliqs_keras.apply(model, ["INT2", "INT4", "INT8"])
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
rng = np.random.default_rng(0)
y = rng.integers(0, 3, 256)
x = rng.normal(size=(256, 8, 8, 1)) + y[:, None, None, None]
x = x.astype("float32")
search = fliqs_keras.FormatSearch(
    ("INT4", 1.2), data=(x[:64], y[:64]), controller=sys.argv[2], seed=0
)
history = model.fit(
    x, y, batch_size=32, epochs=4, shuffle=False, verbose=0,
    callbacks=[search],
)
assignment = {k: f.name for k, f in search.assignment.items()}
print(json.dumps([history.history["loss"], assignment]))
"""


def train(devices, controller):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(devices), controller],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_two_devices_find_what_one_finds():
    losses, assignment = train(1, "sensitivity")
    mirrored_losses, mirrored_assignment = train(2, "sensitivity")
    assert mirrored_losses == pytest.approx(losses, abs=1e-5)
    assert mirrored_assignment == assignment


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
