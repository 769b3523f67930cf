"""Functions of mdtraj as observables: found by name, their arguments checked, a column picked."""

import difflib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import SystemDefinitionError
from bgdiff.observable_spec import MdtrajSpec

if TYPE_CHECKING:
    import mdtraj

    from bgdiff.data.observables import Molecule

__all__ = ["check", "evaluate"]

Array = NDArray[np.float64]


def evaluate(spec: MdtrajSpec, x: Array, topology: "mdtraj.Topology | None") -> Array:
    """Values ``(B,)`` of the function in ``x`` ``(B, N, 3)`` nm, B > 0; mdtraj works in single precision."""
    table = _table(_functions()[spec.function], spec, x, topology)
    assert table is not None  # as `check` has made sure
    return table[:, spec.column].astype(np.float64)


def check(name: str, spec: MdtrajSpec, molecule: "Molecule") -> None:
    """Find the function, check its arguments, and try it on the molecule's structure.

    Raises:
        SystemDefinitionError: there is no such function, argument or column, or the function fails or
            returns something else than one number, or one row of numbers, for every frame. The message
            begins with ``name``.
    """
    functions = _functions()
    if spec.function not in functions:
        near = difflib.get_close_matches(spec.function, functions, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise SystemDefinitionError(
            f"{name}: mdtraj has no function {spec.function!r} that computes numbers from a trajectory{hint}"
        )
    function = functions[spec.function]
    _check_arguments(name, function, spec)
    # two lengths tell a value for every frame from anything else that is as long by chance
    for frames in (2, 3):
        x = np.repeat(molecule.structure[None], frames, axis=0)
        try:
            table = _table(function, spec, x, molecule.topology)
        except Exception as error:  # whatever the function does with arguments that make no sense to it
            raise SystemDefinitionError(
                f"{name}: mdtraj.{spec.function} fails on this molecule: {error or type(error).__name__}"
            ) from error
        if table is None or len(table) != frames:
            raise SystemDefinitionError(
                f"{name}: mdtraj.{spec.function} does not return one number, or one row of numbers, for "
                "every frame"
            )
        if spec.column >= table.shape[1]:
            raise SystemDefinitionError(
                f"{name}: column {spec.column} of mdtraj.{spec.function} is out of range; it has "
                f"{table.shape[1]}, counted from 0"
            )
    if not np.isfinite(evaluate(spec, molecule.structure[None], molecule.topology)).all():
        raise SystemDefinitionError(
            f"{name}: mdtraj.{spec.function} is not a finite number for the molecule's own structure"
        )


def _functions() -> dict[str, Callable[..., Any]]:
    """What mdtraj computes from a trajectory, by name."""
    import mdtraj

    found: dict[str, Callable[..., Any]] = {}
    for module in (mdtraj.geometry, mdtraj):
        for name in dir(module):
            function = getattr(module, name)
            public = name.startswith("compute_") or module is mdtraj.geometry
            if public and inspect.isfunction(function) and "traj" in inspect.signature(function).parameters:
                found[name] = function
    return found


def _check_arguments(name: str, function: Callable[..., Any], spec: MdtrajSpec) -> None:
    parameters = dict(inspect.signature(function).parameters)
    del parameters["traj"]
    for given in spec.arguments:
        if given not in parameters:
            raise SystemDefinitionError(
                f"{name}: mdtraj.{spec.function} has no argument {given!r}; it has: "
                f"{', '.join(parameters) or 'none'}"
            )
    missing = [
        key for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in spec.arguments
    ]  # fmt: skip
    if missing:
        raise SystemDefinitionError(f"{name}: mdtraj.{spec.function} needs the argument {missing[0]!r}")


def _table(
    function: Callable[..., Any], spec: MdtrajSpec, x: Array, topology: "mdtraj.Topology | None"
) -> NDArray[Any] | None:
    """What the function returns as ``(B, k)``; None if it is no such array."""
    import mdtraj

    arguments = {key: _as_array(value) for key, value in spec.arguments.items()}
    result = function(mdtraj.Trajectory(x, topology), **arguments)
    # torsions come as (indices, angles), contacts as (distances, pairs): the numbers are the floats
    parts = result if isinstance(result, tuple) else (result,)
    tables = [part for part in parts if isinstance(part, np.ndarray) and part.dtype.kind == "f"]
    if len(tables) != 1 or tables[0].ndim not in (1, 2) or len(tables[0]) != len(x):
        return None
    return tables[0] if tables[0].ndim == 2 else tables[0][:, None]


def _as_array(value: Any) -> Any:
    """Lists of numbers as arrays, which is what mdtraj expects; anything else as it is."""
    if not isinstance(value, list):
        return value
    try:
        array = np.array(value)
    except ValueError:  # rows of different lengths
        return value
    return array if array.dtype.kind in "if" else value
