"""Reading a recipe from a YAML file or by its built-in name, and changing it by dotted keys.

There is one override language: ``a.b=c`` (``--set`` on the command line, ``overrides:`` on a strategy or model).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from harness import schema
from harness.errors import MoemixError, nearest, raise_all
from harness.files import parse_yaml, yaml_value
from harness.recipe import Recipe
from harness.schema import parse

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the built-in recipes (``paper/table1`` for a file in a folder)."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


class Places:
    """Where each key of a recipe stands: the line of its file, or the ``--set`` that gave it.

    Args:
        file: the file, as errors name it.
        node: the file's YAML nodes.
    """

    def __init__(self, file: str, node: yaml.Node | None = None) -> None:
        self.file, self._node = file, node
        self.settings: dict[schema.Keys, str] = {}

    def __call__(self, path: schema.Keys) -> str:
        """Return the place of a key, or of the nearest key above it that has one."""
        for given, text in reversed(self.settings.items()):
            if given[: len(path)] == path or given == path[: len(given)]:
                return f"--set {text}"
        node, line = self._node, 0
        for key in path:
            children: dict[str, tuple[yaml.Node, yaml.Node]] = {}
            if isinstance(node, yaml.MappingNode):
                children = {name.value: (name, value) for name, value in node.value}
            elif isinstance(node, yaml.SequenceNode):
                children = {str(i): (item, item) for i, item in enumerate(node.value)}
            if key not in children:
                break
            name, node = children[key]
            line = name.start_mark.line + 1
        return f"{self.file}:{line}" if line else self.file


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe by name or from a YAML file, with ``a.b=c`` overrides applied.

    Raises:
        MoemixError: no such recipe, a bad YAML line, an unknown key, or a value of the wrong kind.
    """
    return locate_recipe(name_or_path, overrides)[0]


def locate_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> tuple[Recipe, Places]:
    """Return a recipe as :func:`load_recipe` does, and the places of its keys."""
    if name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).is_file():
        path = Path(name_or_path)
        if not path.is_file():
            raise MoemixError("the recipe file does not exist", where=name_or_path)
    elif name_or_path in recipe_names():
        path = RECIPES / f"{name_or_path}.yaml"
    else:
        what = "is a folder" if Path(name_or_path).is_dir() else "is neither a built-in recipe nor a file"
        hint = f"{nearest(name_or_path, recipe_names())}, or a YAML file"
        raise MoemixError(f"unknown recipe {name_or_path!r}: it {what}", hint=hint)
    tree, node, problems = parse_yaml(path)
    if not isinstance(tree, dict):
        raise MoemixError("expected a mapping of keys, a recipe", where=str(path))
    places = Places(str(path), node)
    tree.setdefault("name", path.stem.lower())
    for setting in overrides:
        key, value = parse_setting(setting)
        try:
            places.settings[set_value(tree, key, value)] = setting
        except MoemixError as error:
            raise MoemixError(f"`{error.where}`: {error.message}", where=f"--set {setting}", hint=error.hint) from None
    try:
        recipe = parse(Recipe, tree, where=places)
    except MoemixError as error:
        raise_all([*problems, *getattr(error, "problems", [error])])
        raise
    raise_all(problems)
    return recipe, places


def parse_setting(text: str) -> tuple[str, object]:
    """Return the key and the value of ``--set key.subkey=value``; the value is YAML.

    Raises:
        MoemixError: there is no ``=``, or the value is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise MoemixError(f"`--set {text}` has no `=`", hint="expected --set key.subkey=value")
    if not key.strip():
        raise MoemixError("there is no key before `=`", where=f"--set {text}", hint="expected --set key.subkey=value")
    return key.strip(), yaml_value(value, where=f"--set {text}")


def override(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """Return the recipe with dotted keys replaced, validated again."""
    if not changes:
        return recipe
    tree = recipe.model_dump(mode="json")
    for key, value in changes.items():
        set_value(tree, key, value)
    return parse(Recipe, tree, where=f"recipe {recipe.name}")


def set_value(tree: object, dotted: str, value: object) -> schema.Keys:
    """Set ``a.b.c`` in nested mappings and lists, and return its keys; a list takes an index or an item's name.

    An item that is a bare name (``strategies: [uniform, dynamic]``) becomes a mapping where a key below it is set.
    """
    *parents, last = dotted.split(".")
    node, path = tree, list[str]()
    for depth, key in enumerate(parents):
        if isinstance(node, list):
            place = _position(node, key, ".".join(parents[: depth + 1]))
            if isinstance(node[place], str):
                node[place] = {"name": node[place]}
            node, key = node[place], str(place)
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
            if node is None:
                raise MoemixError("this key is null and has no keys below it", where=".".join(parents[: depth + 1]))
        else:
            raise MoemixError("this key is a single value and has no keys below it", where=".".join(parents[:depth]))
        path.append(key)
    if isinstance(node, list):
        last = str(_position(node, last, dotted))
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise MoemixError("this key is a single value and has no keys below it", where=".".join(parents))
    return (*path, last)


def _position(items: Sequence[object], key: str, where: str) -> int:
    """Return the index of the item with this label, or else this name, or else this index."""
    labels = [_label(item, place) for place, item in enumerate(items)]
    names = [str(item["name"]) if isinstance(item, dict) and "name" in item else "" for item in items]
    for known in (labels, names):
        if known.count(key) == 1:
            return known.index(key)
    if names.count(key) > 1:
        same = [label for label, name in zip(labels, names, strict=True) if name == key]
        raise MoemixError(f"several items are called {key!r}", where=where, hint=f"their labels: {', '.join(same)}")
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise MoemixError(f"no item {key!r} in the list", where=where, hint=nearest(key, labels))


def _label(item: object, place: int) -> str:
    """Return what a table calls an item of a list: its label, or else its name (of a class in a file, the class's).

    An item without either is called by its place.
    """
    if not isinstance(item, dict):
        return str(item).rpartition(":")[2]
    return str(item.get("label") or str(item.get("name", place)).rpartition(":")[2])
