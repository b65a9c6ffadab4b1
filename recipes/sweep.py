"""Searches at several targets and with several seeds, over processes.

    python -m recipes.sweep --workdir=runs/sweep --target_factors=1.2,1.8 \\
        --num_workers=2 --model=conv_net --epochs=10

Each run is one of `recipes.search`, whose flags this recipe takes, in a folder
of its own. The same command goes on where it was ended: finished runs are
kept. A run whose process dies is started again. `--runner=ray` spreads the
runs over the machines of a Ray cluster, which share the work folder.

The work folder then holds a folder and a log for each run, and table.md.
"""

import json
import pathlib
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from absl import app, flags

from recipes import (
    command_line,
    search,
    seeds_flags,
    sweep_runners,
    training,
    workdir_flags,
)

_FACTORS = flags.DEFINE_list(
    "target_factors",
    None,
    "Values of --target_factor. Defaults to its own default alone, or to that "
    "of --preset.",
)
flags.register_validator(
    "target_factors",
    lambda factors: (
        factors is None or (factors and all(_is_number(f) for f in factors))
    ),
    "Expected numbers.",
)
_RUNNER = flags.DEFINE_enum(
    "runner", "local", ["local", "ray"], "What the runs are spread by."
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 2, "Runs at a time, on each machine.", lower_bound=1
)
_MAX_TRIES = flags.DEFINE_integer(
    "max_tries", 3, "How often a run is started at most.", lower_bound=1
)
_RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "Address of a Ray cluster. Defaults to none: one of this machine alone.",
)
# What the sweep chooses for each run.
_CHOSEN = {"target_factor": "target_factors", "seed": "num_seeds"}


def list_jobs(
    factors: Sequence[float],
    num_seeds: int,
    settings: Sequence[str],
    workdir: pathlib.Path,
) -> list[sweep_runners.Job]:
    """Returns the runs of a sweep, seed by seed.

    Args:
        factors: Values of `--target_factor`.
        num_seeds: Number of seeds.
        settings: Other flags of `recipes.search`.
        workdir: Folder of their folders.
    """
    jobs = []
    for seed in range(num_seeds):
        for factor in factors:
            folder = workdir.resolve() / f"factor_{factor:g}_seed_{seed}"
            arguments = (
                f"--target_factor={factor:g}",
                f"--seed={seed}",
                f"--workdir={folder}",
            )
            command = (sys.executable, "-m", "recipes.search")
            jobs.append(
                sweep_runners.Job(
                    (*command, *settings, *arguments),
                    pathlib.Path.cwd(),
                    folder,
                    # It is written last, and as a whole.
                    "report.html",
                )
            )
    return jobs


def check(outcomes: Iterable[sweep_runners.Outcome]) -> None:
    """Prints outcomes as they come.

    Raises:
        ValueError: At the end, if a run did not finish.
    """
    failed = []
    for outcome in outcomes:
        name = outcome.job.folder.name
        if outcome.exit_code:
            failed.append(outcome.job.log)
            print(f"{name}: failed, exit code {outcome.exit_code}", flush=True)
        elif outcome.tries:
            print(f"{name}: finished at try {outcome.tries}", flush=True)
        else:
            print(f"{name}: kept", flush=True)
    if failed:
        raise ValueError(
            f"Expected all runs to finish. Received: {len(failed)} that did "
            f"not. {failed[0]} says why; the same command goes on"
        )


def render(workdir: pathlib.Path) -> str:
    """Returns a table of the finished runs of a sweep, in Markdown."""
    found: dict[float, list[dict]] = {}
    for page in sorted(workdir.glob("factor_*_seed_*/report.html")):
        report = json.loads((page.parent / "report.json").read_text())
        config = json.loads((page.parent / "config.json").read_text())
        factor = config["config"]["target_factor"]
        found.setdefault(factor, []).append(report)
    lines = [
        "| target | cost / target | accuracy | of the file | float | seeds |",
        "|" + "---|" * 6,
    ]
    for factor, reports in sorted(found.items()):
        share = np.mean([r["cost"] / r["target"] for r in reports])
        cells = [f"{factor:g}", f"{share:.3f}"]
        for name in ("accuracy_keras", "accuracy_tflite", "accuracy_float"):
            values = [100 * r[name] for r in reports]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{np.mean(values):.1f} ± {spread:.1f}")
        lines.append(f"| {' | '.join(cells)} | {len(reports)} |")
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def target_factors() -> list[float]:
    """Returns the values of `--target_factor` that the flags say."""
    if _FACTORS.value is None:
        return [search.settings()["target_factor"]]
    return [float(factor) for factor in _FACTORS.value]


def _settings() -> list[str]:
    """Returns the flags of `recipes.search` that were given."""
    given = []
    for module in command_line.flag_modules(search):
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            if not flag.present or flag.name == "workdir":
                continue
            if flag.name in _CHOSEN:
                raise app.UsageError(
                    f"Expected --{_CHOSEN[flag.name]}, of which the sweep "
                    f"takes --{flag.name} of each run. Received: "
                    f"--{flag.name}={flag.value}"
                )
            given.append(flag.serialize())
    return sorted(given)


def main(_):
    settings = _settings()
    workdir = pathlib.Path(workdir_flags.WORKDIR.value)
    if _RAY_ADDRESS.value is not None and _RUNNER.value != "ray":
        raise app.UsageError(
            "Expected --ray_address with --runner=ray. Received: "
            f"--runner={_RUNNER.value}"
        )
    training.claim(workdir, {"search": settings})
    jobs = list_jobs(
        target_factors(),
        seeds_flags.NUM_SEEDS.value,
        settings,
        workdir,
    )
    common = (jobs, _MAX_TRIES.value, _NUM_WORKERS.value)
    if _RUNNER.value == "ray":
        outcomes = sweep_runners.run_on_ray(*common, _RAY_ADDRESS.value)
    else:
        outcomes = sweep_runners.run_locally(*common)
    try:
        check(outcomes)
    finally:
        (workdir / "table.md").write_text(render(workdir) + "\n")
    print(render(workdir))


if __name__ == "__main__":
    command_line.run(main)
