"""Measures the networks of the paper at full size, and writes a table.

    python -m recipes.model_table

Each network is quantized, trained for a step, exported and verified in a
process of its own; what was measured is kept in --measurements, so that
--models may name those to measure anew. Takes about an hour on two cores.
"""

import concurrent.futures
import json
import multiprocessing
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import app, flags

from recipes import model_checks
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

Measurements = Mapping[str, Mapping[str, Any]]


def measure(name: str, folder: pathlib.Path) -> None:
    """Checks a network in a process of its own, and keeps what came of it.

    A failure is kept, too.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        try:
            found = executor.submit(model_checks.check, name).result()
        except Exception as error:  # noqa: BLE001
            found = {"failed": f"{type(error).__name__}: {error}"}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")


def read(folder: pathlib.Path) -> Measurements:
    """Returns what was measured, by the name of the network."""
    paths = [folder / f"{name}.json" for name in NETWORKS]
    return {p.stem: json.loads(p.read_text()) for p in paths if p.exists()}


def render(measurements: Measurements) -> str:
    """Renders the page."""
    done = {k: v for k, v in measurements.items() if "failed" not in v}
    lines = [_HEADER]
    lines += [
        "| network | image | parameters | GMACs | INT4 | INT8 | BF16 | printed "
        "by the paper | largest difference |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_costs(name, row) for name, row in done.items()),
        "",
        _REMARKS.format(
            share=max([r["squeeze_excite_share"] for r in done.values()] + [0])
        ),
        "| network | decisions | apply | first step | export | file, MB | left "
        "in float | differs from Keras | |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_check(name, row) for name, row in measurements.items()),
    ]
    return "\n".join(lines) + "\n"


def _costs(name: str, row: Mapping[str, Any]) -> str:
    gbops = [row["gbops"][f] for f in model_checks.FORMATS]
    printed = PRINTED_GBOPS.get(name)
    difference = "—"
    if printed:
        most = max(
            abs(ours / float(theirs) - 1)
            for ours, theirs in zip(gbops, printed, strict=True)
        )
        difference = f"{most:.2%}"
    cells = [
        name,
        row["image_size"],
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['gmacs']:.3f}",
        *(f"{x:.4g}" for x in gbops),
        " / ".join(printed) if printed else "not known to us",
        difference,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _check(name: str, row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return f"| {name} |" + " |" * 7 + f" **{row['failed']}** |"
    seconds = row["seconds"]
    cells = [
        name,
        row["layers"],
        *(f"{seconds[s]:.0f} s" for s in ("apply", "first step", "export")),
        f"{row['file_bytes'] / 1e6:.1f}",
        len(row["left_in_float"]),
        f"{row['mean_difference']:.0e}",
        "ok" if row["agrees"] else "**disagrees**",
    ]
    return f"| {' | '.join(map(str, cells))} |"


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
one image with INT4 and INT8 in turn (most of it is tracing), and
`export_tflite` in dequantize mode. Weights left in float are those that were
to be stored in low bits and could not. The difference is the mean one from the
outputs of Keras, as a part of their range, with or without XNNPACK, of
untrained weights.
"""


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    folder = pathlib.Path(_MEASUREMENTS.value)
    names = _MODELS.value
    if names is None:
        names = [n for n in NETWORKS if not (folder / f"{n}.json").exists()]
    if unknown := sorted({*names} - {*NETWORKS}):
        raise app.UsageError(
            f"Expected --models of {list(NETWORKS)}. Received: {unknown}"
        )
    for name in names:
        print(f"Measuring {name}", flush=True)
        measure(name, folder)
    page = pathlib.Path(_PAGE.value)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(read(folder)))
    print(f"Wrote {page}")


if __name__ == "__main__":
    app.run(main)
