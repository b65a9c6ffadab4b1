"""The flags that say which data to use, for all recipes."""

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
