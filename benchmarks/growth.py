"""How the work of a search grows with the depth of a network.

    python -m benchmarks.growth --depths=10,30,100,300

Trains chains of convolutions of several depths, in float and by a search, on
few and small examples, so that what each layer costs whatever its size stands
out. Prints for each depth what a layer adds to a step, and writes JSON.
"""

from typing import Any

from absl import app, flags

from benchmarks import step_timing
from benchmarks.jit_flags import JIT_COMPILE

_DEPTHS = flags.DEFINE_list("depths", ["10", "30", "100"], "Depths.")
_GROWTH_OUTPUT = flags.DEFINE_string("growth_output", None, "File of the JSON.")

_WAYS = ("float", "search of 2 formats")


def measure(
    depths: list[int], jit_compile: bool, rounds: int = 3
) -> list[dict[str, Any]]:
    """Returns a row for each depth."""
    rows = []
    for depth in depths:
        config = {
            "network": "chain",
            "depth": depth,
            "jit_compile": jit_compile,
            "batch": 1,
            "steps": 10,
            "rounds": rounds,
            "ways": _WAYS,
        }
        base, search = step_timing.measure_time(config)
        # A layer of the network has two quantizers; the head is one more.
        layers = depth + 1
        row = {"layers": layers}
        for name in ("step_seconds", "step_cpu_seconds"):
            added = search[name] - base[name]
            row[f"added_{name}_a_layer"] = added / layers
        row["first_round_cpu_ratio"] = search["first_round_cpu_ratio"]
        rows.append(row)
    return rows


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    depths = [int(depth) for depth in _DEPTHS.value]
    jit_compile = JIT_COMPILE.value
    step_timing.report(
        {"depths": depths, "jit_compile": jit_compile},
        measure(depths, jit_compile),
        _GROWTH_OUTPUT.value,
    )


if __name__ == "__main__":
    app.run(main)
