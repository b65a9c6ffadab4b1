"""Times training steps of searches beside steps of the float network.

    python -m benchmarks.step_time --network=chain --jit_compile=false

Each way to train takes its turn in every round, so that whatever else the
machine does meets all of them; ratios are of the medians over all steps. The
first round, which compiles, is timed apart. Prints a table and writes JSON.
"""

from absl import app, flags

from benchmarks import networks, step_timing

_NETWORK = flags.DEFINE_enum(
    "network", "chain", networks.NETWORKS, "The network."
)
_DEPTH = flags.DEFINE_integer("depth", 6, "Layers of the chain.", 1)
_JIT = flags.DEFINE_bool("jit_compile", False, "Whether XLA compiles a step.")
_BATCH = flags.DEFINE_integer("batch", 64, "Examples of a step.", 1)
_STEPS = flags.DEFINE_integer("steps", 10, "Steps of a round.", 4)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds that are timed.", 1)
_WAYS = flags.DEFINE_list("ways", list(step_timing.WAYS), "Ways to train.")
_MEMORY = flags.DEFINE_bool(
    "memory", False, "Measure peak memory, each way in a process of its own."
)
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON.")
flags.register_validator(
    "ways",
    lambda ways: set(ways) <= set(step_timing.WAYS),
    f"Expected some of {', '.join(step_timing.WAYS)}.",
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    config = {
        "network": _NETWORK.value,
        "depth": _DEPTH.value,
        "jit_compile": _JIT.value,
        "batch": _BATCH.value,
        "steps": _STEPS.value,
        "rounds": _ROUNDS.value,
        "ways": _WAYS.value,
    }
    rows = (
        step_timing.measure_memory
        if _MEMORY.value
        else step_timing.measure_time
    )(config)
    step_timing.report(config, rows, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
