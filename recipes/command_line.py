"""How recipes are run: what is wrong is said in one line, without a trace."""

import functools
import sys
import types
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging


def run(main: Callable[[list[str]], None]) -> None:
    """Runs the `main` of a recipe; does not return.

    A wrong flag ends the process with exit code 2, and a setting that turns
    out wrong later (a `ValueError`, `ImportError` or `OSError`, or a
    `RuntimeError`, of a refused export) with exit code 1. The one line that is
    printed says what to do. `--v=1` logs where the error was raised.

    `--help` lists all flags that the recipe takes, also those that it shares
    with others.

    Args:
        main: Takes the command line without its flags, which is the program's
            name alone.
    """
    _adopt_flags(main)
    app.run(functools.partial(_call, main), flags_parser=_parse)


def flag_modules(recipe: types.ModuleType) -> list[str]:
    """Returns the modules whose flags a recipe takes.

    They are the recipe itself and all of this package that it imports.
    """
    names, waiting = [], [recipe]
    while waiting:
        module = waiting.pop()
        if module.__name__ not in names:
            names.append(module.__name__)
            waiting += [
                value
                for value in vars(module).values()
                if isinstance(value, types.ModuleType)
                and value.__name__.startswith("recipes.")
            ]
    return names


def _adopt_flags(main: Callable) -> None:
    for name in flag_modules(sys.modules[main.__module__]):
        for flag in flags.FLAGS.get_key_flags_for_module(name):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        _end(f"{error}. --help lists the flags", exit_code=2)
    if len(rest) > 1:
        _end(
            f"Expected flags only. Received: {rest[1:]}. --help lists them",
            exit_code=2,
        )
    return rest


def _call(main: Callable[[list[str]], None], argv: list[str]) -> None:
    try:
        main(argv)
    except ConnectionError as error:
        _end(str(error))
    except OSError as error:
        _end(
            "Expected paths that can be read and written. Received: "
            f"{error}. Choose another path"
        )
    except (ImportError, ValueError, app.UsageError) as error:
        _end(str(error))
    except RuntimeError as error:
        # Those derived from it are faults of the program.
        if type(error) is not RuntimeError:
            raise
        _end(str(error))


def _end(message: str, exit_code: int = 1) -> NoReturn:
    logging.vlog(1, "Raised here:", exc_info=True)
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(exit_code)
