"""Networks of the size of ImageNet by their names, to search as FLIQS does.

A name may end on a width: `resnet18_0.5`, `mobilenet_v2_1.4`, `deit_256`.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers

from recipes.deit import deit
from recipes.residual_networks import resnet18, resnet50


def mobilenet_v2(
    width: float = 1.0,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    pretrained: bool = False,
) -> keras.Model:
    """Builds MobileNetV2 of `keras.applications`.

    Args:
        width: Factor of all filters (α).
        input_shape: Height, width and channels of the images, in [0, 1].
        num_classes: Number of classes.
        pretrained: Whether to load its weights for ImageNet.

    Returns:
        A model that returns logits.
    """
    shape = tuple(input_shape)
    return _application(
        "MobileNetV2", (2.0, -1.0), shape, num_classes, pretrained, alpha=width
    )


def _application(
    name: str,
    rescaling: tuple[float, float],
    input_shape: tuple[int, int, int],
    num_classes: int,
    pretrained: bool = False,
    **options: float,
) -> keras.Model:
    """Builds a model of `keras.applications` for images in [0, 1]."""
    inputs = keras.Input(input_shape, name="image")
    rescaled = layers.Rescaling(*rescaling, name="to_model_range")(inputs)
    model = getattr(keras.applications, name)(
        input_shape=input_shape,
        input_tensor=rescaled,
        weights="imagenet" if pretrained else None,
        classes=num_classes,
        classifier_activation=None,
        **options,
    )
    # Of one input, in place of a list of one.
    return keras.Model(inputs, model.outputs[0], name=model.name)


class _Family(NamedTuple):
    """A builder, the size of its images, and whether a width may be named."""

    build: Callable[..., keras.Model]
    image_size: int = 224
    takes_width: bool = False
    is_pretrained: bool = True


def _efficientnet(number: int, image_size: int) -> _Family:
    # It normalizes by itself, from [0, 255].
    build = functools.partial(
        _application, f"EfficientNetB{number}", (255.0, 0.0)
    )
    return _Family(build, image_size)


_FAMILIES = {
    "resnet18": _Family(resnet18, takes_width=True, is_pretrained=False),
    "resnet50": _Family(resnet50, takes_width=True, is_pretrained=False),
    "mobilenet_v2": _Family(mobilenet_v2, takes_width=True),
    "efficientnet_b0": _efficientnet(0, 224),
    "efficientnet_b1": _efficientnet(1, 240),
    "efficientnet_b2": _efficientnet(2, 260),
    "efficientnet_b3": _efficientnet(3, 300),
    "efficientnet_b4": _efficientnet(4, 380),
    "inception_v3": _Family(
        functools.partial(_application, "InceptionV3", (2.0, -1.0)), 299
    ),
    "deit": _Family(deit, takes_width=True),
    "deit_tiny": _Family(functools.partial(deit, 192)),
    "deit_small": _Family(functools.partial(deit, 384)),
    "deit_base": _Family(functools.partial(deit, 768)),
}
NAMES = tuple(name for name in _FAMILIES if name != "deit")


def is_name(name: str) -> bool:
    """Returns whether a network has the name."""
    return _parse(name) is not None


def image_size(name: str) -> int:
    """Returns the height and width of images that a network is made for.

    Raises:
        ValueError: If the name is unknown.
    """
    return _find(name)[0].image_size


def build(
    name: str,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int = 1000,
    pretrained: bool = False,
) -> keras.Model:
    """Builds a network by its name.

    Args:
        name: One of `NAMES`, or `resnet18`, `resnet50` or `mobilenet_v2`
            with a factor of its filters, or `deit` with a hidden size:
            `resnet18_0.5`, `deit_256`.
        input_shape: Height, width and channels of the images, which are in
            [0, 1]. Defaults to the size that the network is made for.
        num_classes: Number of classes.
        pretrained: Whether to load weights for ImageNet, of
            `keras.applications` or KerasHub. They are downloaded once.

    Returns:
        A model that returns logits.

    Raises:
        ValueError: If the name is unknown, if the network does not take the
            shape, or if there are no weights, or none without a network.
    """
    family, width = _find(name)
    if input_shape is None:
        input_shape = (family.image_size, family.image_size, 3)
    settings = {} if width is None else {"width": width}
    if not pretrained:
        return family.build(
            **settings, input_shape=input_shape, num_classes=num_classes
        )
    if not family.is_pretrained:
        raise ValueError(
            f"Expected one of {[n for n in NAMES if _find(n)[0].is_pretrained]}"
            f", for which there are weights. Received: {name!r}. Train it, and "
            "pass its .keras file as --model"
        )
    try:
        return family.build(
            **settings,
            input_shape=input_shape,
            num_classes=num_classes,
            pretrained=True,
        )
    except Exception as error:
        raise ValueError(
            f"Expected weights of {name} for ImageNet that can be loaded. "
            f"Received: {type(error).__name__}: {error}. Without a network, "
            "pass a .keras file as --model"
        ) from error


def _find(name: str) -> tuple[_Family, float | None]:
    found = _parse(name)
    if found is None:
        raise ValueError(
            f"Expected one of {NAMES}, or a width behind resnet18, resnet50, "
            "mobilenet_v2 or deit, as in 'resnet18_0.5' and 'deit_256'. "
            f"Received: {name!r}"
        )
    return found


def _parse(name: str) -> tuple[_Family, float | None] | None:
    if name in NAMES:
        return _FAMILIES[name], None
    match = re.fullmatch(r"(\w+)_(\d+(?:\.\d+)?)", name)
    family = _FAMILIES.get(match[1]) if match else None
    if family is None or not family.takes_width or not float(match[2]):
        return None
    # A hidden size is a number of features, not a factor.
    return family, int(match[2]) if "." not in match[2] else float(match[2])
