"""Images that are read, decoded and augmented while a model trains."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from recipes import augmentation

# Training images of so many bytes, encoded, are read once and kept in memory.
_CACHED_BYTES = 2 * 2**30
# From so many examples, which follow each other on disk, the next is drawn.
_SHUFFLED = 4096


@dataclasses.dataclass(frozen=True)
class Split:
    """Encoded images and their labels.

    Args:
        read: Returns them as a `tf.data.Dataset` of pairs, files in an order
            that follows from a seed.
        size: Number of examples.
        bytes: What they take on disk.
    """

    read: Callable[[int], tf.data.Dataset]
    size: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Images in [0, 1] of one shape, made of those that are on disk.

    Args:
        train: The training part.
        test: The held-out part.
        image_shape: Height, width and channels, of which the first two are
            the same.
        num_classes: Number of classes.
        augmentation: One of `augmentation.AUGMENTATIONS`.
    """

    train: Split
    test: Split
    image_shape: tuple[int, int, int]
    num_classes: int
    augmentation: str

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        return self.train.size

    def fit_arguments(self, batch_size: int, seed: int) -> dict[str, Any]:
        """Returns what `fit` trains on: the same batches for the same seed.

        The order and the augmentation change from epoch to epoch. The last
        batch of an epoch is filled with examples of the next.

        Args:
            batch_size: Examples of a step.
            seed: Seed of the order and of the augmentation.
        """
        examples = self.train.read(seed)
        if self.train.bytes <= _CACHED_BYTES:
            examples = examples.cache()
        size, channels = self.image_shape[1:]

        def augment(number, example):
            encoded, label = example
            image = augmentation.augmented(
                encoded,
                channels,
                size,
                self.augmentation,
                tf.stack([tf.cast(seed, "int64"), number]),
            )
            return image, label

        batches = (
            examples.shuffle(min(self.train.size, _SHUFFLED), seed)
            .repeat()
            .enumerate()
            .map(augment, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(batch_size)
            .prefetch(tf.data.AUTOTUNE)
        )
        steps = -(-self.train.size // batch_size)
        return {"x": batches, "steps_per_epoch": steps, "shuffle": False}

    def examples(self, count: int = 1024) -> tuple[np.ndarray, np.ndarray]:
        """Returns training examples without augmentation.

        Args:
            count: How many, or all if there are fewer.
        """
        examples = self.train.read(0).shuffle(min(self.train.size, count), 0)
        batches = [*self._batches(examples.take(count), 64)]
        images, labels = zip(*batches, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def test_batches(
        self, batch_size: int = 64
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the held-out examples, always in the same order.

        Args:
            batch_size: Examples of a batch.
        """
        yield from self._batches(self.test.read(0), batch_size)

    def _batches(self, examples, batch_size):
        size, channels = self.image_shape[1:]

        def decode(encoded, label):
            image = augmentation.evaluated(
                encoded, channels, size, self.augmentation
            )
            return image, label

        batches = examples.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        batches = batches.batch(batch_size).prefetch(tf.data.AUTOTUNE)
        return batches.as_numpy_iterator()
