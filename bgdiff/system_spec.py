"""What a ``system.yaml`` may say, checked field by field.

Angles are in degrees here, where people read and write them; everywhere else in the program in radian.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from bgdiff.config import make_config
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.observable_spec import BasinSpec, ObservableSpec
from bgdiff.replica_spec import ReplicaExchangeSpec, TransformationSpec
from bgdiff.tempering_spec import ChainsSpec, ToyLaddersSpec

__all__ = [
    "BasinSpec",
    "ClusterSpec",
    "DataSpec",
    "DifferenceSpec",
    "DoubleWellParameters",
    "DoubleWellSpec",
    "LennardJonesParameters",
    "LennardJonesSpec",
    "MDSpec",
    "ManyWellSpec",
    "MultiDoubleWellParameters",
    "MultiDoubleWellSpec",
    "ObservableSpec",
    "OpenMMSpec",
    "ReplicaExchangeSpec",
    "SystemSpec",
    "TransformationSpec",
    "read_spec",
]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DifferenceSpec(_Model):
    """Free-energy difference F_final - F_initial = -ln(p_final / p_initial) of two basins."""

    name: str
    initial: str
    final: str


class DataSpec(_Model):
    """Where the shipped data set lies, relative to the folder, and what is known of its origin."""

    file: str
    provenance: str | None = None
    temperature: Positive | None = None
    """K, that the frames were drawn at, if it is not the system's; their provenance may say it as well."""


class MDSpec(_Model):
    """How ``bgdiff data generate`` makes molecular dynamics: ``chains_per_start`` per start."""

    starts: Annotated[list[dict[str, float]], Field(min_length=1)]
    """Torsions in degrees, by observable name, that each chain starts from."""
    chains_per_start: Count = 1
    length_ns: Positive
    """Length of each chain, without its equilibration."""
    spacing_ps: Positive
    step_fs: Positive = 1.0
    friction_per_ps: Positive = 1.0
    equilibration_ps: NonNegative = 50.0
    stored_bits: Annotated[int, Field(ge=1, le=23)] | None = None
    """Frames are stored as multiples of 2 to the minus this power (nm), for smaller ``.npz`` files."""

    @model_validator(mode="after")
    def _at_least_a_frame(self) -> "MDSpec":
        if self.spacing_ps * 1000 < self.step_fs:
            raise ValueError("spacing_ps is shorter than step_fs")
        if self.length_ns * 1000 < self.spacing_ps:
            raise ValueError("length_ns is shorter than spacing_ps")
        return self


class DoubleWellParameters(_Model):
    """U = a x + b x² + c x⁴ + ½ y²."""

    a: Annotated[float, Field(allow_inf_nan=False)]
    b: Annotated[float, Field(allow_inf_nan=False)]
    c: Positive


class LennardJonesParameters(_Model):
    """As of :class:`~bgdiff.targets.lennard_jones.LennardJones`."""

    epsilon: Positive = 1.0
    r_min: Positive = 1.0
    oscillator: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    pairs: Literal["once", "twice"] = "twice"

    @model_validator(mode="after")
    def _confined(self) -> "LennardJonesParameters":
        if self.oscillator <= 0:
            raise ValueError(
                "oscillator: must be greater than 0; without it particles evaporate, their free volume is "
                "infinite and exp(-u) is no density that could be normalised"
            )
        return self


class MultiDoubleWellParameters(_Model):
    """As of :class:`~bgdiff.targets.multi_double_well.MultiDoubleWell`."""

    a: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    b: Annotated[float, Field(allow_inf_nan=False)] = -4.0
    c: Positive = 0.9
    offset: NonNegative = 4.0
    pairs: Literal["once", "twice"] = "once"


class _Common(_Model):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    title: str
    observables: Annotated[dict[str, ObservableSpec], Field(min_length=1)]
    basins: dict[str, BasinSpec] = {}
    free_energy_differences: list[DifferenceSpec] = []
    data: DataSpec | None = None
    reference: str | None = None
    settings: dict[str, dict[str, Any]] = {}
    """What runs of this system change in a preset, such as ``{quick: {training: {steps: 4000}}}``: the recipe
    that was measured to work. Not part of the density."""

    @model_validator(mode="after")
    def _settings_are_valid(self) -> "_Common":
        for preset in self.settings:
            try:
                make_config(preset, recommended=self.settings)
            except ConfigError as error:
                raise ValueError(f"settings.{preset}: {error}") from error
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> "_Common":
        for name, basin in self.basins.items():
            for term in basin.terms:
                if term.observable not in self.observables:
                    raise ValueError(f"basins.{name}.observable: there is no observable {term.observable!r}")
                try:
                    self.observables[term.observable].check_intervals(term.intervals)
                except ValueError as error:
                    raise ValueError(f"basins.{name}.intervals: {error}") from error
        for position, difference in enumerate(self.free_energy_differences):
            for end in (difference.initial, difference.final):
                if end not in self.basins:
                    raise ValueError(f"free_energy_differences.{position}: there is no basin {end!r}")
        return self


class OpenMMSpec(_Common):
    """A molecule: an OpenMM System and a topology."""

    kind: Literal["openmm"]
    temperature: Positive
    """K."""
    system: str
    topology: str
    coordinates: Literal["internal", "mean_free"] = "internal"
    """``mean_free`` for clusters without bonds: Cartesian, only the centroid is left out."""
    equal_particles: Literal["none", "elements", "all"] = "none"
    """Which atoms a model may take for interchangeable, in mean-free coordinates: of one element, or all."""
    generate: MDSpec | None = None
    replica_exchange: ReplicaExchangeSpec | None = None
    references_at: dict[Positive, str] = {}
    """Files of references at other temperatures (K), by temperature."""
    transformations: list[TransformationSpec] = []
    """Ways to other systems of the same atoms, or to other temperatures."""

    @model_validator(mode="after")
    def _starts_are_torsions(self) -> "OpenMMSpec":
        sections: dict[str, Any] = {"generate": self.generate, "replica_exchange": self.replica_exchange}
        sections |= {f"transformations.{index}": way for index, way in enumerate(self.transformations)}
        for section, settings in sections.items():
            for position, start in enumerate(settings.starts if settings else []):
                for name in start:
                    if name not in self.observables or not self.observables[name].periodic:
                        raise ValueError(
                            f"{section}.starts.{position}: {name!r} is not a torsion in observables"
                        )
        if self.replica_exchange and self.replica_exchange.t_max <= self.temperature:
            raise ValueError("replica_exchange.t_max: must be above temperature")
        return self

    @model_validator(mode="after")
    def _equal_particles_need_cartesians(self) -> "OpenMMSpec":
        if self.equal_particles != "none" and self.coordinates != "mean_free":
            raise ValueError(
                f"equal_particles: {self.equal_particles!r} needs coordinates: mean_free, because internal "
                "coordinates tell all atoms apart"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_each(self) -> "OpenMMSpec":
        ends = [(way.to, way.temperature) for way in self.transformations]
        for index, end in enumerate(ends):
            if end in ends[:index]:
                raise ValueError(f"transformations.{index}: there is another one to {end[0]!r} already")
        return self


class _ReducedSpec(_Common):
    """A density in reduced units, at temperature 1."""

    generate: ChainsSpec | None = None
    replica_exchange: ToyLaddersSpec | None = None

    @property
    def temperature(self) -> float:
        return 1.0


class DoubleWellSpec(_ReducedSpec):
    """The two-dimensional double well."""

    kind: Literal["double_well"]
    parameters: DoubleWellParameters
    coordinates: Literal["identity"] = "identity"


class ManyWellSpec(_ReducedSpec):
    """Independent copies of the double well: so many particles in the plane, each in its own."""

    kind: Literal["many_well"]
    copies: Count
    parameters: DoubleWellParameters
    coordinates: Literal["identity"] = "identity"


class _ClusterSpec(_ReducedSpec):
    """Equal particles that feel one another, without the motion of their centroid."""

    particles: Annotated[int, Field(ge=2)]
    dimensions: Annotated[int, Field(ge=1, le=3)]
    coordinates: Literal["mean_free"] = "mean_free"
    global_minimum: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Lowest energy of all conformations, if it is known."""


class LennardJonesSpec(_ClusterSpec):
    """A cluster of Lennard-Jones particles in a harmonic trap around their centroid."""

    kind: Literal["lennard_jones"]
    dimensions: Annotated[int, Field(ge=1, le=3)] = 3
    parameters: LennardJonesParameters = LennardJonesParameters()


class MultiDoubleWellSpec(_ClusterSpec):
    """Particles whose distances lie in double wells."""

    kind: Literal["multi_double_well"]
    dimensions: Annotated[int, Field(ge=1, le=3)] = 2
    parameters: MultiDoubleWellParameters = MultiDoubleWellParameters()


ClusterSpec = LennardJonesSpec | MultiDoubleWellSpec
SystemSpec = OpenMMSpec | DoubleWellSpec | ManyWellSpec | LennardJonesSpec | MultiDoubleWellSpec
_KINDS = ("openmm", "double_well", "many_well", "lennard_jones", "multi_double_well")

_ADAPTER: TypeAdapter[SystemSpec] = TypeAdapter(Annotated[SystemSpec, Field(discriminator="kind")])


def read_spec(path: Path) -> SystemSpec:
    """Read and check a ``system.yaml``.

    Raises:
        SystemDefinitionError: it is missing, is not YAML, or a field is wrong; every wrong field is named.
    """
    import yaml

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SystemDefinitionError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SystemDefinitionError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise SystemDefinitionError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SystemDefinitionError(f"{path}: must hold fields such as 'name: ...' and 'kind: ...'")
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        lines = [f"{path}: {_describe(problem)}" for problem in error.errors(include_url=False)]
        raise SystemDefinitionError("\n".join(lines)) from error


def _describe(problem: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    if place and place[0] in _KINDS:  # the tag of the union is not a field of the file
        place = place[1:]
    message: str = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "union_tag_not_found":
        place, message = ["kind"], "Field required"
    elif problem["type"] == "union_tag_invalid":
        place, message = ["kind"], f"must be one of {', '.join(_KINDS)}, not {problem['ctx']['tag']!r}"
    elif problem["type"] == "extra_forbidden":
        message = "there is no such field"
    return f"{'.'.join(place)}: {message}" if place else message
