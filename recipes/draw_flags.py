"""The flag that draws results without new runs, for several recipes."""

from absl import flags

DRAW_ONLY = flags.DEFINE_bool(
    "draw_only", False, "Draw the results there are, without new runs."
)
