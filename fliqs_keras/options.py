"""What a decision chooses from: number formats, or sizes of a network."""

from fliqs_keras.formats import Format, parse_format

# A size is a number of channels or heads, a kernel size, or a depth.
Option = Format | int


def parse_option(value: str | Option) -> Option:
    """Returns a size as it is, or the format of a name.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return parse_format(value)


def option_to_json(option: Option) -> str | int:
    """Returns an option as JSON holds it: a format by its name."""
    return option.name if isinstance(option, Format) else option


def width_of(option: Option) -> int:
    """Returns what makes options comparable: bits, or the size."""
    return option.bits if isinstance(option, Format) else option
