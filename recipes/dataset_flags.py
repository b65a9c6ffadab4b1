"""The flags that say which data to use, for all recipes."""

from typing import Any

from absl import flags

from recipes import data

DATASET = flags.DEFINE_string(
    "dataset",
    "digits",
    f"Data to train on: {', '.join(data.DATASETS)}, image_folder, or another "
    "set of images of tensorflow-datasets.",
)
IDX_FOLDER = flags.DEFINE_string(
    "idx_folder",
    None,
    "Folder of Fashion-MNIST's original files, in place of --download.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the prepared sets of tensorflow-datasets."
)
_DOWNLOAD = flags.DEFINE_bool(
    "download",
    False,
    "Whether tensorflow-datasets may download a set that is not on disk.",
)
_IMAGE_FOLDER = flags.DEFINE_string(
    "image_folder", None, "Folder of image_folder: a folder for each class."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Height and width of the images. Defaults to those of the set, or to 224 "
    "where they differ. Not for digits and fashion_mnist.",
    lower_bound=8,
)
_WHICH = (DATASET, _IMAGE_FOLDER, _IMAGE_SIZE)
_WHERE = (IDX_FOLDER, _DATA_DIR, _DOWNLOAD)


def settings() -> dict[str, Any]:
    """Returns what the flags say, for `data.from_config`."""
    return {flag.name: flag.value for flag in (*_WHICH, *_WHERE)}


def which() -> dict[str, Any]:
    """Returns the settings that results depend on: not where the data lies."""
    return {flag.name: flag.value for flag in _WHICH}
