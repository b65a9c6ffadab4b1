"""Sweeps lose nothing when a process is killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from absl import flags
from absl.testing import flagsaver

from recipes import sweep, sweep_runners

# Recipes run on TensorFlow.
pytestmark = pytest.mark.tensorflow

# A run that notes that it was started, and does as it is told.
RUN = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
with (folder / "starts").open("a") as file:
    starts = file.tell() + 1
    file.write("x")
{}
(folder / "result").write_text("done")
"""
ACTIONS = {
    "finishes": "",
    "dies_once": "if starts < 2: os.kill(os.getpid(), signal.SIGKILL)",
    "dies": "os.kill(os.getpid(), signal.SIGKILL)",
    "fails": "sys.exit('wrong setting')",
    "forgets": "sys.exit(0)",
}
OUTCOMES = {
    "finishes": (0, 1),
    "dies_once": (0, 2),
    "dies": (-signal.SIGKILL, 3),
    "fails": (1, 1),
    "forgets": (1, 1),
}


def make_job(folder, action):
    path = folder / action
    command = (sys.executable, "-c", RUN.format(ACTIONS[action]), str(path))
    return sweep_runners.Job(command, folder, path, "result")


def run_locally(jobs):
    return [*sweep_runners.run_locally(jobs, max_tries=3, num_workers=2)]


def run_on_ray(jobs):
    pytest.importorskip("ray")
    return [*sweep_runners.run_on_ray(jobs, max_tries=3, num_workers=2)]


@pytest.mark.parametrize("run", [run_locally, run_on_ray])
def test_what_dies_is_tried_again_and_what_is_finished_is_kept(run, tmp_path):
    jobs = [make_job(tmp_path, action) for action in ACTIONS]
    found = {o.job.folder.name: (o.exit_code, o.tries) for o in run(jobs)}
    assert found == OUTCOMES
    assert b"wrong setting" in make_job(tmp_path, "fails").log.read_bytes()
    again = {o.job.folder.name: (o.exit_code, o.tries) for o in run(jobs)}
    assert again == {**OUTCOMES, "finishes": (0, 0), "dies_once": (0, 0)}


def test_a_run_that_outlived_its_sweep_is_waited_for(tmp_path):
    job = make_job(tmp_path, "finishes")
    waiting = f"import time\ntime.sleep(1)\n{job.command[2]}"
    slow = (*job.command[:2], waiting, job.command[3])
    slow_job = sweep_runners.Job(slow, job.cwd, job.folder, job.result)
    first = threading.Thread(target=sweep_runners.do, args=(slow_job, 1))
    first.start()
    while not job.log.exists():
        time.sleep(0.01)
    outcome = sweep_runners.do(job, max_tries=1)
    first.join()
    assert outcome.exit_code == 0
    assert (job.folder / "starts").read_text() == "x"


def test_jobs_are_every_target_with_every_seed(tmp_path):
    jobs = sweep.list_jobs([1.2, 1.8], 3, ["--epochs=1"], tmp_path)
    assert len({job.folder for job in jobs}) == 6
    assert [job.folder.name for job in jobs[:3]] == [
        "factor_1.2_seed_0",
        "factor_1.8_seed_0",
        "factor_1.2_seed_1",
    ]
    assert jobs[1].command[3:] == (
        "--epochs=1",
        "--target_factor=1.8",
        "--seed=0",
        f"--workdir={jobs[1].folder}",
    )


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], [1.5]),
        (["--preset=deit_small_fliqs_s"], [1.1]),
        (["--preset=deit_small_fliqs_s", "--target_factors=2,3"], [2.0, 3.0]),
    ],
    ids=["none", "preset", "given"],
)
def test_targets_are_those_given_or_the_default(arguments, expected):
    with flagsaver.flagsaver():
        flags.FLAGS(["sweep", *arguments])
        assert sweep.target_factors() == expected


def test_a_failure_is_named_after_all_others_are_done(tmp_path, capsys):
    jobs = [make_job(tmp_path, action) for action in ("fails", "finishes")]
    outcomes = sweep_runners.run_locally(jobs, max_tries=1, num_workers=1)
    with pytest.raises(ValueError, match=r"1 that did not. .*fails\.log says"):
        sweep.check(outcomes)
    assert jobs[1].is_finished
    assert "fails: failed, exit code 1" in capsys.readouterr().out


def test_table_has_a_row_a_target(tmp_path):
    for seed, accuracy in enumerate([0.8, 0.82]):
        folder = tmp_path / f"factor_1.5_seed_{seed}"
        folder.mkdir()
        (folder / "report.html").write_text("")
        config = {"config": {"target_factor": 1.5}}
        (folder / "config.json").write_text(json.dumps(config))
        report = {
            "cost": 0.98,
            "target": 1.0,
            "accuracy_keras": accuracy,
            "accuracy_tflite": accuracy,
            "accuracy_float": 0.9,
        }
        (folder / "report.json").write_text(json.dumps(report))
    (tmp_path / "factor_1.8_seed_0").mkdir()
    assert sweep.render(tmp_path).splitlines()[2:] == [
        "| 1.5 | 0.980 | 81.0 ± 1.4 | 81.0 ± 1.4 | 90.0 ± 0.0 | 2 |"
    ]


@pytest.mark.slow
def test_a_killed_search_is_done_again(tmp_path):
    settings = ["--model=conv_net", "--epochs=2", "--batch_size=128"]
    (job,) = sweep.list_jobs([1.5], 1, settings, tmp_path)
    killed = threading.Event()

    def kill():
        while not (job.folder / "search.jsonl").exists():
            time.sleep(0.05)
        found = subprocess.check_output(["pgrep", "-f", str(job.folder)])
        for process in found.split():
            os.kill(int(process), signal.SIGKILL)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    (outcome,) = sweep_runners.run_locally([job], 2, 1)
    assert killed.is_set()
    assert (outcome.exit_code, outcome.tries) == (0, 2)
    assert pathlib.Path(job.folder, "model.tflite").is_file()
    assert "| 1.5 | " in sweep.render(tmp_path)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
