"""Flags that several recipes share."""

from absl import flags

from recipes import data

DATASET = flags.DEFINE_enum(
    "dataset", "digits", data.DATASETS, "Data to train on."
)
IDX_FOLDER = flags.DEFINE_string(
    "idx_folder",
    None,
    "Folder of Fashion-MNIST's original files; not needed with a network.",
)
EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Batch size.", 1)
LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 3e-3, "Highest learning rate of Adam; it falls to zero."
)
