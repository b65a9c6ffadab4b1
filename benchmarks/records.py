"""What a benchmark leaves behind: its JSON, and its table in the README."""

import json
import pathlib
from typing import Any

FOLDER = pathlib.Path(__file__).parent


def write(name: str, result: Any, text: str, folder: pathlib.Path = FOLDER):
    """Writes `<name>.json`, and the text into its place in `README.md`.

    Args:
        name: Name of the benchmark.
        result: What JSON can hold.
        text: Markdown for between the comments `<!-- name -->` and
            `<!-- /name -->` of the README.
        folder: Where both files are.

    Raises:
        ValueError: If the README has no place for it. Nothing is written
            then.
    """
    readme = folder / "README.md"
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = readme.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(
            f"Expected {begin.strip()!r} and {end!r} in {str(readme)!r}. "
            "Received: a file without them"
        )
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    readme.write_text(f"{before}{begin}{text}\n{end}{after}")
