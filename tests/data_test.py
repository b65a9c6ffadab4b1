"""The data of the recipes: folders, tensorflow-datasets, augmentation."""

import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from recipes import augmentation, data, image_data, image_sources, training

# Recipes run on TensorFlow.
pytestmark = pytest.mark.tensorflow


def gradient(height, width):
    """Returns an image whose red tells the row and whose green the column."""
    rows, columns = np.indices((height, width))
    blue = np.full((height, width), 77)
    return np.stack([rows, columns, blue], axis=-1).astype("uint8")


def write_images(folder, classes, count, size=(12, 16)):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = np.full((*size, 3), 100 * number + index, "uint8")
            keras.utils.save_img(
                folder / name / f"{index}.png", image, scale=False
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, ["cat", "dog"], 10)
    return folder


def read_batches(dataset, seed, count, batch_size=8):
    batches = dataset.fit_arguments(batch_size, seed)["x"]
    return [*batches.take(count).as_numpy_iterator()]


def test_folder_holds_out_every_fifth_image(folder):
    images = image_sources.open_folder(folder, size=8, augmentation="none")
    assert (images.num_classes, images.image_shape) == (2, (8, 8, 3))
    assert (images.train_size, images.test.size) == (16, 4)
    ((x, y),) = images.test_batches()
    found = {
        (round(v * 255), int(c)) for v, c in zip(x[:, 0, 0, 0], y, strict=True)
    }
    assert found == {(0, 0), (5, 0), (100, 1), (105, 1)}
    x, y = images.examples(100)
    trained = {round(v * 255) for v in x[:, 0, 0, 0]}
    assert trained == {*range(10), *range(100, 110)} - {0, 5, 100, 105}
    assert ((x[:, 0, 0, 0] > 0.3) == y).all()


def test_folder_of_two_parts(tmp_path):
    write_images(tmp_path / "train", ["cat", "dog"], 3)
    write_images(tmp_path / "val", ["cat", "dog"], 1)
    images = image_sources.open_folder(tmp_path)
    assert (images.train_size, images.test.size) == (6, 2)
    assert images.image_shape == (224, 224, 3)
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "fox")
    with pytest.raises(ValueError, match="fox"):
        image_sources.open_folder(tmp_path)


@pytest.mark.parametrize("name", augmentation.AUGMENTATIONS)
def test_same_seed_gives_the_same_batches(name, folder):
    images = image_sources.open_folder(folder, size=8, augmentation=name)
    assert images.fit_arguments(8, 0)["steps_per_epoch"] == 2
    # Two epochs.
    first, second = (read_batches(images, 1, 4) for _ in range(2))
    other = read_batches(images, 2, 4)
    for (x, y), (x_again, y_again) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)
        assert x.shape == (8, 8, 8, 3) and 0 <= x.min() and x.max() <= 1
    assert any(
        (a != b).any() for (a, _), (b, _) in zip(first, other, strict=True)
    )
    labels = [np.concatenate([y for _, y in first[i : i + 2]]) for i in (0, 2)]
    assert [sorted(epoch) for epoch in labels] == [[0] * 8 + [1] * 8] * 2
    assert (labels[0] != labels[1]).any()


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.io.encode_jpeg])
def test_evaluation_shows_the_center(encode):
    encoded = encode(gradient(64, 96))
    image = augmentation.evaluated(encoded, 3, 56, "resized_crop") * 255
    # 7/8 of 64 rows and as many columns, of which each pixel stays one.
    np.testing.assert_allclose(image[:, 0, 0], np.arange(4, 60), atol=3)
    np.testing.assert_allclose(image[0, :, 1], np.arange(20, 76), atol=3)
    whole = augmentation.evaluated(encoded, 3, 64, "none") * 255
    np.testing.assert_allclose(whole[:, 0, 0], np.arange(64), atol=3)


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.io.encode_jpeg])
def test_training_shows_random_boxes(encode):
    encoded = encode(gradient(64, 96))
    areas, mirrored = [], []
    for number in range(64):
        seed = tf.constant([0, number], "int64")
        image = augmentation.augmented(encoded, 3, 32, "resized_crop", seed)
        rows, columns, _ = np.moveaxis(image.numpy() * 255, -1, 0)
        height = (rows[-1] - rows[0]).mean() * 32 / 31
        width = (columns[:, -1] - columns[:, 0]).mean() * 32 / 31
        mirrored.append(width < 0)
        areas.append(height * abs(width) / (64 * 96))
    assert 0.05 < min(areas) < 0.2 and 0.8 < max(areas) < 1.1
    assert 16 < sum(mirrored) < 48


def test_crops_move_by_an_eighth():
    encoded = tf.io.encode_png(gradient(32, 32))
    starts = set()
    for number in range(40):
        seed = tf.constant([0, number], "int64")
        image = augmentation.augmented(encoded, 3, 32, "crop", seed) * 255
        starts.add(round(float(image[16, 16, 0])) - 16)
    assert {*starts} <= {*range(-4, 5)} and min(starts) < 0 < max(starts)


@pytest.fixture
def imagenet(tmp_path):
    """The folder of tensorflow-datasets, with an ImageNet of no images."""
    builder = tfds.builder("imagenet2012", data_dir=tmp_path)
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_dir,
        dataset_name=builder.name,
        filetype_suffix="tfrecord",
    )
    builder.info.set_splits(
        tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=name,
                    shard_lengths=[10],
                    num_bytes=1000,
                    filename_template=template,
                )
                for name in ("train", "validation", "test")
            ]
        )
    )
    pathlib.Path(builder.data_dir).mkdir(parents=True)
    builder.info.write_to_directory(builder.data_dir)
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_imagenet(imagenet):
    config = {"dataset": "imagenet2012", "data_dir": imagenet, "image_size": 32}
    with tfds.testing.mock_data(num_examples=10, data_dir=imagenet):
        images = data.from_config(config)
        assert images.num_classes == 1000
        assert images.image_shape == (32, 32, 3)
        assert images.augmentation == "resized_crop"
        assert (images.train_size, images.test.size) == (10, 10)
        first, second = (read_batches(images, 1, 3) for _ in range(2))
        for (x, y), (x_again, y_again) in zip(first, second, strict=True):
            assert x.shape == (8, 32, 32, 3)
            np.testing.assert_array_equal(x, x_again)
            np.testing.assert_array_equal(y, y_again)
        assert len(np.concatenate([y for _, y in images.test_batches(4)])) == 10


def test_what_is_not_on_disk_is_named(tmp_path):
    with pytest.raises(ValueError) as error:
        image_sources.open_tfds("imagenet2012", data_dir=tmp_path)
    (line,) = str(error.value).splitlines()
    assert "ILSVRC2012_img_train.tar" in line and "--download" in line
    assert str(tmp_path / "downloads" / "manual") in line
    with pytest.raises(ValueError, match="cifar10 in .*Received: none"):
        image_sources.open_tfds("cifar10", data_dir=tmp_path)
    with pytest.raises(ValueError, match="one class label each"):
        image_sources.open_tfds("coco", data_dir=tmp_path)
    with pytest.raises(ValueError, match="Received: None"):
        data.from_config({"dataset": "image_folder"})
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="one a class"):
        image_sources.open_folder(tmp_path)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"dataset": "digits", "image_size": 16}, "Received: --image_size=16"),
        ({"dataset": "digits", "augmentation": "none"}, "--augmentation=none"),
        ({"dataset": "digits", "download": True}, "--download=True"),
        ({"dataset": "fashion_mnist", "image_size": 16}, "--data_dir, --dow"),
        ({"dataset": "image_folder", "idx_folder": "x"}, "--image_folder"),
        ({"dataset": "cifar10", "image_folder": "x"}, "another --dataset"),
    ],
)
def test_options_of_other_sets_are_refused(config, message):
    with pytest.raises(ValueError, match="Expected of the options") as error:
        data.from_config(config)
    assert message in str(error.value)


def test_nothing_is_downloaded_that_should_not_be(tmp_path, monkeypatch):
    prepared = []
    monkeypatch.setattr(
        tfds.core.DatasetBuilder,
        "download_and_prepare",
        lambda builder: prepared.append(builder.data_dir) or 1 / 0,
    )
    config = {"dataset": "fashion_mnist", "data_dir": tmp_path}
    with pytest.raises(ValueError, match="Received: none. Pass --download"):
        data.from_config(config)
    assert not prepared
    for option in ({"download": True}, {"idx_folder": tmp_path}):
        with pytest.raises(ValueError, match="Received: ZeroDivisionError"):
            data.from_config({**config, **option})
    assert len(prepared) == 2
    assert all(str(path).startswith(str(tmp_path)) for path in prepared)


def test_large_sets_are_not_taken_into_memory(monkeypatch):
    part = image_data.Split(None, 2**20, 1)
    huge = image_data.ImageDataset(part, part, (224, 224, 3), 1000, "none")
    monkeypatch.setattr(image_sources, "open_tfds", lambda name, **kwargs: huge)
    with pytest.raises(ValueError, match="at most 8 GiB"):
        data.load("imagenet2012")


def test_small_sets_are_taken_into_memory(folder):
    images = image_sources.open_folder(folder, 8)
    config = {"dataset": "image_folder", "image_folder": folder}
    arrays = data.in_memory({**config, "image_size": 8})
    assert arrays.x_train.shape == (16, 8, 8, 3) == (16, *arrays.image_shape)
    assert arrays.x_test.shape == (4, 8, 8, 3)
    assert arrays.y_test.tolist() == [*images.test_batches()][0][1].tolist()


def test_network_trains_on_images_of_a_folder(folder):
    keras.utils.set_random_seed(0)
    images = image_sources.open_folder(folder, 8, "crop")
    model = keras.Sequential(
        [
            keras.Input(images.image_shape),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    config = {"batch_size": 8, "epochs": 30, "learning_rate": 0.1, "verbose": 0}
    training.fit(model, images, config)
    assert training.accuracy(model, images) == 1.0


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
