"""The flag that says which network to train, for several recipes."""

from absl import flags

from recipes import models

NETWORK = flags.DEFINE_enum(
    "network", "narrow_resnet", models.MODELS, "The network."
)
