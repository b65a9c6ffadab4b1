"""The flags that say which model to train, and from what."""

from absl import flags

from recipes import models

MODEL = flags.DEFINE_string(
    "model",
    "depthwise_net",
    f"One of {', '.join(models.MODELS)}; or the path of a .keras file, whose "
    "weights training goes on from.",
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.")
flags.register_validator(
    "model",
    lambda model: model in models.MODELS or model.endswith(".keras"),
    f"Expected one of {', '.join(models.MODELS)}, or the path of a .keras "
    "file.",
)
