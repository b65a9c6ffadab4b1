"""Presets: what they say, and that given flags win over them."""

import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from fliqs_keras import paper_results
from recipes import data, models, preset_flags, presets, search, training

# Recipes run on TensorFlow.
pytestmark = pytest.mark.tensorflow

SPACES = {
    "fliqs_s": "FLIQS-S",
    "fliqs_l_float": "FLIQS-L float",
    "fliqs_l_int": "FLIQS-L integer",
}


@pytest.fixture
def parse():
    """Parses a command line of recipes.search, and applies its preset."""
    with flagsaver.flagsaver():

        def parse(*arguments):
            flags.FLAGS(["search", *arguments])
            preset_flags.use()
            return flags.FLAGS.flag_values_dict() | search.settings()

        yield parse


@pytest.mark.parametrize(
    "name", [n for n, preset in presets.PRESETS.items() if preset.is_paper]
)
def test_targets_are_the_costs_that_the_paper_found(name):
    preset = presets.PRESETS[name]
    results = paper_results.PAPER_RESULTS[preset.model]
    space = SPACES[name.removeprefix(f"{preset.model}_")]
    uniform, _ = results["E2M1"]
    found, _ = results[space]
    assert preset.target_factor * uniform == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_all_of_a_preset_is_set(name, parse):
    values = parse(f"--preset={name}")
    wanted = presets.PRESETS[name].flags()
    assert {flag: values[flag] for flag in wanted} == wanted
    assert models.is_name(values["model"])
    assert values["dataset"] in data.DATASETS
    assert values["optimizer"] in training.OPTIMIZERS


def test_given_flags_win(parse):
    values = parse(
        "--preset=resnet18_fliqs_s",
        "--epochs=40",
        "--formats=INT4,INT8",
    )
    # 40 epochs are the default without a preset, too.
    assert values["epochs"] == 40
    assert values["formats"] == ["INT4", "INT8"]
    assert values["target_format"] == "INT4"
    assert values["batch_size"] == 256


def test_sets_of_one_size_of_images_go_with_a_preset(parse):
    values = parse("--preset=resnet18_fliqs_s", "--dataset=digits")
    assert data.from_config(values).image_shape == (8, 8, 1)
    with pytest.raises(ValueError, match="--image_size=32"):
        data.from_config({**values, "image_size": 32})


def test_without_a_preset_nothing_changes(parse):
    values = parse()
    assert (values["model"], values["batch_size"]) == ("depthwise_net", 64)


def test_unknown_preset_is_refused_with_the_choices(parse):
    with pytest.raises(flags.IllegalFlagValueError) as error:
        parse("--preset=vgg_fliqs_s")
    (line,) = str(error.value).splitlines()
    assert "resnet50_fliqs_l_int" in line and "vgg_fliqs_s" in line


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
