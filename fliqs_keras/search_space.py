"""What a search may choose from."""

import dataclasses
from collections.abc import Sequence

from fliqs_keras.formats import Format, parse_format

__all__ = ["SearchSpace"]


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The formats that each layer of a model may take.

    One decision a layer: its weights and its input take the same format.

    Args:
        formats: Formats or their names, at least one, each once. A single
            format is plain quantization-aware training.

    Raises:
        ValueError: If `formats` is empty, holds a format twice, or holds an
            unknown name.

    Example:

    >>> SearchSpace(["INT4", "INT8"]).formats
    (IntFormat(width=4), IntFormat(width=8))
    """

    formats: Sequence[str | Format]

    def __post_init__(self):
        if isinstance(self.formats, str | Format):
            object.__setattr__(self, "formats", (self.formats,))
        formats = tuple(parse_format(f) for f in self.formats)
        if not formats:
            raise ValueError(
                "Expected a search space of at least one format. Received: "
                "formats=[]"
            )
        if len(set(formats)) < len(formats):
            raise ValueError(
                "Expected each format of a search space once. Received: "
                f"formats={[f.name for f in formats]}"
            )
        object.__setattr__(self, "formats", formats)

    @classmethod
    def of(
        cls, search_space: "SearchSpace | str | Format | Sequence[str | Format]"
    ) -> "SearchSpace":
        """Returns a space as it is, or the space of the given formats."""
        return (
            search_space if isinstance(search_space, cls) else cls(search_space)
        )
