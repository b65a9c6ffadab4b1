"""DeiT by its hidden size, from KerasHub."""

import types

import keras
from keras import layers

# The images that the weights were trained on are normalized so.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)

# KerasHub's weights, by hidden size.
PRESETS = {
    192: "deit_tiny_distilled_patch16_224_imagenet",
    384: "deit_small_distilled_patch16_224_imagenet",
    768: "deit_base_distilled_patch16_224_imagenet",
}


def deit(
    width: int = 768,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    pretrained: bool = False,
) -> keras.Model:
    """Builds DeiT: 12 blocks on patches of 16 × 16.

    It is that of KerasHub, which has the distillation token of the weights
    that it offers; the class token alone is classified.

    Args:
        width: Hidden size, a multiple of 64, which is the width of a head:
            192 is DeiT-T, 384 DeiT-S and 768 DeiT-B.
        input_shape: Height, width and channels of the images, in [0, 1].
        num_classes: Number of classes.
        pretrained: Whether to load KerasHub's weights for ImageNet.

    Returns:
        A model that returns logits.

    Raises:
        ValueError: If the hidden size is no multiple of 64, if there are no
            weights that fit, or if KerasHub is not installed.
    """
    if width < 64 or width % 64:
        raise ValueError(
            "Expected a hidden size that is a multiple of 64, the width of a "
            f"head. Received: {width}"
        )
    hub = _import_hub()
    backbone = hub.models.DeiTBackbone(
        image_shape=input_shape,
        patch_size=16,
        num_layers=12,
        num_heads=width // 64,
        hidden_dim=width,
        intermediate_dim=4 * width,
        name="deit",
    )
    head = layers.Dense(num_classes, name="head")
    inputs = keras.Input(input_shape, name="image")
    normalize = layers.Rescaling(
        [1 / d for d in _DEVIATION],
        [-m / d for m, d in zip(_MEAN, _DEVIATION, strict=True)],
        name="rescaling",
    )
    outputs = head(backbone(normalize(inputs))[:, 0])
    model = keras.Model(inputs, outputs, name=f"deit_{width}")
    if pretrained:
        _load_weights(hub, backbone, head, width)
    return model


def _load_weights(
    hub: types.ModuleType,
    backbone: keras.Model,
    head: layers.Layer,
    hidden_size: int,
) -> None:
    if hidden_size not in PRESETS:
        raise ValueError(
            f"Expected a hidden size of {list(PRESETS)}, for which there are "
            f"weights. Received: {hidden_size}"
        )
    classifier = hub.models.DeiTImageClassifier.from_preset(
        PRESETS[hidden_size], preprocessor=None
    )
    backbone.set_weights(classifier.backbone.get_weights())
    head.set_weights(classifier.output_dense.get_weights())


def _import_hub() -> types.ModuleType:
    try:
        import keras_hub
    except ImportError as error:
        raise ValueError(
            "Expected KerasHub, which DeiT is taken from. Received: "
            f"{error}. Install fliqs-keras[hub]"
        ) from error
    return keras_hub
