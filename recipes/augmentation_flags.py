"""The flag that says how images vary that are read while a model trains."""

from typing import Any

from absl import flags

from recipes import augmentation, dataset_flags

AUGMENTATION = flags.DEFINE_enum(
    "augmentation",
    None,
    augmentation.AUGMENTATIONS,
    "How training images vary. Defaults to what is usual for the set. Not for "
    "digits and fashion_mnist.",
)


def settings() -> dict[str, Any]:
    """Returns what the flags of the data say, for `data.from_config`."""
    return dataset_flags.settings() | {AUGMENTATION.name: AUGMENTATION.value}
