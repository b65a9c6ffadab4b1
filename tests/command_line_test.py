"""Recipes say what is wrong in one line, and how to put it right."""

import importlib
import pathlib
import pkgutil
import re
import sys

import pytest
from absl import app, flags
from absl.testing import flagsaver

import recipes
from recipes import command_line

# Recipes run on TensorFlow.
pytestmark = pytest.mark.tensorflow

MODULES = {
    module.name: importlib.import_module(f"recipes.{module.name}")
    for module in pkgutil.iter_modules(recipes.__path__)
}
RECIPES = [name for name, module in MODULES.items() if hasattr(module, "main")]
# The first `app.run` of a process defines --help; `flagsaver` would undo it.
app.define_help_flags()
# They train nothing, or nothing for long.
SMALL = ["--model=conv_net", "--epochs=1"]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a recipe in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        # As `python -m` does, under which the flags of a main module stand.
        program = f"{name}.py"
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
            command_line.run(MODULES[name].main)
        return caught.value.code, capsys.readouterr()

    return run


@pytest.mark.parametrize("name", RECIPES)
def test_help_lists_every_flag_with_its_help(name, call):
    _, captured = call(name, "--help")
    source = pathlib.Path(MODULES[name].__file__).read_text()
    shared = re.findall(r"(\w+_flags)\.[A-Z_]+\.value", source)
    taken = [
        flag
        for module in {name, *shared}
        for flag in flags.FLAGS.get_key_flags_for_module(f"recipes.{module}")
    ]
    assert taken
    for flag in taken:
        assert f"--{flag.name}" in captured.out.replace("[no]", "")
        assert flag.help.strip()
    assert MODULES[name].__doc__.count(f"python -m recipes.{name}") >= 1


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "argument, message",
    [
        ("--no_such_flag=1", "Unknown command line flag 'no_such_flag'"),
        ("runs/digits", "Expected flags only. Received: ['runs/digits']"),
    ],
    ids=["unknown_flag", "no_flag"],
)
def test_unknown_arguments_end_in_one_line(name, argument, message, call):
    code, captured = call(name, argument)
    assert code == 2
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert "--help lists" in captured.err and not captured.out


WRONG_FLAGS = [
    ("search", ["--epoch=3"], "Did you mean: epochs"),
    ("search", ["--epochs=0"], "0 is not a positive integer"),
    ("search", ["--epochs=many"], "invalid literal"),
    ("search", ["--model=resnet"], "path of a .keras file"),
    ("search", ["--controller=luck"], "<sensitivity|reinforce>"),
    ("train", ["--batch_size=-1"], "positive integer"),
    ("figures", ["--type=gif"], "<png|svg|pdf>"),
    ("clipping_study", ["--network=resnet"], "narrow_resnet"),
    ("study", ["--spaces=wide,narrow"], "wide, fliqs_s, fliqs_l"),
    ("study", ["--seeds=one"], "Expected whole numbers"),
    ("study", ["--uniform_formats=INT33"], "INT2, INT3"),
    ("search", ["--formats="], "Expected formats"),
    ("sweep", ["--formats="], "Expected formats"),
    ("sweep", ["--target_factors=1.2,b"], "Expected numbers"),
    ("sweep", ["--model=resnet"], "path of a .keras file"),
    ("pareto", ["--space=wide"], "<fliqs_s|fliqs_l|"),
    ("pareto", ["--factor=0.5"], "0.5 is not number >= 1.0"),
]
WRONG_SETTINGS = [
    ("search", ["--model=none.keras", "--epochs=1"], "which is not there"),
    ("search", ["--dataset=imagenet"], "'digits'"),
    ("nas_study", ["--draw_only", "--workdir=none"], "without --draw_only"),
    ("search", [*SMALL, "--formats=INT4,INT99"], "of 2 to 16 bits"),
    ("search", [*SMALL, "--formats=INT8"], "trains without a search"),
    ("search", [*SMALL, "--target_format=INT5"], "INT5"),
    ("search", [*SMALL, "--target_factor=99"], "to be between"),
    ("train", [*SMALL, "--assignment=none.json"], "that is there"),
    ("train", [*SMALL, "--every_tensor=INT8"], "with --assignment"),
    ("search", [*SMALL, "--every_tensor=INT99"], "of 2 to 16 bits"),
    ("train", [*SMALL, "--assignment=INT99"], "of 2 to 16 bits"),
    ("train", [*SMALL, "--workdir=a_file"], "Choose another path"),
    ("evaluate", ["--workdir=none"], "`python -m recipes.search"),
    ("export", ["--workdir=none"], "Received: none"),
    (
        "export",
        ["--workdir=none", "--file_format=onnx", "--mode=integer"],
        "--file_format=onnx with --mode",
    ),
    ("figures", ["--workdir=none"], "`python -m recipes.search"),
    ("screenshots", ["--workdir=none"], "recipes.search --workdir"),
    ("sensitivity", [*SMALL, "--measured_formats=INT8"], "two formats"),
    ("sensitivity", [*SMALL, "--measured_formats=INT4,8"], "'8'"),
    ("study", ["--spaces=fliqs_s", "--methods=uniform"], "--spaces=wide"),
    ("study", ["--spaces=wide", "--seeds="], "that leave runs"),
    ("sweep", ["--seed=3"], "Expected --num_seeds"),
    ("sweep", ["--target_factor=3"], "Expected --target_factors"),
    ("sweep", ["--ray_address=auto"], "with --runner=ray"),
    ("pareto", ["--draw_only", "--workdir=none"], "without --draw_only first"),
]


def ids(cases):
    return [f"{name} {arguments[-1]}" for name, arguments, _ in cases]


@pytest.mark.parametrize(
    "name, arguments, message", WRONG_FLAGS, ids=ids(WRONG_FLAGS)
)
def test_wrong_flags_end_in_one_line(name, arguments, message, call):
    code, captured = call(name, *arguments)
    assert code == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "name, arguments, message", WRONG_SETTINGS, ids=ids(WRONG_SETTINGS)
)
def test_wrong_settings_end_in_one_line(
    name, arguments, message, call, tmp_path
):
    (tmp_path / "a_file").write_text("")
    code, captured = call(name, *arguments)
    assert code == 1
    assert message in captured.err
    assert "Traceback" not in captured.err
    # Other lines are logs of libraries.
    assert sum("Received: " in line for line in captured.err.split("\n")) == 1


def test_a_run_that_could_not_begin_leaves_its_folder_free(call, tmp_path):
    arguments = ["--workdir=run", "--epochs=1", "--batch_size=512"]
    code, _ = call("train", *arguments, "--model=none.keras")
    assert code == 1 and (tmp_path / "run" / "config.json").exists()
    code, _ = call("train", *arguments, "--model=conv_net")
    assert code is None and (tmp_path / "run" / "report.json").exists()
    code, captured = call("train", *arguments, "--model=depthwise_net")
    assert code == 1 and "Choose another --workdir" in captured.err


@pytest.mark.parametrize(
    "error, message",
    [
        (ConnectionError("no cluster"), "no cluster\n"),
        (RuntimeError("Expected a file\nthat"), "Expected a file that\n"),
        (FileNotFoundError("a_file"), "Choose another path\n"),
    ],
)
def test_what_ends_a_run_is_said_in_one_line(
    error, message, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["recipe.py"])

    def main(argv):
        raise error

    with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
        command_line.run(main)
    captured = capsys.readouterr().err
    assert caught.value.code == 1
    assert captured.endswith(message) and captured.count("\n") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, RecursionError])
def test_faults_of_the_program_keep_their_trace(error, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.py"])

    def main(argv):
        raise error

    with flagsaver.flagsaver(), pytest.raises(error):
        command_line.run(main)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
