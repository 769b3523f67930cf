"""Systems: what is sampled, defined by a folder with a ``system.yaml`` rather than by code."""

import difflib
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.observable_spec import ObservableSpec
from bgdiff.references import read_reference
from bgdiff.system_spec import (
    DifferenceSpec,
    OpenMMSpec,
    SystemSpec,
    TransformationSpec,
    read_spec,
)

if TYPE_CHECKING:
    import mdtraj
    import numpy as np
    import openmm
    from numpy.typing import NDArray
    from torch import Tensor

    from bgdiff.data.dataset import Dataset
    from bgdiff.data.observables import Observable
    from bgdiff.targets.base import Target

__all__ = ["System", "list_systems", "load_system"]

_FILE = "system.yaml"


class System:
    """A target density with its topology, observables, basins, data set and reference values.

    Nothing but ``system.yaml`` is read until it is asked for.

    Args:
        path: the folder that holds ``system.yaml``.

    Raises:
        SystemDefinitionError: a field of ``system.yaml`` is wrong or a file it names is missing.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.spec: SystemSpec = read_spec(self.path / _FILE)
        self._made: dict[str, Observable] = {}
        self._definition = [_FILE]
        self._flags = ""  # of `bgdiff reference`, for what the folder does not say
        if isinstance(self.spec, OpenMMSpec):
            self._definition += [self.spec.system, self.spec.topology]
        for name in self._definition:
            if not (self.path / name).is_file():
                raise SystemDefinitionError(f"{self.path / _FILE}: names {name}, but there is no such file")

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def temperature(self) -> float:
        """K for molecules, 1 for systems in reduced units."""
        return self.spec.temperature

    @property
    def differences(self) -> list[DifferenceSpec]:
        """Free-energy differences the system asks for."""
        return list(self.spec.free_energy_differences)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the definition: ``system.yaml`` and, for a molecule, its System XML and topology."""
        digest = hashlib.sha256()
        for name in self._definition:
            content = (self.path / name).read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    @cached_property
    def ensemble_digest(self) -> str:
        """SHA-256 of what fixes the density: potential and temperature. Data sets record it."""
        return self._digest_of({})

    @cached_property
    def question_digest(self) -> str:
        """SHA-256 of the density and of the basins compared. Reference values record it."""
        fields = {"observables", "basins", "free_energy_differences"}
        asked = self.spec.model_dump(include=fields, exclude_none=True)
        return self._digest_of(asked | self._files_of_observables())

    def at_temperature(self, temperature: float) -> "System":
        """The same molecule at another temperature (K): another density.

        Its ensemble and question digests follow the temperature; ``digest``, that of the files, does not. The
        folder's data set is not one of this density. ``reference`` is what ``references_at`` names for the
        temperature, empty if it names nothing.

        Raises:
            ConfigError: the temperature is not a positive number, or the system is no molecule and has none.
        """
        if not isinstance(self.spec, OpenMMSpec):
            raise ConfigError(f"system {self.name} is in reduced units: it has no temperature to change")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"a temperature must be a positive number of kelvin, not {temperature:g}")
        other = System(self.path)
        assert isinstance(other.spec, OpenMMSpec)
        if temperature == other.temperature:
            return other
        reference = other.spec.references_at.get(temperature)
        changes = {"temperature": float(temperature), "reference": reference, "data": None}
        other.spec = other.spec.model_copy(update=changes)
        other._flags = f" --temperature {temperature:g}"
        return other

    @cached_property
    def target(self) -> "Target":
        """The density; a molecule's is evaluated by the batched engine if that covers it, else by OpenMM."""
        if isinstance(self.spec, OpenMMSpec):
            from bgdiff.targets.choose import molecular_target
            from bgdiff.targets.placement import check_free_placement

            try:
                target: Target = molecular_target(self.openmm_system, self.temperature)
            except SystemDefinitionError as error:
                raise self._in_file(error) from error
            atoms = self._topology.n_atoms
            if atoms != target.event_shape[0]:
                raise SystemDefinitionError(
                    f"{self.path / self.spec.topology}: has {atoms} atoms, but {self.spec.system} has "
                    f"{target.event_shape[0]} particles"
                )
            if self.spec.coordinates == "internal":
                check_free_placement(target, self.structure, self.path / self.spec.system)
        else:
            from bgdiff.targets.reduced import reduced_target

            target = reduced_target(self.spec)
        self._check_observables(target.event_shape)
        return target

    @cached_property
    def openmm_system(self) -> "openmm.System":
        """The force field of a molecule.

        Raises:
            SystemDefinitionError: the system is no molecule, or the file is damaged.
        """
        from bgdiff.targets.openmm import read_system

        if not isinstance(self.spec, OpenMMSpec):
            raise SystemDefinitionError(f"system {self.name} is not a molecule: it has no force field")
        return read_system(self.path / self.spec.system)

    @property
    def topology(self) -> "mdtraj.Topology | None":
        """mdtraj topology of a molecule; None for a toy density."""
        return self._topology if isinstance(self.spec, OpenMMSpec) else None

    @property
    def structure(self) -> "NDArray[np.float64]":
        """Coordinates ``(N, 3)`` in nm of a molecule's topology file; a PDB holds three decimals in Å."""
        import numpy as np

        return np.asarray(self._structure_file.xyz[0], dtype=np.float64)

    @property
    def particle_types(self) -> "Tensor | None":
        """int64 ``(N,)``: particles of one number are equal, so that exchanging them changes no energy.

        None if there is no symmetry to use: toy densities whose particles do not see one another, and
        molecules in internal coordinates.
        """
        from bgdiff.particle_types import particle_types

        return particle_types(self.spec, self.topology)

    @property
    def data_path(self) -> Path | None:
        """The shipped data set."""
        return None if self.spec.data is None else self.path / self.spec.data.file

    def load_data(self, path: "Path | str | Sequence[Path | str] | None" = None) -> "Dataset":
        """Read and check a data set: the shipped one, or the user's trajectories, one chain each.

        Raises:
            DataError: it is missing, empty or damaged, or does not belong to this system.
        """
        from bgdiff.data.dataset import load_dataset

        return load_dataset(self, path)

    def observables(self, x: "Tensor | NDArray[np.float64]") -> "dict[str, NDArray[np.float64]]":
        """Every observable of conformations ``(B, N, D)`` as float64 ``(B,)``; torsions in (-π, π]."""
        return self.measure(self.spec.observables, x)

    def measure(
        self, specs: Mapping[str, ObservableSpec], x: "Tensor | NDArray[np.float64]"
    ) -> "dict[str, NDArray[np.float64]]":
        """Any observables of conformations ``(B, N, D)`` as float64 ``(B,)``, by the names in ``specs``.

        Raises:
            SystemDefinitionError: one of them makes no sense for this system.
        """
        import numpy as np

        values = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
        made = {name: self.observable(name, spec, values.shape[1:]) for name, spec in specs.items()}
        return {name: observable(values) for name, observable in made.items()}

    def observable(
        self, name: str, spec: ObservableSpec, shape: tuple[int, int] | None = None
    ) -> "Observable":
        """An observable, checked and ready to be called on conformations.

        Args:
            name: what it is called; those of ``system.yaml`` are checked only once.
            shape: of conformations ``(N, D)``, if known without making the target.

        Raises:
            SystemDefinitionError: it makes no sense for this system.
        """
        from bgdiff.data.observables import Molecule, make_observable

        own = self.spec.observables.get(name) == spec
        if own and name in self._made:
            return self._made[name]
        molecule = None
        if spec.needs_molecule and self.topology is not None:
            molecule = Molecule(self.topology, self.structure, self.path)
        try:
            made = make_observable(name, spec, shape or self.target.event_shape, molecule)
        except SystemDefinitionError as error:
            raise SystemDefinitionError(
                f"{self.path / _FILE}: observables.{error}" if own else str(error)
            ) from error
        if own:
            self._made[name] = made
        return made

    def basin(self, name: str, observables: "Mapping[str, NDArray[np.float64]]") -> "NDArray[np.bool_]":
        """Which conformations, given by their observables, lie in the basin.

        Raises:
            SystemDefinitionError: there is no such basin.
        """
        from bgdiff.data.observables import in_all

        if name not in self.spec.basins:
            known = ", ".join(self.spec.basins) or "none"
            raise SystemDefinitionError(f"system {self.name} has no basin {name!r}; it has: {known}")
        return in_all(self.spec.basins[name].terms, self.spec.observables, observables)

    @cached_property
    def reference(self) -> dict[str, Any]:
        """Independent reference values as in the system's reference file; empty if it has none.

        Raises:
            SystemDefinitionError: the file is missing, malformed, or answers another question.
        """
        if self.spec.reference is None:
            return {}
        command = f"bgdiff reference {self.name}{self._flags}"
        return read_reference(self.path / self.spec.reference, command, question_digest=self.question_digest)

    def transformation_to(self, other: "System") -> TransformationSpec | None:
        """The entry of ``transformations`` that leads to ``other`` at its temperature, if there is one."""
        if isinstance(self.spec, OpenMMSpec):
            for way in self.spec.transformations:
                own = System(other.path).temperature if way.temperature is None else way.temperature
                if way.to == other.name and own == other.temperature:
                    return way
        return None

    def reference_to(self, other: "System") -> dict[str, Any]:
        """Independent F(other) - F(this) as in the file that ``transformations`` names; empty if none is.

        Value, error and how they were obtained are under ``free_energy_difference``; see
        :func:`~bgdiff.data.alchemical_reference.compute_transformation` for the rest.

        Raises:
            SystemDefinitionError: the file is missing, malformed, or was computed for other potentials,
                temperatures or basins.
        """
        way = self.transformation_to(other)
        if way is None or way.reference is None:
            return {}
        flags = f" --to {other.name}{self._flags}{other._flags.replace('--', '--to-')}"
        return read_reference(
            self.path / way.reference,
            f"bgdiff reference {self.name}{flags}",
            initial={"question_digest": self.question_digest},
            final={"ensemble_digest": other.ensemble_digest},
        )

    @cached_property
    def _structure_file(self) -> Any:
        import mdtraj

        if not isinstance(self.spec, OpenMMSpec):
            raise SystemDefinitionError(f"system {self.name} is not a molecule: it has no topology")
        path = self.path / self.spec.topology
        try:
            return mdtraj.load(str(path))
        except Exception as error:  # mdtraj's readers raise whatever their parsers do
            raise SystemDefinitionError(f"{path}: mdtraj cannot read it ({error})") from error

    @property
    def _topology(self) -> Any:
        return self._structure_file.topology

    def _check_observables(self, shape: tuple[int, int]) -> None:
        for name, spec in self.spec.observables.items():
            self.observable(name, spec, shape)

    def _files_of_observables(self) -> dict[str, Any]:
        """SHA-256 of the files that fix what observables mean; empty if none needs a file."""
        needy = [spec for spec in self.spec.observables.values() if spec.needs_molecule]
        if not needy or not isinstance(self.spec, OpenMMSpec):
            return {}
        names = {self.spec.topology} | {spec.rmsd.file for spec in needy if spec.rmsd and spec.rmsd.file}
        files = {name: self.path / name for name in sorted(names)}
        return {
            "files": {
                name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
                for name, path in files.items()
            }
        }

    def _in_file(self, error: SystemDefinitionError) -> SystemDefinitionError:
        """The error, with the file of the force field it is about."""
        assert isinstance(self.spec, OpenMMSpec)
        file = str(self.path / self.spec.system)
        return error if str(error).startswith(file) else SystemDefinitionError(f"{file}: {error}")

    def _digest_of(self, extra: dict[str, Any]) -> str:
        content: dict[str, Any] = {"kind": self.spec.kind, "temperature": self.temperature, **extra}
        if isinstance(self.spec, OpenMMSpec):
            content["system"] = hashlib.sha256((self.path / self.spec.system).read_bytes()).hexdigest()
        else:
            content |= self.spec.model_dump(include={"parameters", "copies", "particles", "dimensions"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"System({self.name!r}, {str(self.path)!r})"


def list_systems(extra: Path | None = None) -> list[str]:
    """Names of the systems in ``extra``, ``./systems``, the folders of $BGDIFF_SYSTEMS and the package."""
    return sorted({folder.name for root in _roots(extra) for folder in _folders(root)})


def load_system(name_or_path: str | Path) -> System:
    """Load a system by the path of its folder or by its name.

    A name is looked for in ``./systems``, then in the folders of $BGDIFF_SYSTEMS, then among the systems
    that come with bgdiff.

    Raises:
        SystemDefinitionError: there is no such system, or its definition is wrong.
    """
    text, path = str(name_or_path), Path(name_or_path)
    if path.name == _FILE and path.is_file():
        return System(path.parent)
    if (path / _FILE).is_file():
        return System(path)
    if isinstance(name_or_path, Path) or "/" in text or os.sep in text or text in (".", ".."):
        raise SystemDefinitionError(f"{text}: there is no {_FILE} in this folder")
    for root in _roots():
        if (root / text / _FILE).is_file():
            return System(root / text)
    known = list_systems()
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise SystemDefinitionError(
        f"there is no system {text!r}; {hint}known systems: {', '.join(known) or 'none'}. "
        f"Your own is found by the path of its folder or through $BGDIFF_SYSTEMS"
    )


def _roots(extra: Path | None = None) -> list[Path]:
    roots = [] if extra is None else [extra]
    roots.append(Path("systems"))
    roots += [Path(part) for part in os.environ.get("BGDIFF_SYSTEMS", "").split(os.pathsep) if part]
    package = Path(__file__).resolve().parent
    roots.append(package / "_systems" if (package / "_systems").is_dir() else package.parent / "systems")
    return roots


def _folders(root: Path) -> list[Path]:
    return [file.parent for file in root.glob(f"*/{_FILE}")] if root.is_dir() else []
