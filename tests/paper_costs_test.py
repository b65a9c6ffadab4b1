"""Bit operations of the paper's networks, to the digits that it prints."""

import functools
import sys

import pytest

import fliqs_keras
from recipes import paper_costs, paper_models

pytestmark = pytest.mark.slow

FORMATS = ("E2M1", "E4M3", "BF16")
# Printed a unit of the last digit lower than rounded, as if cut off.
CUT_OFF = {
    ("mobilenet_v2_0.5", "E4M3"),
    ("mobilenet_v2_1.4", "E2M1"),
    ("mobilenet_v2_1.4", "E4M3"),
}


@functools.lru_cache(maxsize=None)
def cost_table(name):
    """Returns the GBOPs of each format of each layer."""
    model = fliqs_keras.apply(paper_models.build(name), FORMATS)
    layers = fliqs_keras.FormatAssignment.from_model(model)
    rows = fliqs_keras.BitOps().table(model)
    return {
        layer: dict(zip(FORMATS, row, strict=True))
        for layer, row in zip(layers, rows, strict=True)
    }


def as_printed(cost, printed):
    decimals = len(printed.partition(".")[2])
    # The largest are printed to four digits.
    return f"{cost:.{decimals}f}" if decimals else f"{float(f'{cost:.4g}'):.0f}"


@pytest.mark.parametrize(
    "name, number_format, printed",
    [
        pytest.param(name, f, printed, id=f"{name}-{f}")
        for name, costs in paper_costs.PRINTED_GBOPS.items()
        for f, printed in zip(FORMATS, costs, strict=True)
    ],
)
def test_uniform_formats(name, number_format, printed):
    table = cost_table(name)
    cost = sum(row[number_format] for row in table.values())
    if (name, number_format) in CUT_OFF:
        assert f"{cost:.4f}".startswith(printed)
    else:
        assert as_printed(cost, printed) == printed


@pytest.mark.parametrize(
    "name, wider, printed",
    [
        ("resnet18", {"head"}, "30.80"),
        ("resnet18_1.25", {"head", "stem"}, "54.60"),
    ],
    ids=["width_1", "width_1.25"],
)
def test_formats_that_the_paper_found(name, wider, printed):
    table = cost_table(name)
    projections = {layer for layer in table if layer.endswith("projection")}
    assert len(projections) == 4
    cost = sum(
        row["E4M3" if layer in wider | projections else "E2M1"]
        for layer, row in table.items()
    )
    assert as_printed(cost, printed) == printed


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
