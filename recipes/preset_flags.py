"""The flag that sets the defaults of others, for several recipes."""

from absl import flags

from recipes import presets

PRESET = flags.DEFINE_enum(
    "preset",
    None,
    list(presets.PRESETS),
    "Set-up of the paper, or like it, whose settings the other flags default "
    "to.",
)


def use(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Sets the defaults of the recipe's other flags to those of the preset.

    Flags that were given keep their values. Without `--preset`, nothing
    changes.

    Args:
        flag_values: The flags of the recipe, which may be some of those that
            a preset knows.
    """
    name = flag_values["preset"].value
    if name is None:
        return
    for flag, value in presets.PRESETS[name].flags().items():
        if flag in flag_values:
            flag_values.set_default(flag, value)
