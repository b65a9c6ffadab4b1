"""Image classification data for the recipes."""

import dataclasses

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


def load(name: str) -> Dataset:
    """Loads a data set, split into a training and a held-out part.

    Args:
        name: `"digits"`: scikit-learn's 1,797 real handwritten digits, part
            of its wheel, every fifth of them held out. `"fashion_mnist"`:
            through tensorflow-datasets, which must find it on disk or on the
            network.
    """
    if name == "digits":
        return _load_digits()
    if name == "fashion_mnist":
        return _load_tfds(name)
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


def _load_tfds(name: str) -> Dataset:
    import tensorflow_datasets as tfds

    try:
        splits, info = tfds.load(
            name,
            split=["train", "test"],
            batch_size=-1,
            as_supervised=True,
            with_info=True,
        )
    except Exception as error:
        raise ValueError(
            f"Expected tensorflow-datasets to find {name!r}. Received: "
            f"{type(error).__name__}. Prepare the data set on a machine with "
            f"a network, by `tfds build {name}`, and copy the folder to "
            "~/tensorflow_datasets"
        ) from error
    (x_train, y_train), (x_test, y_test) = tfds.as_numpy(splits)
    return Dataset(
        x_train.astype("float32") / 255,
        y_train.astype("int32"),
        x_test.astype("float32") / 255,
        y_test.astype("int32"),
        num_classes=info.features["label"].num_classes,
    )
