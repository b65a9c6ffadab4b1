"""The flag that says what compiles a step, for several benchmarks."""

from absl import flags

JIT_COMPILE = flags.DEFINE_bool(
    "jit_compile", False, "Whether XLA compiles a step."
)
