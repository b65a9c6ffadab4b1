"""The flag that sets the defaults of others, for several recipes."""

from absl import flags

from recipes import data, presets

PRESET = flags.DEFINE_enum(
    "preset",
    None,
    list(presets.PRESETS),
    "Set-up of the paper, or like it, whose settings the other flags default "
    "to.",
)


def use(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Sets the defaults of the recipe's other flags to those of the preset.

    Flags that were given keep their values, and so do those that the data
    does not read. Without `--preset`, nothing changes.

    Args:
        flag_values: The flags of the recipe, which may be some of those that
            a preset knows.
    """
    name = flag_values["preset"].value
    if name is None:
        return
    values = presets.PRESETS[name].flags()
    flag_values.set_default("dataset", values["dataset"])
    if "image_size" not in data.options_of(flag_values["dataset"].value):
        del values["image_size"]
    for flag, value in values.items():
        if flag in flag_values:
            flag_values.set_default(flag, value)
