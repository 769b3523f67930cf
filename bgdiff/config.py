"""Settings of a run, with the presets; every field is checked, and its meaning stands beside it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from bgdiff.config_types import Count, Positive, Settings
from bgdiff.errors import ConfigError
from bgdiff.random import derive_seed
from bgdiff.training_config import DEFAULT_OBJECTIVES, TrainingConfig

__all__ = [
    "DEFAULT_OBJECTIVES",
    "METHODS",
    "PRESETS",
    "CoordinatesConfig",
    "CorrectionConfig",
    "LadderConfig",
    "Method",
    "NetworkConfig",
    "ParticleNetworkConfig",
    "RoundsConfig",
    "RunConfig",
    "SamplingConfig",
    "TrainingConfig",
    "make_config",
    "named_method",
    "parse_config",
]

Method = Literal["is", "smc", "imh", "replica-exchange"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Of correction; see :class:`CorrectionConfig`."""


class ParticleNetworkConfig(Settings):
    """Size of the network of particles; see :class:`bgdiff.models.ParticleShape`."""

    radial: Annotated[int, Field(ge=2, le=1024)] = 32
    """Radial functions of a pair's distance."""
    reach: Positive = 5.5
    """Distance of the last one, in units of the noisy cluster's width."""
    scalars: Annotated[int, Field(ge=1, le=1024)] = 32
    """Sums over a particle's neighbours that know distances only."""
    vectors: Annotated[int, Field(ge=0, le=1024)] = 8
    """Sums that know directions. With many particles these and the next cost most."""
    tensors: Annotated[int, Field(ge=0, le=1024)] = 4
    """Sums that know pairs of directions."""
    messages: Annotated[int, Field(ge=0, le=1024)] = 16
    """Numbers that a particle hears of its neighbours' own surroundings."""
    width: Annotated[int, Field(ge=4, le=8192)] = 64
    """Of the network of each particle."""
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    """Its residual blocks."""
    embedding: Annotated[int, Field(ge=4, le=8192)] = 64
    """Width of the network that gives all functions of distances at every noise level."""


class NetworkConfig(Settings):
    """Kind and size of the energy network."""

    kind: Literal["auto", "dense", "quadratic", "particles"] = "auto"
    """``dense``: residual blocks on all coordinates. ``quadratic``: the same around a learned centre, for
    data in several narrow modes. ``particles``: energies that do not change when the particles are turned,
    reflected or exchanged for equal ones; needs mean-free coordinates. ``auto``: particles where the system
    has mean-free coordinates and says which particles are equal, else dense."""
    width: Annotated[int, Field(ge=4, le=8192)] = 256
    """Of the dense and of the quadratic network."""
    depth: Annotated[int, Field(ge=1, le=64)] = 4
    """Residual blocks of either."""
    harmonics: Annotated[int, Field(ge=1, le=32)] = 3
    """Of either: highest angular multiple m in the features cos(m z), sin(m z) of a periodic
    axis."""
    particles: ParticleNetworkConfig = ParticleNetworkConfig()


class CoordinatesConfig(Settings):
    """How a molecule's internal coordinates are whitened; other coordinates have nothing to choose."""

    conditional: bool = False
    """Take off first what the periodic torsions say about the mean of bonds, angles and stiff torsions."""


class LadderConfig(Settings):
    """Noise levels, in units of the whitened latents."""

    sigma_min: Positive = 0.02
    sigma_max: Positive = 12.0
    n_training_rungs: Annotated[int, Field(ge=2, le=100_000)] = 128
    """Rungs on which the model is trained and a normaliser each is learned."""
    n_rungs: Annotated[int, Field(ge=2, le=100_000)] = 300
    """Rungs that a walk takes when it samples."""
    moment_samples: Annotated[int, Field(ge=2)] = 4096
    """Noised data points per rung from which the variances of the reverse steps are measured."""
    pilot_samples: Annotated[int, Field(ge=0)] = 1000
    """Data points walked up a pilot ladder to place the rungs where they help most; 0 leaves them
    log-uniform."""
    normaliser_samples: Annotated[int, Field(ge=0)] = 2000
    """Noised data points at a rung, at most, from which MBAR solves for the normalisers when training ends,
    and checks them on data kept from it; 0 leaves them as training did, unchecked."""

    @model_validator(mode="after")
    def _rising(self) -> "LadderConfig":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min ({self.sigma_min:g}) must be below sigma_max ({self.sigma_max:g})")
        return self


class RoundsConfig(Settings):
    """Self-correcting training: correct samples of the model, train further on them, repeat."""

    n_rounds: Annotated[int, Field(ge=0, le=100)] = 0
    """How often; 0 trains on the data alone."""
    method: Literal["is", "smc"] = "is"
    """How a round draws: independent walks, or populations as the settings of ``correction`` say. The latter
    cost more each, and are worth it where weights of walks are poor, as they are for larger molecules."""
    n_samples: Annotated[int, Field(ge=100, le=100_000_000)] = 40_000
    """Walks or particles that are drawn and corrected in each round. What they say about free energies
    enters the results too."""
    n_rungs: Annotated[int, Field(ge=2, le=100_000)] = 100
    """Rungs on their way: fewer than for the final samples, since more of them are worth more here."""
    steps: Count = 3000
    """Of training in each round, from the weights of the round before."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.5e-3
    moves: Annotated[int, Field(ge=0, le=1000)] = 0
    """MALA moves under the target that each corrected sample makes before it is trained on, a target force
    each. They take copies of one sample apart: of use where few samples carry the weight."""
    frames: Annotated[int, Field(ge=1, le=1000)] = 1
    """Conformations that each corrected sample gives to train on, so many moves apart. For larger molecules:
    fast coordinates change in a few moves, at a small part of the price of another sample."""
    least_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Smallest share of the training data, first and further, that a basin with samples gets. Needed where
    the data hold a basin in a few frames only, which a model would not learn to visit; above a basin's
    population it costs effective samples."""

    @model_validator(mode="after")
    def _moving(self) -> "RoundsConfig":
        if self.frames > 1 and not self.moves:
            raise ValueError("frames of one corrected sample are moves apart: set moves, to 5 for example")
        return self


class SamplingConfig(Settings):
    """What is drawn from the trained ladder."""

    n_samples: Annotated[int, Field(ge=1, le=1_000_000_000)] = 20_000
    chunk: Count = 1000
    """Walks at a time: limits memory and is the unit in which an interrupted run resumes."""
    n_held_out: Annotated[int, Field(ge=0)] = 2000
    """Held-out frames that are walked up the ladder, for the forward effective sample size."""


class CorrectionConfig(Settings):
    """How samples are corrected to the exact target."""

    method: Method = "is"
    """``is``: importance sampling of independent walks. ``smc``: sequential Monte Carlo, with moves at the
    rungs and resampling. ``imh``: Markov chains that take whole walks as proposals. ``replica-exchange``:
    Markov chains over all rungs at once."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Effective fraction of a population below which it is resampled. Copies cost independence, so moves and
    the bridge should keep it above."""
    scheme: Literal["systematic", "residual", "stratified", "multinomial"] = "systematic"
    overlap: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Conditional effective fraction (Zhou, Johansen & Aston 2016) that every step down should keep, such as
    0.999; the pilot then chooses how many rungs there are, and where. null keeps those of the ladder."""
    move: Literal["mala", "hmc", "random_walk"] | None = "mala"
    """Move made at the rungs under the model's energy, which costs no target energy; null for none."""
    leapfrog_steps: Annotated[int, Field(ge=1, le=1000)] = 3
    """Of ``hmc``, and of the moves of ``replica-exchange``."""
    repeats: Annotated[int, Field(ge=1, le=1000)] = 1
    """Moves at a rung."""
    every: Count = 2
    """Make moves at every so many rungs."""
    jumps: bool = False
    """Also try to turn a torsion by a third, a half or any part of a turn."""
    bridge_places: Annotated[int, Field(ge=0, le=1000)] = 0
    """Steps from the lowest rung to the target with true forces; 0 goes there by a reverse step."""
    bridge_moves: Annotated[int, Field(ge=0, le=1000)] = 1
    """MALA moves at each place but the last; each costs a target force per sample."""
    pilot_particles: Annotated[int, Field(ge=16)] = 200
    """Particles of the pilot that tunes the moves."""
    chains: Annotated[int, Field(ge=2, le=100_000)] = 20
    """Of ``imh``: independent chains. Of ``replica-exchange``: independent sets of replicas, each with one
    point at every rung."""
    burn_in: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of each chain that is left out at its start."""
    local_moves: Annotated[int, Field(ge=0, le=1000)] = 0
    """Of ``imh``: MALA moves under the target after each proposal. Each costs a target force per chain, and
    all together a walk up the ladder."""
    swap_acceptance: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Of ``replica-exchange``: how often neighbouring rungs should exchange; decides how many rungs are
    used."""
    thinning: Count = 5
    """Of ``replica-exchange``: rounds from one sample to the next."""
    tuning_rounds: Annotated[int, Field(ge=10, le=1_000_000)] = 60
    """Of ``imh`` with local moves and of ``replica-exchange``: rounds of the pilot that tunes steps."""


class RunConfig(Settings):
    """Everything that decides a run's result, apart from the system."""

    preset: str = "standard"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "cpu"
    coordinates: CoordinatesConfig = CoordinatesConfig()
    network: NetworkConfig = NetworkConfig()
    ladder: LadderConfig = LadderConfig()
    training: TrainingConfig = TrainingConfig()
    rounds: RoundsConfig = RoundsConfig()
    sampling: SamplingConfig = SamplingConfig()
    correction: CorrectionConfig = CorrectionConfig()

    def of_round(self, index: int) -> "RunConfig":
        """Settings of one training: 0 the first, on the data; then one per round. Its ladder is the one that
        samples of the trained model walk down."""
        rounds, ladder = self.rounds, self.ladder
        if index < rounds.n_rounds:
            ladder = ladder.model_copy(update={"n_rungs": rounds.n_rungs})
        if index == 0:
            return self.model_copy(update={"ladder": ladder})
        further = {"steps": rounds.steps, "learning_rate": rounds.learning_rate}
        return self.model_copy(
            update={
                "seed": derive_seed(self.seed, "round", index),
                "ladder": ladder,
                "training": self.training.model_copy(update=further),
            }
        )

    @model_validator(mode="after")
    def _enough_rungs(self) -> "RunConfig":
        if self.training.n_levels > self.ladder.n_training_rungs:
            raise ValueError(
                f"training.n_levels ({self.training.n_levels}) exceeds ladder.n_training_rungs "
                f"({self.ladder.n_training_rungs})"
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "network": {"width": 128, "depth": 2},
        "ladder": {"n_training_rungs": 96, "n_rungs": 60, "moment_samples": 2048, "pilot_samples": 500},
        "training": {"steps": 1500, "batch_size": 256},
        "sampling": {"n_samples": 4000, "n_held_out": 500},
    },
    "standard": {},
    "best": {
        "ladder": {"n_rungs": 1000},
        "training": {"steps": 4000},
        "rounds": {"n_rounds": 1, "n_samples": 120_000, "n_rungs": 100, "steps": 6000, "learning_rate": 2e-3},
        "correction": {"method": "smc", "every": 2, "bridge_places": 9},
        "sampling": {"n_held_out": 1000},
    },
}
"""What each preset changes from the defaults above."""


def make_config(
    preset: str = "standard",
    *,
    seed: int = 0,
    device: str = "cpu",
    recommended: Mapping[str, dict[str, Any]] | None = None,
    overrides: dict[str, Any] | None = None,
) -> RunConfig:
    """Settings of a preset, with ``overrides`` such as ``{"training": {"steps": 100}}`` on top.

    Args:
        recommended: what a system changes in each preset, by the preset's name (``settings`` of its
            ``system.yaml``). ``overrides`` beat it.

    Raises:
        ConfigError: unknown preset, or a setting out of range (the message names it).

    >>> make_config("quick", overrides={"training": {"steps": 100}}).training.steps
    100
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; choose one of: {', '.join(PRESETS)}")
    content: dict[str, Any] = {"training": {"objectives": DEFAULT_OBJECTIVES}}
    for layer in (PRESETS[preset], (recommended or {}).get(preset, {}), overrides or {}):
        content = _merged(content, layer)
    return parse_config({**content, "preset": preset, "seed": seed, "device": device})


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections of sections, those of ``above`` field by field over those ``below``."""
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        merged[name] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def named_method(name: str) -> Method:
    """The method of correction of that name.

    Raises:
        ConfigError: there is none.

    >>> named_method("smc")
    'smc'
    """
    for method in METHODS:
        if method == name:
            return method
    raise ConfigError(f"unknown method of correction {name!r}; choose one of: {', '.join(METHODS)}")


def parse_config(content: dict[str, Any]) -> RunConfig:
    """Check settings read from a file.

    Raises:
        ConfigError: naming each wrong field.
    """
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            + (
                ""
                if problem["type"] in ("extra_forbidden", "value_error")
                else f" (got {problem['input']!r})"
            )
            for problem in error.errors()
        ]
        raise ConfigError("bad settings: " + "; ".join(lines)) from error
