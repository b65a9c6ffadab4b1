"""Results of a study in a file, one a line, so that it can be continued."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from recipes import training


class ResultLines:
    """Results in a file of JSON lines, each written as soon as it is there.

    A line that was cut short, by a run that was killed, is dropped.

    Args:
        path: The file. If it is there, its results are read.

    Raises:
        ValueError: If a line other than the last one is no JSON object.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self.results: list[dict[str, Any]] = []
        lines = path.read_bytes().splitlines(True) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            # The end of the line is the last thing written.
            if not line.endswith(b"\n"):
                with path.open("r+b") as file:
                    file.truncate(sum(map(len, lines[:-1])))
                break
            self.results.append(_parse(line, number, path))

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the result that holds all items of `key`, if there is one."""
        wanted = json.loads(json.dumps(key))
        for result in self.results:
            if all(result.get(k) == v for k, v in wanted.items()):
                return result
        return None

    def complete(
        self,
        runs: Iterable[Any],
        do: Callable[[Any], Mapping[str, Any] | None],
    ) -> None:
        """Does the runs whose results are not there yet.

        Args:
            runs: Dataclasses, whose fields the results hold.
            do: Does a run and returns its result, or `None` if it cannot be
                done.
        """
        for run in runs:
            if self.find(dataclasses.asdict(run)) is None:
                result = do(run)
                if result is not None:
                    self.add(result)
                    print(run, result["accuracy"], flush=True)

    def add(self, result: Mapping[str, Any]) -> None:
        """Writes a result and its versions to the end of the file."""
        line = json.dumps({**result, "versions": training.versions()})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(line + "\n")
        # As it will be read: tuples are lists, for one.
        self.results.append(json.loads(line))


def _parse(line: bytes, number: int, path: pathlib.Path) -> dict[str, Any]:
    try:
        result = json.loads(line)
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise ValueError(
            "Expected a JSON object a line. Received: line "
            f"{number} of {str(path)!r}, which is none. Remove it, or choose "
            "another file"
        )
    return result
