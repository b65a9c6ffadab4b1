"""Files that are whole or not there."""

import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any


def write_atomically(
    path: str | os.PathLike,
    content: str | bytes,
    *,
    check: Callable[[str], None] | None = None,
) -> None:
    """Writes a file under a temporary name beside it, then renames it.

    A failure leaves what was at `path` as it was.

    Args:
        path: The file to write.
        content: What it holds; text is encoded as UTF-8.
        check: Called with the temporary name; an error that it raises leaves
            no new file.
    """
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}."
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if check is not None:
            check(temporary)
        # A temporary file is private; a result is as readable as any other.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: If it holds no JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Expected a JSON object in {os.fspath(path)!r}. Received: {error}"
        ) from error
