"""Variables by name or written ad hoc, such as ``distance(1, 18)``: what regions and profiles are about."""

import ast
import difflib
from collections.abc import Mapping
from typing import Any, NoReturn

from pydantic import ValidationError

from bgdiff.errors import ConfigError
from bgdiff.observable_spec import ObservableSpec

__all__ = ["variable_named"]

_BY_INDEX = ("dihedral", "angle", "distance", "component")
_BY_KEYWORD = (
    "radius_of_gyration",
    "rmsd",
    "count",
    "pair_count",
    "pair_distance",
    "coordination",
    "steinhardt",
)
_WRITTEN = "distance(0, 5), dihedral(...), angle(...), mdtraj.compute_rg"


def variable_named(text: str, observables: Mapping[str, ObservableSpec]) -> tuple[str, ObservableSpec]:
    """Find an observable by its name, or make one that is written as a call.

    ``dihedral(i, j, k, l)``, ``angle(i, j, k)``, ``distance(i, j)`` and ``component(particle, axis)`` take
    indices from 0; ``radius_of_gyration``, ``rmsd``, ``count``, ``pair_count``, ``pair_distance``,
    ``coordination``, ``steinhardt`` and ``mdtraj.<function>`` the fields of ``system.yaml`` or the function's
    arguments by keyword, as in ``steinhardt(l=6, cutoff=1.4)``. A column of an mdtraj function follows in
    brackets: ``mdtraj.compute_center_of_mass[2]``.

    Returns:
        Its name and what it is: the observable's own name if the system has the same one, else the text
        without spaces.

    Raises:
        ConfigError: there is no such variable, or it is written wrongly.
    """
    text = text.strip()
    if text in observables:
        return text, observables[text]
    spec = _parse(text, observables)
    known = next((name for name, own in observables.items() if own == spec), None)
    return known or "".join(text.split()), spec


def _parse(text: str, observables: Mapping[str, ObservableSpec]) -> ObservableSpec:
    try:
        node: ast.expr = ast.parse(text, mode="eval").body
        column = 0
        if isinstance(node, ast.Subscript):
            column, node = ast.literal_eval(node.slice), node.value
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        called = isinstance(node, ast.Call)
        if isinstance(node, ast.Call):
            positional = [ast.literal_eval(argument) for argument in node.args]
            keywords = {str(item.arg): ast.literal_eval(item.value) for item in node.keywords}
            node = node.func
        name = ast.unparse(node)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"variable {text!r}: cannot be read; write for example {_WRITTEN}") from error
    fields: dict[str, Any]
    if name.startswith("mdtraj.") and not positional:
        function = name.removeprefix("mdtraj.")
        fields = {"mdtraj": {"function": function, "arguments": keywords, "column": column}}
    elif called and name in _BY_INDEX and not keywords:
        fields = {name: positional}
    elif name in _BY_KEYWORD and not positional:
        fields = {name: keywords}
    else:
        _unknown(text, name, observables)
    try:
        return ObservableSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        problem = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"variable {text!r}: {place + ': ' if place else ''}{problem}") from error


def _unknown(text: str, name: str, observables: Mapping[str, ObservableSpec]) -> NoReturn:
    kinds = [*_BY_INDEX, *_BY_KEYWORD]
    if name in kinds or name.startswith("mdtraj."):
        takes = "indices, such as" if name in _BY_INDEX else "keywords, such as"
        example = f"{name}(0, 1, ...)" if name in _BY_INDEX else f"{name}(name=value)"
        raise ConfigError(f"variable {text!r}: {name} takes {takes} {example}")
    near = difflib.get_close_matches(name, [*observables, *kinds], n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"there is no variable {text!r}; {hint}observables of the system: {', '.join(observables)}; "
        f"others are written {_WRITTEN}"
    )
