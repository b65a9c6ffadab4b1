"""Several devices: the same formats, the same losses as on one."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import pytest

MIRRORED = """
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * devices
)
names = [d.name for d in tf.config.list_logical_devices("CPU")]
strategy = tf.distribute.MirroredStrategy(names)
assert strategy.num_replicas_in_sync == devices
scope = strategy.scope()
"""

DATA_PARALLEL = """
if processes > 1:
    keras.distribution.initialize(address, processes, process)
assert len(keras.distribution.list_devices()) == devices
scope = contextlib.nullcontext()
if devices > 1:
    # Each process brings its own share of each batch.
    scope = keras.distribution.DataParallel(auto_shard_dataset=False).scope()
"""

SCRIPT = """
import contextlib, json, sys
import keras, numpy as np
from keras import layers
import fliqs_keras

controllers, devices, processes, process, address = json.loads(sys.argv[1])
%s
rng = np.random.default_rng(0)
y = rng.integers(0, 3, 256)
x = rng.normal(size=(256, 8, 8, 1)) + y[:, None, None, None]
x = x.astype("float32")
batch = 32 // processes
mine = np.arange(256).reshape(-1, processes, batch)[:, process].reshape(-1)

def train(controller):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    h = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    h = layers.GlobalAveragePooling2D()(h)
    model = keras.Model(image, layers.Dense(3, name="head")(h))
    model = fliqs_keras.apply(model, ["INT2", "INT4", "INT8"])
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=keras.backend.backend() == "jax",
    )
    search = fliqs_keras.FormatSearch(
        ("INT4", 1.2), data=(x[:64], y[:64]), controller=controller,
        # One quantizes by what it sees in that same step, the first.
        activation_delay=0.0 if controller == "reinforce" else 0.125,
    )
    history = model.fit(
        x[mine], y[mine], batch_size=batch, epochs=4, shuffle=False,
        verbose=0, callbacks=[search],
    )
    if keras.backend.backend() == "jax":
        for variable in model.weights:
            assert len(variable.value.sharding.device_set) == devices
            assert variable.value.is_fully_replicated
    assignment = {k: f.name for k, f in search.assignment.items()}
    return history.history["loss"], assignment

with scope:
    print(json.dumps([train(controller) for controller in controllers]))
"""


def start(setup, controllers, devices, processes=1, process=0, address=None):
    """Starts a process that trains, with its share of the devices."""
    arguments = [controllers, devices, processes, process, address]
    is_jax = setup is DATA_PARALLEL
    count = devices // processes
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT % setup, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax" if is_jax else "tensorflow",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )


def finish(run):
    """Returns the losses and the assignment of each search."""
    with run:
        try:
            output, errors = run.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            run.kill()
            raise
    assert run.returncode == 0, errors[-2000:]
    return json.loads(output.splitlines()[-1])


def assert_alike(searches, expected):
    for search, one in zip(searches, expected, strict=True):
        assert search[0] == pytest.approx(one[0], abs=1e-5)
        assert search[1] == one[1]


@pytest.mark.slow
@pytest.mark.tensorflow
def test_two_replicas_find_what_one_finds():
    controllers = ["sensitivity", "reinforce"]
    one = finish(start(MIRRORED, controllers, 1))
    assert_alike(finish(start(MIRRORED, controllers, 2)), one)


@pytest.fixture(scope="module")
def one_jax_device():
    return finish(start(DATA_PARALLEL, ["sensitivity", "reinforce"], 1))


@pytest.mark.slow
def test_two_jax_devices_find_what_one_finds(one_jax_device):
    run = start(DATA_PARALLEL, ["sensitivity", "reinforce"], 2)
    assert_alike(finish(run), one_jax_device)


@pytest.mark.slow
def test_two_jax_processes_find_what_one_finds(one_jax_device):
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    controllers = ["sensitivity", "reinforce"]
    runs = [
        start(DATA_PARALLEL, controllers, 2, 2, process, address)
        for process in range(2)
    ]
    for run in runs:
        assert_alike(finish(run), one_jax_device)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
