"""The examples in the documentation run."""

import pathlib
import re
import sys

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def read_examples(path):
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.M | re.S)


PAGES = [
    pytest.param(
        path,
        id=path.stem,
        marks=[pytest.mark.tensorflow] if path.stem == "export" else [],
    )
    for path in sorted(DOCS.glob("*.md"))
    if read_examples(path)
]


@pytest.mark.parametrize("path", PAGES)
def test_examples_of_a_page_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": path.stem}
    for example in read_examples(path):
        exec(compile(example, str(path), "exec"), names)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
