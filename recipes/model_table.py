"""Measures the networks of the paper at full size, and writes a table.

    python -m recipes.model_table

The costs of all networks come first. Then each is quantized, trained for a
step, exported and verified, in the order of their costs. Each is measured in a
process of its own, after which the page is written. What was measured is kept
in --measurements: --models names those to measure anew. Takes about an hour on
two idle cores.
"""

import concurrent.futures
import json
import math
import multiprocessing
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from recipes import command_line, model_checks
from recipes.paper_costs import PRINTED_GBOPS

NETWORKS = (
    "resnet18_0.5",
    "resnet18",
    "resnet18_2.0",
    "resnet50",
    "mobilenet_v2_0.5",
    "mobilenet_v2",
    "mobilenet_v2_1.4",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "inception_v3",
    "deit_tiny",
    "deit_small",
    "deit_base",
)

_MODELS = flags.DEFINE_list(
    "models", None, "Networks to measure. Defaults to those that were not yet."
)
_MEASUREMENTS = flags.DEFINE_string(
    "measurements", "runs/models", "Folder of what was measured."
)
_PAGE = flags.DEFINE_string("page", "docs/models.md", "The page to write.")

PARTS = {"costs": model_checks.measure_costs, "check": model_checks.check}

Measurements = Mapping[str, Mapping[str, Any]]


def measure(what: str, name: str, folder: pathlib.Path) -> None:
    """Measures a network in a process of its own, and keeps what came of it.

    A failure is kept, too.

    Args:
        what: A part of `PARTS`.
        name: The network.
        folder: Folder of what was measured.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        try:
            found = executor.submit(PARTS[what], name).result()
        except Exception as error:  # noqa: BLE001
            found = {"failed": f"{type(error).__name__}: {error}"}
    folder.mkdir(parents=True, exist_ok=True)
    _path(what, name, folder).write_text(json.dumps(found, indent=2) + "\n")


def read(what: str, folder: pathlib.Path) -> Measurements:
    """Returns a part of what was measured, by the name of the network."""
    return {
        name: json.loads(path.read_text())
        for name in NETWORKS
        if (path := _path(what, name, folder)).exists()
    }


def _path(what: str, name: str, folder: pathlib.Path) -> pathlib.Path:
    return folder / f"{name}.{what}.json"


def render(costs: Measurements, checks: Measurements) -> str:
    """Renders the page."""
    excited = [x.get("squeeze_excite_share", 0.0) for x in costs.values()]
    lines = [
        _HEADER,
        "| network | image | parameters | decisions | GMACs | INT4 | INT8 | "
        "BF16 | printed by the paper | largest difference |",
        "|---" * 10 + "|",
        *(_row(_cost_cells, 10, name, row) for name, row in costs.items()),
        "",
        _REMARKS.format(
            share=max([0.0, *excited]),
            images=model_checks.IMAGES,
            tolerance=model_checks.TOLERANCE,
        ),
        "| network | apply | first step | export | memory, GB | file, MB | "
        "left in float | XNNPACK | built-in | quantizers | outputs | |",
        "|---" * 12 + "|",
        *(_row(_check_cells, 12, name, row) for name, row in checks.items()),
    ]
    if missing := [name for name in costs if name not in checks]:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _row(cells: Callable, columns: int, name: str, row: Mapping) -> str:
    if "failed" in row:
        found = [*[""] * (columns - 2), f"**{row['failed']}**"]
    else:
        found = cells(name, row)
    return f"| {' | '.join(map(str, [name, *found]))} |"


def _cost_cells(name: str, row: Mapping[str, Any]) -> list[Any]:
    gbops = [row["gbops"][f] for f in model_checks.FORMATS]
    printed = PRINTED_GBOPS.get(name)
    difference = "—"
    if printed:
        most = max(
            abs(ours / float(theirs) - 1)
            for ours, theirs in zip(gbops, printed, strict=True)
        )
        difference = f"{most:.2%}"
    return [
        row["image_size"],
        f"{row['parameters'] / 1e6:.2f} M",
        row["decisions"],
        f"{row['gmacs']:.3f}",
        *(f"{x:.4g}" for x in gbops),
        " / ".join(printed) if printed else "not known to us",
        difference,
    ]


def _check_cells(name: str, row: Mapping[str, Any]) -> list[Any]:
    seconds = row["seconds"]
    memory = row.get("peak_megabytes")
    return [
        *(f"{seconds[s]:.0f} s" for s in ("apply", "first step", "export")),
        f"{memory / 1e3:.1f}" if memory else "—",
        f"{row['file_bytes'] / 1e6:.1f}",
        len(row["left_in_float"]),
        *(f"{row['differences'][w]:.0e}" for w in ("xnnpack", "builtin")),
        *(_largest(row["layerwise"], w) for w in ("quantizers", "outputs")),
        "ok" if row["agrees"] else "**differs**",
    ]


def _largest(layerwise: Mapping[str, Mapping[str, float]], what: str) -> str:
    found = [differences[what] for differences in layerwise.values()]
    return f"{max(found):.0e}" if found else "—"


_HEADER = """\
# Networks of the size of ImageNet

Written by `python -m recipes.model_table`. The names are those of `--model`;
`resnet18`, `resnet50` and `mobilenet_v2` take any factor of their filters
behind an underscore, and `deit` a hidden size (`deit_256`).

## Costs

GBOPs of one image in uniform formats, as `BitOps` counts, beside what the
authors' plot data has at 4 bits (E2M1), at 8 bits (E4M3) and in BF16; an
integer and a float of the same bits cost the same.
"""

_REMARKS = """\
- The plot data is printed with few digits, some of them cut off rather than
  rounded: that is the whole difference.
- ResNet-18 has a 1×1 projection in the first stage, too, and ResNet-50 strides
  in its 3×3 convolutions: only so do they cost what the paper prints.
- The paper does not count squeeze-excite blocks. `BitOps` counts their
  convolutions, which are searched like others: at most {share:.1%} of the
  multiplications of an EfficientNet.
- The products of attention do not count; DeiT is that of KerasHub, with a
  distillation token.
- InceptionV3 has no second head.

## From `apply` to the file

Seconds of one CPU core: `apply` with INT4, INT8 and BF16, one training step of
{images} images with INT4 and INT8 in turn (most of it is tracing), and
`export_tflite` in dequantize mode. Then the peak memory of the process, which
verifies the file, too (a dash: not measured). Weights left in float are those
that were to be stored in low bits and could not.

The difference is the mean one from the outputs of Keras, as a part of their
range: of the file run with XNNPACK, and by the built-in kernels of LiteRT.
Weights are untrained, images are noise, and the statistics of batch
normalization are those of the images: with statistics of a start, values fade
to zero from layer to layer, and all files agree.

Where a value is near a tie between two codes, the order of additions decides,
and what follows differs: these outputs show that a file runs, not that it is
right. So Keras continues on the codes of the file at each quantizer, as
`verify_export` does where outputs differ. The codes of the file are then a
rounding of what Keras rounds, but for the part of the largest that is under
"quantizers" (of the quantizer that differs most: the mean, or a third of the
root mean square if that is more), and the outputs differ by that under
"outputs" (a dash: they were the same). A file that disagrees with a tolerance
of {tolerance:.0e} is marked.
"""


def main(_):
    folder = pathlib.Path(_MEASUREMENTS.value)
    if unknown := sorted({*(_MODELS.value or ())} - {*NETWORKS}):
        raise ValueError(
            f"Expected --models of {list(NETWORKS)}. Received: {unknown}"
        )
    page = pathlib.Path(_PAGE.value)
    page.parent.mkdir(parents=True, exist_ok=True)
    for what in PARTS:
        done = {} if _MODELS.value else read(what, folder)
        for name in _by_cost(_MODELS.value or NETWORKS, folder):
            if name not in done:
                print(f"Measuring {what} of {name}", flush=True)
                measure(what, name, folder)
                _write(page, folder)
    _write(page, folder)
    print(f"Wrote {page}")


def _by_cost(names: Sequence[str], folder: pathlib.Path) -> list[str]:
    costs = read("costs", folder)
    return sorted(names, key=lambda n: costs.get(n, {}).get("gmacs", math.inf))


def _write(page: pathlib.Path, folder: pathlib.Path) -> None:
    page.write_text(render(read("costs", folder), read("check", folder)))


if __name__ == "__main__":
    command_line.run(main)
