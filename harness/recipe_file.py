"""Reading a recipe from a YAML file or by its built-in name, and changing it by dotted keys.

There is one override language: ``a.b=c`` (``--set`` on the command line, ``overrides:`` on a strategy or model).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from harness.errors import MoemixError, nearest, unknown
from harness.files import read_yaml
from harness.recipe import Recipe
from harness.schema import parse

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the built-in recipes (``paper/table1`` for a file in a folder)."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe by name or from a YAML file, with ``a.b=c`` overrides applied.

    Raises:
        MoemixError: no such recipe, a bad YAML line, an unknown key, or a value of the wrong kind.
    """
    if name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).is_file():
        path = Path(name_or_path)
        if not path.is_file():
            raise MoemixError("the recipe file does not exist", where=name_or_path)
    elif name_or_path in recipe_names():
        path = RECIPES / f"{name_or_path}.yaml"
    else:
        raise unknown("recipe", name_or_path, recipe_names())
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise MoemixError("expected a mapping of keys, a recipe", where=str(path))
    tree.setdefault("name", path.stem.lower())
    for override in overrides:
        set_value(tree, *parse_setting(override))
    return parse(Recipe, tree, where=str(path))


def parse_setting(text: str) -> tuple[str, object]:
    """Return the key and the value of ``--set key.subkey=value``; the value is YAML.

    Raises:
        MoemixError: there is no ``=``, or the value is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise MoemixError(f"`--set {text}` has no `=`", hint="expected --set key.subkey=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise MoemixError(f"the value is not valid YAML: {error}", where=f"--set {text}") from None


def override(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """Return the recipe with dotted keys replaced, validated again."""
    if not changes:
        return recipe
    tree = recipe.model_dump(mode="json")
    for key, value in changes.items():
        set_value(tree, key, value)
    return parse(Recipe, tree, where=f"recipe {recipe.name}")


def set_value(tree: object, dotted: str, value: object) -> None:
    """Set ``a.b.c`` in nested mappings and lists; a list takes an index or the ``name`` of an item."""
    *parents, last = dotted.split(".")
    node = tree
    for depth, key in enumerate(parents):
        path = ".".join(parents[: depth + 1])
        if isinstance(node, list):
            node = node[_position(node, key, path)]
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
            if node is None:
                raise MoemixError("this key is null and has no keys below it", where=path)
        else:
            raise MoemixError("this key is a single value and has no keys below it", where=".".join(parents[:depth]))
    if isinstance(node, list):
        node[_position(node, last, dotted)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise MoemixError("this key is a single value and has no keys below it", where=".".join(parents))


def _position(items: list[object], key: str, where: str) -> int:
    names = [str(item["name"]) if isinstance(item, dict) and "name" in item else str(item) for item in items]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise MoemixError(f"no item {key!r} in the list", where=where, hint=nearest(key, names))
