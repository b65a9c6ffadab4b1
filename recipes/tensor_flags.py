"""The flag that gives all activations one format, for several recipes."""

from absl import flags

EVERY_TENSOR = flags.DEFINE_string(
    "every_tensor",
    None,
    "Format of every tensor between layers, as for apply: INT8 for what "
    "recipes.export --integer_io shall export. Defaults to those of the layers "
    "that read it.",
)
