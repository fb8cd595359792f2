"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from harness.cli import COMMANDS
from harness.stages import load_command

ROOT = Path(__file__).parents[2]
PRODUCT = sorted(
    path for stage in ("harness", "trainers", "evals", "leaderboards") for path in ROOT.glob(f"{stage}/**/*.py")
)
LOADERS = {"import_module", "__import__", "spec_from_file_location", "entry_points", "run_module", "run_path"}
MAY_LOAD = {
    "harness/stages.py": "the declared interface of the stages and the sub-commands",
    "harness/plugins.py": "strategies and adapters in files of the user's own; architectures that are installed",
    "trainers/plugins.py": "strategies and signals: the built-in files, and installed plug-ins",
    "harness/trackers.py": "packages of experiment trackers, which are optional",
}


def loads(tree: ast.AST) -> list[str]:
    """Every call and import in a file that loads code by its name."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            names.append(function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""))
        elif isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names]
    return [name for name in names if name in LOADERS]


def test_nothing_is_loaded_by_name_outside_the_declared_modules():
    found = {path.relative_to(ROOT).as_posix(): loads(ast.parse(path.read_text())) for path in PRODUCT}
    assert len(found) > 100
    assert {file for file, names in found.items() if names} <= MAY_LOAD.keys()


@pytest.mark.parametrize(
    "code",
    [
        "import importlib\nimportlib.import_module('evals.suites')",
        "from importlib import import_module as load\nload('evals.suites')",
        "__import__('evals.suites')",
        "from importlib import metadata\nmetadata.entry_points(group='moemix.stages')",
    ],
)
def test_loading_by_name_is_seen(code):
    assert loads(ast.parse(code))


def imports(files: dict[str, str]) -> dict[str, set[str]]:
    """Return file → the files that it imports, anywhere and for whatever reason; both are named as modules."""
    found: dict[str, set[str]] = {}
    for name, text in files.items():
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
        named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                named |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        # `from package import name` means the file `name` where there is one; the package is then no import of its own
        packages = {module.rpartition(".")[0] for module in named & files.keys() if module.count(".")}
        found[name] = (named & files.keys()) - packages - {name}
    return found


def test_no_files_import_each_other_in_a_circle():
    names = {path: path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in PRODUCT}
    graph = imports({name.removesuffix(".__init__"): path.read_text() for path, name in names.items()})
    assert sum(map(len, graph.values())) > 500
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the files of a circle
    assert len(order) == len(graph)


def test_a_circle_of_files_is_seen():
    files = {"a.one": "from a.two import f", "a.two": "def f():\n    from a import one"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(imports(files)).prepare()


def test_no_file_of_the_stages_stands_in_a_string_that_starts_python():
    said = [path for path in PRODUCT if '"harness.cli"' in path.read_text()]
    assert {path.relative_to(ROOT).as_posix() for path in said} <= {"harness/launch.py", "trainers/parallel/launch.py"}


def test_every_command_is_declared_and_loads():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["moemix.commands"]
    installed = metadata.distribution("moemix").entry_points.select(group="moemix.commands")
    assert {point.name: point.value for point in installed} == declared
    assert declared.keys() == COMMANDS.keys()
    for name in COMMANDS:
        assert load_command(name).name in (name, name.replace("-", "_"))


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}
    owners = metadata.packages_distributions()
    for path in [*PRODUCT, ROOT / "moemix.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                packages = {o.lower().replace("_", "-").removesuffix("-cpu") for o in owners.get(name, [name])}
                assert packages & (declared | {"moemix"}), f"{path}: {name} is not declared"
