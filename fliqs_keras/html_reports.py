"""A page about a run that needs nothing but a browser."""

import base64
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fliqs_keras import plots
from fliqs_keras.files import write_atomically
from fliqs_keras.reports import ModelSummary, cells_of

__all__ = ["write_html_report"]

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; color: #1b1b1f;
  background: #fff; font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0.5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem; }
.facts { display: grid; gap: 0.75rem; margin: 0;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.facts div { background: #f2f4f7; border-radius: 0.5rem; padding: 0.6rem; }
dt { color: #5a6068; font-size: 0.8rem; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.figures { columns: 26rem; column-gap: 1.5rem; margin-top: 1.5rem; }
figure { margin: 0 0 1.5rem; max-width: 34rem; break-inside: avoid; }
figcaption { font-weight: 600; margin-bottom: 0.25rem; }
img { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; white-space: nowrap; }
th, td { padding: 0.3rem 0.6rem; text-align: left;
  border-bottom: 1px solid #dde1e6; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
""".strip()

_COLUMNS = ("layer", "class", "weights", "activations")
_NUMBERS = ("parameters", "MACs", "bytes")


def write_html_report(
    path: str | os.PathLike,
    model_summary: ModelSummary,
    *,
    title: str,
    facts: Mapping[str, Any] | None = None,
    records: Sequence[Mapping[str, Any]] = (),
    sensitivity: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes a page about a quantized model and the search that led to it.

    The file holds its style and its figures, so that it needs no network, and
    reads well on a phone. Without matplotlib it has no figures and says so.

    Args:
        path: The HTML file to write.
        model_summary: What `fliqs_keras.summary` returns.
        title: Heading of the page.
        facts: What to show first, such as an accuracy; numbers with a decimal
            point are shown to 4 digits.
        records: The log of the search, from `fliqs_keras.read_search_log`.
        sensitivity: `FormatSearch.sensitivity`.

    Example:

    >>> fliqs_keras.write_html_report(
    ...     "report.html",
    ...     fliqs_keras.summary(model),
    ...     title="My model",
    ...     facts={"accuracy": 0.983},
    ... )
    """
    figures: list[tuple[str, Callable[[], Any]]] = [
        ("Formats", lambda: plots.format_map(model_summary))
    ]
    if sensitivity:
        figures.append(
            (
                "What each format adds to the loss",
                lambda: plots.sensitivities(sensitivity),
            )
        )
    if records:
        figures.append(("The search", lambda: plots.search_curves(records)))
    if records and "probabilities" in records[0]:
        figures.append(("Policy", lambda: plots.policy(records)))
    body = [
        f"<h1>{html.escape(title)}</h1>",
        _facts(facts or {}),
        _figures(figures),
        "<h2>Layers</h2>",
        _table((*_COLUMNS, *_NUMBERS), map(cells_of, model_summary.quantized)),
    ]
    if model_summary.left_out:
        rows = [
            (r.path, r.layer_class, r.reason, f"{r.parameters:,}")
            for r in model_summary.left_out
        ]
        header = ("layer", "class", "reason", "parameters")
        body += ["<h2>Left in float</h2>", _table(header, rows)]
    write_atomically(path, _page(title, "\n".join(body)))


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, '
        'initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n"
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    cells = []
    for name, value in facts.items():
        is_float = isinstance(value, float | np.floating)
        shown = f"{value:.4g}" if is_float else str(value)
        cells.append(
            f"<div><dt>{html.escape(name)}</dt>"
            f"<dd>{html.escape(shown)}</dd></div>"
        )
    return f'<dl class="facts">{"".join(cells)}</dl>' if cells else ""


def _figures(figures: Sequence[tuple[str, Callable[[], Any]]]) -> str:
    parts = []
    try:
        for caption, draw in figures:
            parts.append(
                f"<figure><figcaption>{caption}</figcaption>"
                f'<img alt="{caption}" src="{_data_url(draw())}"></figure>'
            )
    except ImportError as error:
        return f"<p>No figures. {html.escape(str(error))}.</p>"
    return f'<div class="figures">{"".join(parts)}</div>'


def _data_url(figure: Any) -> str:
    import matplotlib

    # An image of its own: the names in one SVG do not meet those in another.
    buffer = io.BytesIO()
    # Without date and random names, the same run leaves the same page.
    with matplotlib.rc_context({"svg.hashsalt": "fliqs_keras"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/svg+xml;base64,{encoded}"


def _table(header: Sequence[str], rows: Any) -> str:
    def row(tag, cells):
        parts = []
        for name, cell in zip(header, cells, strict=True):
            kind = ' class="number"' if name in _NUMBERS else ""
            parts.append(f"<{tag}{kind}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    body = "\n".join(row("td", cells) for cells in rows)
    return (
        f'<div class="scroll"><table><thead>{row("th", header)}</thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )
