"""The flags that say how long and how fast to train, for several recipes."""

from absl import flags

EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Batch size.", 1)
LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 3e-3, "Highest learning rate of Adam; it falls to zero."
)
