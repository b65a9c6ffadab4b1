"""Image classification data for the recipes."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recipes import image_data, image_sources

DATASETS = ("digits", "fashion_mnist", "cifar10", "imagenet2012")

# What each reads of the settings; others are sets of tensorflow-datasets.
_OPTIONS = {
    "digits": (),
    "fashion_mnist": ("idx_folder", "data_dir", "download"),
    "image_folder": ("image_folder", "image_size", "augmentation"),
}
_OTHER_OPTIONS = ("data_dir", "download", "image_size", "augmentation")

# Larger ones are only read while a model trains.
_BYTES_IN_MEMORY = 8 * 2**30


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images in [0, 1] of shape (examples, height, width, channels)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.x_test.shape[1:]

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        return len(self.x_train)

    def fit_arguments(self, batch_size: int, seed: int) -> dict[str, Any]:
        """Returns what `fit` trains on, in the order of its own shuffling.

        Args:
            batch_size: Examples of a step.
            seed: Unused: that of Keras counts.
        """
        return {"x": self.x_train, "y": self.y_train, "batch_size": batch_size}

    def examples(self, count: int = 1024) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first training examples, on which formats compare."""
        return self.x_train[:count], self.y_train[:count]

    def test_batches(
        self, batch_size: int = 1024
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the held-out examples."""
        for start in range(0, len(self.x_test), batch_size):
            part = slice(start, start + batch_size)
            yield self.x_test[part], self.y_test[part]


AnyDataset = Dataset | image_data.ImageDataset


def options_of(name: str) -> tuple[str, ...]:
    """Returns the settings that a data set reads, by the names of the flags."""
    return _OPTIONS.get(name, _OTHER_OPTIONS)


def from_config(config: Mapping[str, Any]) -> AnyDataset:
    """Opens the data that a configuration names.

    Args:
        config: `dataset` and, where they are there, the other settings of
            `dataset_flags`, by the names of the flags.

    Returns:
        Arrays for digits and Fashion-MNIST, else images that are read while
        a model trains.

    Raises:
        ValueError: If a setting is wrong, or one that the data does not read,
            or if the data is not to be had.
    """
    name = config["dataset"]
    _check_options(name, config)
    if name == "digits":
        return _load_digits()
    if name == "fashion_mnist":
        return _load_fashion_mnist(
            config.get("idx_folder"),
            config.get("data_dir"),
            config.get("download", False),
        )
    options = {
        "size": config.get("image_size"),
        "augmentation": config.get("augmentation"),
    }
    if name == "image_folder":
        return image_sources.open_folder(config.get("image_folder"), **options)
    return image_sources.open_tfds(
        name,
        data_dir=config.get("data_dir"),
        download=config.get("download", False),
        **options,
    )


def _check_options(name: str, config: Mapping[str, Any]) -> None:
    options = options_of(name)
    unread = {*_OTHER_OPTIONS}.union(*_OPTIONS.values()) - {*options}
    given = [
        f"--{option}={config[option]}"
        for option in sorted(unread)
        if config.get(option) not in (None, False)
    ]
    if given:
        known = ", ".join(f"--{option}" for option in options) or "none"
        raise ValueError(
            f"Expected of the options of data those of {name!r}: {known}. "
            f"Received: {', '.join(given)}. Leave them out, or choose another "
            "--dataset"
        )


def load(name: str, idx_folder: str | os.PathLike | None = None) -> Dataset:
    """Loads a data set into memory: a training and a held-out part.

    Args:
        name: `"digits"`: scikit-learn's 1,797 real handwritten digits, part
            of its wheel, every fifth of them held out. `"fashion_mnist"`, or
            any small set of images that is on disk: through
            tensorflow-datasets.
        idx_folder: Folder of the four original files of Fashion-MNIST
            (`train-images-idx3-ubyte.gz` and so on), to prepare it from
            without a network.

    Raises:
        ValueError: If the name is unknown, or the data is not to be had or
            too large.
    """
    return in_memory({"dataset": name, "idx_folder": idx_folder})


def in_memory(config: Mapping[str, Any]) -> Dataset:
    """Loads the data that a configuration names into memory.

    Args:
        config: As for `from_config`.

    Raises:
        ValueError: If a setting is wrong, or the data is not to be had or too
            large.
    """
    images = from_config(config)
    if isinstance(images, Dataset):
        return images
    name = config["dataset"]
    count = images.train.size + images.test.size
    needed = 4 * count * int(np.prod(images.image_shape))
    if needed > _BYTES_IN_MEMORY:
        raise ValueError(
            f"Expected a data set of at most {_BYTES_IN_MEMORY / 2**30:.0f} "
            f"GiB in memory. Received: {name!r}, of {needed / 2**30:.0f} GiB. "
            "recipes.train and recipes.search read it while they train"
        )
    x_test, y_test = zip(*images.test_batches(), strict=True)
    return Dataset(
        *images.examples(images.train.size),
        np.concatenate(x_test),
        np.concatenate(y_test),
        images.num_classes,
    )


def _load_digits() -> Dataset:
    from sklearn import datasets

    digits = datasets.load_digits()
    images = (digits.images[..., None] / 16.0).astype("float32")
    labels = digits.target.astype("int32")
    is_test = np.arange(len(images)) % 5 == 0
    return Dataset(
        images[~is_test],
        labels[~is_test],
        images[is_test],
        labels[is_test],
        num_classes=10,
    )


def _load_fashion_mnist(
    idx_folder: str | os.PathLike | None,
    data_dir: str | os.PathLike | None,
    download: bool,
) -> Dataset:
    # Imported here: it takes seconds, and digits do not need it.
    import tensorflow_datasets as tfds

    way_out = (
        "Pass --download on a machine with a network, or put its four original "
        "files (idx, gzipped) into a folder and pass it as --idx_folder"
    )
    if idx_folder is None:
        builder = tfds.builder("fashion_mnist", data_dir=data_dir)
        if not download and not pathlib.Path(builder.data_dir).exists():
            raise ValueError(
                f"Expected Fashion-MNIST in {builder.data_dir}. Received: "
                f"none. {way_out}"
            )
    else:
        builder = _fashion_mnist_of_files()(data_dir=data_dir)
        builder.folder = pathlib.Path(idx_folder)
    try:
        builder.download_and_prepare()
        splits = builder.as_dataset(
            split=["train", "test"], batch_size=-1, as_supervised=True
        )
    except Exception as error:
        raise ValueError(
            "Expected tensorflow-datasets to find Fashion-MNIST. Received: "
            f"{type(error).__name__}. {way_out}"
        ) from error
    (x_train, y_train), (x_test, y_test) = tfds.as_numpy(splits)
    return Dataset(
        x_train.astype("float32") / 255,
        y_train.astype("int32"),
        x_test.astype("float32") / 255,
        y_test.astype("int32"),
        num_classes=builder.info.features["label"].num_classes,
    )


# Once: tensorflow-datasets refuses a second class of a name.
@functools.cache
def _fashion_mnist_of_files():
    """Returns a builder class whose `folder` holds the original files."""
    import tensorflow_datasets as tfds

    class LocalFiles:
        """Takes files from the folder in place of downloading them."""

        def __init__(self, dl_manager, folder):
            self._dl_manager = dl_manager
            self._folder = folder

        def download_and_extract(self, urls):
            names = {k: url.rsplit("/", 1)[-1] for k, url in urls.items()}
            return self._dl_manager.extract(
                {k: self._folder / name for k, name in names.items()}
            )

    class FashionMnistIdx(tfds.image_classification.FashionMNIST):
        """Fashion-MNIST from files on disk."""

        VERSION = tfds.core.Version("1.0.0")

        def _split_generators(self, dl_manager):
            local_files = LocalFiles(dl_manager, self.folder)
            return super()._split_generators(local_files)

    return FashionMnistIdx
