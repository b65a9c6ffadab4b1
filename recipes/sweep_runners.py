"""Runs of a sweep, over processes of a machine or over machines by Ray.

A run is a command that works in a folder of its own. Whatever is killed, the
run, the sweep or a machine, the same sweep goes on from what is finished.
"""

import concurrent.futures
import dataclasses
import fcntl
import pathlib
import subprocess
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        command: Program and arguments.
        cwd: Where it is started.
        folder: Where it works. What it prints goes to a file beside it, of
            the suffix `.log`.
        result: Name of the file in the folder that it writes last, and whole.
    """

    command: tuple[str, ...]
    cwd: pathlib.Path
    folder: pathlib.Path
    result: str

    @property
    def log(self) -> pathlib.Path:
        """What the run prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_finished(self) -> bool:
        """Whether its result is there."""
        return (self.folder / self.result).is_file()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        job: The run.
        exit_code: That of the last try; negative if a signal ended it.
        tries: How often it was started; zero if it was finished before.
    """

    job: Job
    exit_code: int
    tries: int


def do(job: Job, max_tries: int) -> Outcome:
    """Does a run unless it is finished, again if its process dies.

    A run that ends by itself with an error is not tried again: it would end
    so again.

    Args:
        job: The run.
        max_tries: How often to start it at most.
    """
    tries = exit_code = 0
    while not job.is_finished and tries < max_tries and exit_code <= 0:
        exit_code = _start(job)
        tries += 1
        if exit_code == 0 and not job.is_finished:
            exit_code = 1
    return Outcome(job, exit_code, tries)


def _start(job: Job) -> int:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    lock_path = job.folder.with_name(f"{job.folder.name}.lock")
    # The lock is the process's own as well. A sweep that is started again
    # waits for a run that outlived the sweep before, not to do it twice.
    with lock_path.open("w") as lock, job.log.open("ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if job.is_finished:
            return 0
        return subprocess.run(
            job.command,
            cwd=job.cwd,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
        ).returncode


def run_locally(
    jobs: Sequence[Job], max_tries: int, num_workers: int
) -> Iterator[Outcome]:
    """Does runs in processes of this machine.

    Args:
        jobs: The runs.
        max_tries: How often to start each at most.
        num_workers: How many run at once.

    Yields:
        The outcomes, as they come.
    """
    # Threads that wait for processes.
    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        tasks = [pool.submit(do, job, max_tries) for job in jobs]
        for task in concurrent.futures.as_completed(tasks):
            yield task.result()


def run_on_ray(
    jobs: Sequence[Job],
    max_tries: int,
    num_workers: int,
    address: str | None = None,
) -> Iterator[Outcome]:
    """Does runs on the machines of a Ray cluster.

    They need to share the folders of the jobs, and the environment of Python.

    Args:
        jobs: The runs.
        max_tries: How often to start each at most, on the same machine and,
            where a machine or its worker is lost, on others.
        num_workers: How many run at once on each machine.
        address: Address of the cluster. Defaults to `None`: one of this
            machine alone, for as long as the runs take.

    Yields:
        The outcomes, as they come.

    Raises:
        ImportError: If Ray is not installed.
        ConnectionError: If there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"Expected Ray, for --runner=ray. Received: {error}. "
            '`pip install "fliqs-keras[sweep]"` brings it'
        ) from error
    if address is None:
        ray.init(num_cpus=num_workers, include_dashboard=False)
    else:
        ray.init(address)
    try:
        # A share of a machine, whatever number of CPUs it has.
        machines = [n for n in ray.nodes() if n["Alive"]]
        cpus = min(n["Resources"].get("CPU", 1) for n in machines)
        task = ray.remote(do).options(
            num_cpus=max(1, cpus // num_workers), max_retries=max_tries - 1
        )
        waiting = [task.remote(job, max_tries) for job in jobs]
        while waiting:
            (ready,), waiting = ray.wait(waiting)
            yield ray.get(ready)
    finally:
        ray.shutdown()
