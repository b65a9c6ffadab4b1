"""Image classification data for the recipes."""

import dataclasses
import os
import pathlib

import numpy as np

DATASETS = ("digits", "fashion_mnist")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images in [0, 1] of shape (examples, height, width, channels)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int


def load(name: str, idx_folder: str | os.PathLike | None = None) -> Dataset:
    """Loads a data set, split into a training and a held-out part.

    Args:
        name: `"digits"`: scikit-learn's 1,797 real handwritten digits, part
            of its wheel, every fifth of them held out. `"fashion_mnist"`:
            through tensorflow-datasets.
        idx_folder: Folder of the four original files of Fashion-MNIST
            (`train-images-idx3-ubyte.gz` and so on), to prepare it from
            without a network.

    Raises:
        ValueError: If the name is unknown or the data is not to be had.
    """
    if name == "digits":
        return _load_digits()
    if name == "fashion_mnist":
        return _load_fashion_mnist(idx_folder)
    raise ValueError(f"Expected one of {DATASETS}. Received: {name!r}")


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


def _load_fashion_mnist(idx_folder: str | os.PathLike | None) -> Dataset:
    # Imported here: it takes seconds, and digits do not need it.
    import tensorflow_datasets as tfds

    class LocalFiles:
        """Takes files from the folder in place of downloading them."""

        def __init__(self, dl_manager):
            self._dl_manager = dl_manager

        def download_and_extract(self, urls):
            folder = pathlib.Path(idx_folder)
            return self._dl_manager.extract(
                {k: folder / url.rsplit("/", 1)[-1] for k, url in urls.items()}
            )

    class FashionMnistIdx(tfds.image_classification.FashionMNIST):
        """Fashion-MNIST from files on disk."""

        VERSION = tfds.core.Version("1.0.0")

        def _split_generators(self, dl_manager):
            return super()._split_generators(LocalFiles(dl_manager))

    try:
        if idx_folder is None:
            builder = tfds.builder("fashion_mnist")
        else:
            builder = FashionMnistIdx()
        builder.download_and_prepare()
        splits = builder.as_dataset(
            split=["train", "test"], batch_size=-1, as_supervised=True
        )
    except Exception as error:
        raise ValueError(
            "Expected tensorflow-datasets to find Fashion-MNIST. Received: "
            f"{type(error).__name__}. Without a network, put its four "
            "original files (idx, gzipped) into a folder and pass it as "
            "--idx_folder"
        ) from error
    (x_train, y_train), (x_test, y_test) = tfds.as_numpy(splits)
    return Dataset(
        x_train.astype("float32") / 255,
        y_train.astype("int32"),
        x_test.astype("float32") / 255,
        y_test.astype("int32"),
        num_classes=builder.info.features["label"].num_classes,
    )
