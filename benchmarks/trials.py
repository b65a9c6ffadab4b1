"""Compares a search in one training with a search by trials.

    python -m benchmarks.trials --dataset=fashion_mnist --epochs=4 --record

The trials are those of AutoQKeras: KerasTuner's Bayesian optimization over the
format of each layer, each trial a network that is trained anew for a share of
the steps, judged by its accuracy and a forgiving factor for its cost. They run
until they have used as much CPU time as one whole search. Prints the
environment and the table; with `--record` it also writes
`benchmarks/trials.json` and the table in `benchmarks/README.md`. Needs
`pip install keras-tuner`.
"""

import json

from absl import app, flags

from benchmarks import records, step_timing, trial_search
from benchmarks.record_flags import RECORD
from recipes import data, dataset_flags, study_runs, training_flags
from recipes.network_flags import NETWORK

_TRIAL_EPOCHS = flags.DEFINE_integer(
    "trial_epochs", 1, "Epochs of a trial.", lower_bound=1
)
_EXAMPLES = flags.DEFINE_integer(
    "examples",
    18_000,
    "Training images at most, a sixth of which judge trials.",
    60,
)
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "Number of seeds.", 1)
_SPACE = "wide"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    config = {
        "network": NETWORK.value,
        **training_flags.settings(),
        "trial_epochs": _TRIAL_EPOCHS.value,
        "formats": study_runs.SPACES[_SPACE],
        "target": study_runs.BUDGETS[_SPACE][-1],
    }
    dataset = trial_search.take(
        data.in_memory(dataset_flags.settings()), _EXAMPLES.value
    )
    environment = step_timing.environment()
    print(json.dumps(environment))
    rows = []
    for seed in range(_REPETITIONS.value):
        rows.append(trial_search.compare(dataset, config, seed))
        text = trial_search.render(rows)
        print(text, flush=True)
        if RECORD.value:
            result = {
                "environment": environment,
                **dataset_flags.which(),
                "examples": len(dataset.x_train),
                "config": config,
                "rows": rows,
            }
            records.write("trials", result, text)


if __name__ == "__main__":
    app.run(main)
