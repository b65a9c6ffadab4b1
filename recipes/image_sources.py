"""Where images come from: tensorflow-datasets, or folders of files."""

import os
import pathlib

import numpy as np
import tensorflow as tf

from recipes.image_data import ImageDataset, Split

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png"}
# Held out, the first that is there. Labels of test parts may be secret.
_HELD_OUT = ("validation", "val", "test")
_SIZE = 224

_AUGMENTATIONS = {
    "cifar10": "crop",
    "cifar100": "crop",
    "image_folder": "resized_crop",
    "imagenet2012": "resized_crop",
}


def open_tfds(
    name: str,
    size: int | None = None,
    augmentation: str | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
) -> ImageDataset:
    """Opens an image classification data set of tensorflow-datasets.

    Its validation part is held out, or its test part, or, where it has
    neither, the last tenth of what there is.

    Args:
        name: Its name there, such as `"imagenet2012"` or `"cifar10"`.
        size: Height and width of the images. Defaults to theirs, or to 224
            where they differ.
        augmentation: One of `augmentation.AUGMENTATIONS`. Defaults to
            `"resized_crop"` for ImageNet, `"crop"` for CIFAR and `"none"`
            for others.
        data_dir: Folder of tensorflow-datasets. Defaults to its own,
            `~/tensorflow_datasets`.
        download: Whether to download and prepare the set if it is not on
            disk.

    Raises:
        ValueError: If there is no such set, if it is not on disk and cannot
            be downloaded, or if it has no images with a label each.
    """
    # Imported here: it takes seconds, and others do not need it.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:
        raise ValueError(
            "Expected 'digits', 'fashion_mnist', 'image_folder' or the name "
            f"of a set of tensorflow-datasets. Received: {name!r} "
            f"({type(error).__name__})"
        ) from error
    image, label = _keys(builder, tfds)
    _prepare(builder, download)
    shape = builder.info.features[image].shape
    if size is None:
        size = shape[0] if shape[0] and shape[0] == shape[1] else _SIZE
    skipped = {image: tfds.decode.SkipDecoding()}

    def split(part: str) -> Split:
        def read(seed):
            config = tfds.ReadConfig(shuffle_seed=seed, try_autocache=False)
            examples = builder.as_dataset(
                split=part,
                shuffle_files=part.startswith("train"),
                decoders=skipped,
                read_config=config,
            )
            return examples.map(lambda x: (x[image], x[label]))

        found = builder.info.splits[part]
        return Split(read, found.num_examples, found.num_bytes)

    train, test = _parts(builder.info.splits)
    return ImageDataset(
        split(train),
        split(test),
        (size, size, shape[2] or 3),
        builder.info.features[label].num_classes,
        augmentation or _AUGMENTATIONS.get(name, "none"),
    )


def _keys(builder, tfds):
    """Returns the names of the image and the label."""
    keys = builder.info.supervised_keys
    kinds = tfds.features.Image, tfds.features.ClassLabel
    features = builder.info.features
    is_fit = keys is not None and all(
        isinstance(k, str) and isinstance(features[k], kind)
        for k, kind in zip(keys, kinds, strict=False)
    )
    if not is_fit:
        raise ValueError(
            "Expected a set of images with one class label each. Received: "
            f"{builder.name!r}, for supervised training {keys}"
        )
    return keys[:2]


def _prepare(builder, download: bool) -> None:
    folder = pathlib.Path(builder.data_dir)
    if folder.exists():
        return
    files = ""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        manual = folder.parents[1] / "downloads" / "manual"
        files = f", with the files that it asks for in {manual}"
        if builder.name == "imagenet2012":
            files += " (ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar)"
    way_out = (
        f"Pass --download on a machine with a network{files}, or copy a "
        f"prepared {builder.name} to {folder}, or its parent to --data_dir"
    )
    if not download:
        raise ValueError(
            f"Expected {builder.name} in {folder}. Received: none. {way_out}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise ValueError(
            f"Expected tensorflow-datasets to prepare {builder.name}. "
            f"Received: {type(error).__name__}. {way_out}"
        ) from error


def _parts(splits) -> tuple[str, str]:
    if "train" not in splits:
        raise ValueError(
            f"Expected a set with a part 'train'. Received: {list(splits)}"
        )
    for part in _HELD_OUT:
        if part in splits:
            return "train", part
    return "train[:90%]", "train[90%:]"


def open_folder(
    folder: str | os.PathLike | None,
    size: int | None = None,
    augmentation: str | None = None,
) -> ImageDataset:
    """Opens a folder of images, a folder a class.

    Where it holds `train` and one of `validation`, `val` and `test`, these
    hold the folders of the classes. Else every fifth image of each class is
    held out.

    Args:
        folder: The folder: `cats/1.jpg` or `train/cats/1.jpg`.
        size: Height and width of the images. Defaults to 224.
        augmentation: One of `augmentation.AUGMENTATIONS`. Defaults to
            `"resized_crop"`.

    Raises:
        ValueError: If there are no images of two classes, or if the parts
            have different classes.
    """
    root = pathlib.Path(folder or "")
    if folder is None or not root.is_dir():
        raise ValueError(
            "Expected --image_folder to be a folder that holds a folder of "
            f"images for each class. Received: {folder!r}, which is not there"
        )
    held_out = next((n for n in _HELD_OUT if (root / n).is_dir()), None)
    if (root / "train").is_dir() and held_out:
        train, test = _list(root / "train"), _list(root / held_out)
    else:
        images = _list(root)
        train = {k: _every_fifth(v, False) for k, v in images.items()}
        test = {k: _every_fifth(v, True) for k, v in images.items()}
    is_filled = any(train.values()) and any(test.values())
    if len(train) < 2 or list(train) != list(test) or not is_filled:
        raise ValueError(
            "Expected at least two folders, one a class, of "
            f"{', '.join(sorted(_SUFFIXES))} files, the same ones in each "
            f"part. Received: {root} with {list(train)} and {list(test)}"
        )
    size = size or _SIZE
    return ImageDataset(
        _files(train),
        _files(test),
        (size, size, 3),
        len(train),
        augmentation or _AUGMENTATIONS["image_folder"],
    )


def _list(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    return {
        child.name: found
        for child in sorted(folder.iterdir())
        if child.is_dir()
        and (found := sorted(f for f in child.rglob("*") if _is_image(f)))
    }


def _is_image(path: pathlib.Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _every_fifth(paths: list[pathlib.Path], is_held_out: bool):
    return [p for i, p in enumerate(paths) if (i % 5 == 0) == is_held_out]


def _files(images: dict[str, list[pathlib.Path]]) -> Split:
    pairs = [
        (path, label)
        for label, paths in enumerate(images.values())
        for path in paths
    ]

    def read(seed):
        order = np.random.default_rng(seed).permutation(len(pairs))
        examples = tf.data.Dataset.from_tensor_slices(
            (
                [os.fspath(pairs[i][0]) for i in order],
                np.array([pairs[i][1] for i in order], "int64"),
            )
        )
        return examples.map(
            lambda path, label: (tf.io.read_file(path), label),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    size = sum(path.stat().st_size for path, _ in pairs)
    return Split(read, len(pairs), size)
