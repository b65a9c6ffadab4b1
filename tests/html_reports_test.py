"""The page about a run: whole, self-contained, and safe."""

import base64
import html.parser
import re
import sys

import numpy as np
import pytest

import fliqs_keras
from fliqs_keras.reports import LayerRow

ROW = LayerRow("conv", "Conv2D", "INT4", "INT8", 1234, 56789, 617)
LEFT = LayerRow("norm<1>", "MyNorm", None, None, 8, None, 32, "no kernel")
SUMMARY = fliqs_keras.ModelSummary((ROW,), (LEFT,))
RECORDS = [
    {
        "step": step,
        "loss": 1.0,
        "cost": 2.0,
        "target": 2.0,
        "formats": {"conv": "INT4"},
        "probabilities": {"conv": {"INT4": 0.5, "INT8": 0.5}},
    }
    for step in (0, 1)
]


class Reader(html.parser.HTMLParser):
    """Collects the tags, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.cells = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[k] for k in ("src", "href") if k in values]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "dd"):
            self.cells.append(data)


def write(tmp_path, **kwargs):
    path = tmp_path / "report.html"
    fliqs_keras.write_html_report(path, SUMMARY, title="A & B", **kwargs)
    return path.read_text()


def test_page_holds_all_it_needs(tmp_path):
    pytest.importorskip("matplotlib")
    page = write(
        tmp_path,
        facts={
            "accuracy": 0.98765,
            "float accuracy": np.float32(0.91234),
            "bytes": "1,000",
        },
        records=RECORDS,
        sensitivity={"conv": {"INT4": (0.1, 0.01), "INT8": (0.0, 0.0)}},
    )
    reader = Reader(page)
    assert reader.open == []
    # Formats, sensitivities, the search and the policy.
    assert len(reader.links) == 4
    for link in reader.links:
        prefix, data = link.split(",", 1)
        assert prefix == "data:image/svg+xml;base64"
        image = base64.b64decode(data).decode()
        # The only addresses in it are names of vocabularies.
        assert not re.search(r'(?:href|src)="http', image)
    assert "<script" not in page and "@import" not in page
    assert reader.cells == [
        *("0.9877", "0.9123", "1,000"),
        *("conv", "Conv2D", "INT4", "INT8", "1,234", "56,789", "617"),
        *("norm<1>", "MyNorm", "no kernel", "8"),
    ]
    assert '<meta name="viewport"' in page


def test_the_same_run_leaves_the_same_page(tmp_path):
    pytest.importorskip("matplotlib")
    assert write(tmp_path, records=RECORDS) == write(tmp_path, records=RECORDS)


def test_what_is_not_known_is_left_out(tmp_path):
    pytest.importorskip("matplotlib")
    reader = Reader(write(tmp_path))
    assert len(reader.links) == 1
    assert "dl" not in reader.open


def test_text_is_escaped(tmp_path):
    page = write(tmp_path, facts={"<b>": "<script>alert(1)</script>"})
    assert "<title>A &amp; B</title>" in page
    assert "<script" not in page and "<b>" not in page


def test_without_matplotlib_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = write(tmp_path)
    assert "No figures." in page and "fliqs-keras[plots]" in page
    assert "56,789" in page


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
