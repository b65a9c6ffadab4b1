"""The flags that say how long and how fast to train, for several recipes."""

from typing import Any

from absl import flags

from recipes import training

EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Batch size.", 1)
LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 3e-3, "Highest learning rate; it falls to zero."
)
OPTIMIZER = flags.DEFINE_enum(
    "optimizer",
    "adam",
    list(training.OPTIMIZERS),
    "The optimizer: 'sgd' has a momentum of 0.9.",
)


def settings() -> dict[str, Any]:
    """Returns what the flags say, for `training.fit`."""
    all_flags = (EPOCHS, BATCH_SIZE, LEARNING_RATE, OPTIMIZER)
    return {flag.name: flag.value for flag in all_flags}
