"""How images become examples: decoded, cropped, resized, mirrored.

Pure functions of encoded images; the same seed gives the same image.
"""

import tensorflow as tf

AUGMENTATIONS = ("none", "crop", "resized_crop")

# Share of the shorter side that an evaluated image shows, where training
# shows random parts: 224 of 256 pixels.
_CENTER = 0.875


def evaluated(
    encoded: tf.Tensor, channels: int, size: int, augmentation: str
) -> tf.Tensor:
    """Returns the central square of an image.

    Args:
        encoded: An encoded image: JPEG, PNG, BMP or GIF.
        channels: Number of channels.
        size: Height and width of the result.
        augmentation: That of the training. After `"resized_crop"` the square
            is 7/8 of the shorter side.

    Returns:
        An image in [0, 1] of shape `(size, size, channels)`.
    """
    image = tf.io.decode_image(encoded, channels, expand_animations=False)
    height, width = tf.unstack(tf.shape(image)[:2])
    side = tf.minimum(height, width)
    if augmentation == "resized_crop":
        side = tf.cast(tf.round(_CENTER * tf.cast(side, "float32")), "int32")
    image = tf.image.crop_to_bounding_box(
        image, (height - side) // 2, (width - side) // 2, side, side
    )
    return _resized(image, channels, size)


def augmented(
    encoded: tf.Tensor,
    channels: int,
    size: int,
    augmentation: str,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Returns an image as training sees it.

    Args:
        encoded: An encoded image.
        channels: Number of channels.
        size: Height and width of the result.
        augmentation: `"none"`: as for evaluation. `"crop"`: moved by at most
            an eighth, mirrored or not. `"resized_crop"`: a box of 8 % to
            100 % of the area and of 3:4 to 4:3, mirrored or not, as is usual
            for ImageNet.
        seed: Two integers.

    Returns:
        An image in [0, 1] of shape `(size, size, channels)`.
    """
    if augmentation == "none":
        return evaluated(encoded, channels, size, augmentation)
    if augmentation == "crop":
        image = evaluated(encoded, channels, size, augmentation)
        margin = [size // 8, size // 8]
        padded = tf.pad(image, [margin, margin, [0, 0]])
        image = tf.image.stateless_random_crop(padded, image.shape, seed)
    else:
        image = _resized(
            _decode_random_box(encoded, channels, seed), channels, size
        )
    return tf.image.stateless_random_flip_left_right(image, seed + [1, 0])


def _decode_random_box(encoded, channels, seed):
    def sample(shape):
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros((1, 0, 4)),
            seed,
            min_object_covered=0.0,
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        return begin, extent

    def decode_jpeg():
        # Decodes the blocks of the box only.
        begin, extent = sample(tf.image.extract_jpeg_shape(encoded))
        box = tf.concat([begin[:2], extent[:2]], axis=0)
        return tf.image.decode_and_crop_jpeg(encoded, box, channels)

    def decode_other():
        image = tf.io.decode_image(encoded, channels, expand_animations=False)
        return tf.slice(image, *sample(tf.shape(image)))

    return tf.cond(tf.io.is_jpeg(encoded), decode_jpeg, decode_other)


def _resized(image, channels, size):
    image = tf.image.resize(tf.cast(image, "float32") / 255, (size, size))
    return tf.ensure_shape(image, (size, size, channels))
