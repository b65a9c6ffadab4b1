"""Draws the figures of a run, as files.

    python -m recipes.figures --workdir=runs/digits

Writes them into the folder `figures` of the run: the formats, the course of
the search, its policy if it has one, and of the kernel with the most weights
the switching error and the best thresholds.
"""

import math
import pathlib

import keras
from absl import flags

import fliqs_keras
from recipes import command_line, workdir_flags

_TYPE = flags.DEFINE_enum("type", "png", ["png", "svg", "pdf"], "File type.")

# Of the paper's spaces, and on either side of them.
KERNEL_FORMATS = ("INT2", "INT3", "INT4", "INT6", "INT8", "E2M1", "E4M3")


def run(workdir: pathlib.Path, file_type: str) -> list[pathlib.Path]:
    """Draws the figures of a run.

    Args:
        workdir: Folder with `model.keras` and `search.jsonl`.
        file_type: Suffix of the files.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the run is not there.
    """
    if not (workdir / "model.keras").is_file():
        raise ValueError(
            f"Expected model.keras in {str(workdir)!r}. Received: none. "
            "`python -m recipes.search --workdir=...` writes it"
        )
    records = fliqs_keras.read_search_log(workdir)
    model = keras.saving.load_model(workdir / "model.keras")
    kernels = [
        variable
        for variable in model.trainable_variables
        if len(variable.shape) > 1
    ]
    largest = max(kernels, key=lambda variable: math.prod(variable.shape))
    kernel = keras.ops.convert_to_numpy(largest)
    plots = fliqs_keras.plots
    figures = {
        "formats": plots.format_map(model),
        "search": plots.search_curves(records),
        "switching_error": plots.switching_error(kernel, KERNEL_FORMATS),
        "best_thresholds": plots.best_thresholds(kernel, KERNEL_FORMATS),
    }
    if "probabilities" in records[0]:
        figures["policy"] = plots.policy(records)
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.{file_type}")
        figure.savefig(paths[-1])
    return paths


def main(_):
    paths = run(pathlib.Path(workdir_flags.WORKDIR.value), _TYPE.value)
    for path in paths:
        print(path)


if __name__ == "__main__":
    command_line.run(main)
