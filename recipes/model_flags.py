"""The flags that say which model to train, and from what."""

from absl import flags

from recipes import models, paper_models

_CHOICES = (
    f"one of {', '.join(models.MODELS + paper_models.NAMES)}; one of resnet18, "
    "resnet50 and mobilenet_v2 with a factor of its filters, or deit with a "
    "hidden size (resnet18_0.5, deit_256); or the path of a .keras file"
)

MODEL = flags.DEFINE_string(
    "model",
    "depthwise_net",
    f"The network: {_CHOICES}, whose weights training goes on from.",
)
PRETRAINED = flags.DEFINE_bool(
    "pretrained",
    False,
    "Whether a network of keras.applications or KerasHub starts from its "
    "weights for ImageNet.",
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.")
flags.register_validator(
    "model",
    lambda model: models.is_name(model) or model.endswith(".keras"),
    f"Expected {_CHOICES}.",
)
