"""Names of layers and formats in figures, and the colours of formats."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fliqs_keras.formats import parse_format


def plain(names: Iterable[str]) -> list[str]:
    """Returns names in which dollars begin no formula."""
    return [name.replace("$", r"\$") for name in names]


def is_format(name: str | None) -> bool:
    """Returns whether it is one format; "float" is a quantizer that is off."""
    return name is not None and name != "float" and "," not in name


def by_bits(names: Iterable[str]) -> list[str]:
    """Returns each of some formats once, the narrowest first; then sizes."""
    # Sizes are written in digits, as JSON has keys.
    return sorted(
        {*names},
        key=lambda name: (
            name.isdigit(),
            int(name) if name.isdigit() else parse_format(name).bits,
            name,
        ),
    )


def colors_of(names: Iterable[str]) -> dict[str, Any]:
    """Returns a colour for each of some formats, by bits."""
    import matplotlib

    names = by_bits(names)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(names)))
    return dict(zip(names, shades, strict=True))


def add_legend(figure: Any, colors: Mapping[str, Any]) -> None:
    """Adds the colours of formats below a figure."""
    from matplotlib import patches

    handles = [patches.Patch(color=c, label=n) for n, c in colors.items()]
    columns = min(len(handles), 5) or 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
