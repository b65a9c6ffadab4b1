"""The BUILD file is the architecture: it must say what the imports say."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("fliqs_keras", "recipes", "benchmarks", "tests")


def read_targets(build: str) -> list[dict]:
    """Returns the targets of a BUILD file, in order."""
    targets = []
    for statement in ast.parse(build).body:
        call = statement.value
        rule = call.func.id if isinstance(call, ast.Call) else ""
        if rule.startswith("py_"):
            fields = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            targets.append({"rule": rule, "deps": [], **fields})
    return targets


def imported_files(source: str, files: set[str]) -> set[str]:
    """Returns the files of the repository that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = f"{full.replace('.', '/')}.py" in files
                names.add(full if is_module else node.module)
    paths = {name.replace(".", "/") for name in names}
    candidates = {f"{path}.py" for path in paths}
    candidates |= {f"{path}/__init__.py" for path in paths}
    return candidates & files


def find_problems(build: str, sources: dict[str, str]) -> list[str]:
    """Returns what is wrong with a BUILD file, given all sources."""
    targets = read_targets(build)
    owners = {}
    problems = []
    for target in targets:
        for file in target["srcs"]:
            if file in owners:
                problems.append(f"{file} is in two targets")
            owners[file] = target["name"]
    problems += [f"{file} is in no target" for file in set(sources) - {*owners}]
    problems += [f"{file} is not there" for file in {*owners} - set(sources)]
    seen = set()
    for target in targets:
        name = target["name"]
        wanted = {
            f":{owners[file]}"
            for source in target["srcs"]
            for file in imported_files(sources.get(source, ""), set(sources))
            if owners.get(file, name) != name
        }
        declared = set(target["deps"])
        problems += [f"{name} lacks {dep}" for dep in wanted - declared]
        problems += [f"{name} needs no {dep}" for dep in declared - wanted]
        problems += [f"{name} stands above {d}" for d in declared - seen]
        seen.add(f":{name}")
        folder = target["srcs"][0].split("/")[0]
        if folder in ("recipes", "benchmarks"):
            problems += [
                f"{name} imports the private {dep}"
                for dep in declared
                if dep != ":fliqs_keras"
                and not dep.startswith((f":{folder}/", ":recipes/"))
            ]
        is_public = target.get("visibility") == ["//visibility:public"]
        if is_public != (name == "fliqs_keras"):
            problems.append(f"the visibility of {name} is wrong")
        if (target["rule"] == "py_test") != name.endswith("_test"):
            problems.append(f"{name} has the wrong rule")
    return problems


@pytest.fixture(scope="module")
def build():
    return (ROOT / "BUILD").read_text()


@pytest.fixture(scope="module")
def sources():
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }


def test_build_says_what_the_imports_say(build, sources):
    assert find_problems(build, sources) == []


MUTATIONS = {
    "file_in_no_target": (
        lambda b, s: (b, {**s, "fliqs_keras/new.py": ""}),
        "in no target",
    ),
    "missing_file": (
        lambda b, s: (
            b,
            {k: v for k, v in s.items() if k != "fliqs_keras/files.py"},
        ),
        "is not there",
    ),
    "file_in_two_targets": (
        lambda b, s: (
            b + '\npy_library(name = "x", srcs = ["fliqs_keras/files.py"])',
            s,
        ),
        "in two targets",
    ),
    "undeclared_import_in_a_function": (
        lambda b, s: (
            b,
            {
                **s,
                "fliqs_keras/formats.py": "def f():\n"
                "    from fliqs_keras import costs\n",
            },
        ),
        "formats lacks :costs",
    ),
    "needless_dependency": (
        lambda b, s: (
            b,
            {**s, "fliqs_keras/rounding.py": ""},
        ),
        "rounding needs no :formats",
    ),
    "dependency_below": (
        lambda b, s: (b.replace('name = "formats"', 'name = "forms"'), s),
        "stands above :formats",
    ),
    "recipe_on_private_module": (
        lambda b, s: (
            b.replace(
                'main = "recipes/search.py",\n    deps = [',
                'main = "recipes/search.py",\n    deps = [":costs",',
            ),
            s,
        ),
        "imports the private :costs",
    ),
    "second_public_target": (
        lambda b, s: (
            b.replace(
                'name = "formats",',
                'name = "formats", visibility = ["//visibility:public"],',
            ),
            s,
        ),
        "visibility of formats",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_rule_catches_its_breach(name, build, sources):
    mutate, message = MUTATIONS[name]
    problems = find_problems(*mutate(build, sources))
    assert any(message in problem for problem in problems), problems


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
