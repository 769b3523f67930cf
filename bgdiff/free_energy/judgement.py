r"""Several estimates of one quantity: do they agree, which one to quote, or why none.

*Sufficient* is an estimate whose error bar can be believed: finite, enough effective samples, ensembles that
overlap. Only sufficient estimates are compared, and only one of them is quoted, that with the smallest error;
of equal ones the first. Two-sided ones (from samples of both ensembles, neither made from the other's) go
before one-sided ones, unless their errors are more than twice as large: walks that miss something cannot
tell, but data walked up can. Samples of all rungs that came down the ladder together, target included, miss
what walks down miss, so that MBAR over them counts as one-sided. Estimates that carry an error of the model
besides their own, such as learned normalisers, are shown but neither compared nor quoted.

*Consistent* at false-alarm rate α means that three tests pass, each at an equal share of α (tests for which
there is nothing to test leave their share to the others):

1. the largest set of estimates that share no samples: χ² = Σ (F_i - F̄)²/σ_i² about their inverse-variance
   mean, with one degree of freedom less than there are estimates;
2. pairs that share samples: |F_i - F_j| against (σ_i² + σ_j²)^½, at 1/m of the share for m pairs
   (Bonferroni). Estimates from the same samples err in the same direction, so their difference scatters less
   than that: the test is conservative, and alarms at most as often as stated;
3. forward against reverse, for each two-sided estimate that has both (``disagreement_z`` of its diagnostics),
   at 1/m of the share for m estimates.

Some estimates rest on an *assumption* besides, such as that data are in equilibrium within regions. If a
test fails, but the estimates without assumptions pass the same tests among themselves, at least two of them
sharing no samples, then these are to be believed: one of them is quoted, and it is told that the assumption
does not hold. Otherwise nothing is quoted.

Thresholds. ``ENOUGH`` effective samples give a standard error that is itself known to 1/√(2·ENOUGH), about
10 %. ``LEAST_OVERLAP`` is of the size of the limit for neighbours in the overlap matrix of Klimovich,
Shirts & Mobley; of two states the overlap meant here is the sum of both elements off the diagonal, so it is
half as strict, but the error bars of Bennett's ratio still hold there (measured down to 0.02). Below
``LEAST_FRACTION`` of effective samples, a one-sided estimate rests on the tail of its samples.

References: Klimovich, Shirts & Mobley, J. Comput. Aided Mol. Des. 29, 397 (2015), section on overlap;
Pohorille, Jarzynski & Chipot, J. Phys. Chem. B 114, 10235 (2010), on forward against reverse.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from bgdiff.errors import ConfigError
from bgdiff.free_energy.estimate import Estimate

__all__ = [
    "ENOUGH",
    "LEAST_FRACTION",
    "LEAST_OVERLAP",
    "Candidate",
    "Judgement",
    "Problem",
    "judge",
]

ENOUGH = 50.0
"""Effective samples below which an error bar is not believed."""
LEAST_OVERLAP = 0.03
"""Overlap of two ensembles below which a two-sided estimate is not believed."""
LEAST_FRACTION = 0.005
"""Overlap (Kish fraction) below which a one-sided estimate is not believed."""
LEVEL = 0.01
"""False alarms among estimates that agree."""
_ONE_SIDED = 2.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An estimate with what its judgement needs to know.

    Args:
        name: of the estimator.
        estimate: its result.
        samples: number of samples by the name of each set it uses; sets are told apart by their names.
        two_sided: it uses samples of both ensembles that it connects, neither made from the other's.
        exact: in the limit of many samples it is right whatever was learned.
        assumes: what must hold for that, in words; empty if nothing must.
        least_overlap: overlap below which it is not believed; None: the limit of its side or sides.
    """

    name: str
    estimate: Estimate
    samples: Mapping[str, int] = field(default_factory=dict)
    two_sided: bool = False
    exact: bool = True
    assumes: str = ""
    least_overlap: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an estimate is not sufficient, and what to do about it."""

    reason: str
    advice: str = ""
    more_samples: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be made of several estimates of one quantity.

    Attributes:
        quoted: name of the estimate to quote; None if the quantity is refused.
        consistent: None if fewer than two sufficient estimates can be compared.
        problems: by name, why an estimate is not sufficient.
        verdict: one or two sentences.
        advice: what to do, one sentence each.
        chi_square, degrees_of_freedom, p_value: of the first test; None if there is nothing to test.
        alarms: what failed, in words.
        more_samples: how many samples more, at least, would be sufficient; None if something else is missing.
    """

    quoted: str | None
    consistent: bool | None
    problems: Mapping[str, Problem]
    verdict: str
    advice: tuple[str, ...] = ()
    chi_square: float | None = None
    degrees_of_freedom: int = 0
    p_value: float | None = None
    alarms: tuple[str, ...] = ()
    more_samples: int | None = None


def judge(
    candidates: Sequence[Candidate],
    *,
    level: float = LEVEL,
    enough: float = ENOUGH,
    least_overlap: float = LEAST_OVERLAP,
    least_fraction: float = LEAST_FRACTION,
) -> Judgement:
    """Judge estimates of the same quantity.

    Args:
        candidates: the estimates; names must differ.
        level: α, how often estimates that agree may be called inconsistent.
        enough, least_overlap, least_fraction: see the module.

    Raises:
        ConfigError: two candidates have the same name, or a limit makes no sense.
    """
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < len(names):
        raise ConfigError(f"estimators: names must differ, got {', '.join(names)}")
    if not 0 < level < 1 or enough <= 0:
        raise ConfigError(f"judgement: expected 0 < level < 1 and enough > 0, got {level} and {enough}")
    problems = {
        candidate.name: problem
        for candidate in candidates
        if candidate.exact
        and (problem := _problem(candidate, enough, least_overlap, least_fraction)) is not None
    }
    sufficient = [c for c in candidates if c.exact and c.name not in problems]
    if not sufficient:
        return _insufficient(candidates, problems)
    tested = _test(sufficient, level)
    believed, caution = sufficient, ""
    if tested.alarms:
        believed = [c for c in sufficient if not c.assumes]
        again = _test(believed, level)
        if again.degrees_of_freedom < 1 or again.alarms:
            advice: tuple[str, ...] = (
                "train longer or use more rungs, so that the weights scatter less; draw more samples and "
                "walk more frames up",
            )
            if len(believed) < len(sufficient):
                assumption = next(c.assumes for c in sufficient if c.assumes)
                advice += (f"some of these estimates ask that {assumption}, which may not hold",)
                advice += tuple(
                    f"{c.name} does not ask for that and could settle it: {problems[c.name].advice}"
                    for c in candidates
                    if c.exact and not c.assumes and c.name in problems and problems[c.name].advice
                )
            text = f"Not consistent: {'; '.join(tested.alarms)}. None should be quoted."
            return Judgement(None, False, problems, text, advice, *tested.numbers, tested.alarms)
        assumption = next(c.assumes for c in sufficient if c.assumes)
        caution = f"Estimates which ask that {assumption} do not agree with the others: it does not hold. "
        tested = replace(again, alarms=tested.alarms)
    two_sided = [c for c in believed if c.two_sided]
    best = min(believed, key=_cost)
    if tested.p_value is not None:
        freedoms = "degree" if tested.degrees_of_freedom == 1 else "degrees"
        verdict = (
            f"{'The others are consistent' if caution else 'Consistent'}: χ² = {tested.chi_square:.1f} for "
            f"{tested.degrees_of_freedom} {freedoms} of freedom, p = {_p(tested.p_value)} (estimates that "
            "share no samples)."
        )
    elif tested.n_tests:
        verdict = "Consistent: no two estimates are further apart than chance allows, nor both directions."
    else:
        verdict = "Nothing to compare with: only one estimate is sufficient."
    one_sided = not two_sided and not any(c.two_sided for c in sufficient)
    return Judgement(
        best.name,
        False if caution else True if tested.n_tests else None,
        problems,
        f"{caution}{verdict} Quote {best.name}.",
        ("samples of one side only: compare with walks up from data to see what they miss",) * one_sided,
        *tested.numbers,
        tested.alarms,
    )


def _cost(candidate: Candidate) -> float:
    """The error, that of a one-sided estimate doubled: it cannot tell what its samples miss."""
    return candidate.estimate.std_error * (1.0 if candidate.two_sided else _ONE_SIDED)


@dataclass(frozen=True, slots=True)
class _Tests:
    """Outcome of the three tests."""

    n_tests: int
    alarms: tuple[str, ...]
    chi_square: float | None
    degrees_of_freedom: int
    p_value: float | None

    @property
    def numbers(self) -> tuple[float | None, int, float | None]:
        return self.chi_square, self.degrees_of_freedom, self.p_value


def _test(candidates: Sequence[Candidate], level: float) -> _Tests:
    independent = _independent(candidates)
    pairs = [(a, b) for a, b in combinations(candidates, 2) if _share(a, b)]
    both_ways = [c for c in candidates if _finite(c.estimate.diagnostics.get("disagreement_z"))]
    n_tests = sum([len(independent) > 1, bool(pairs), bool(both_ways)])
    share = level / max(n_tests, 1)
    alarms: list[str] = []
    chi_square, freedom, p_value = _chi_square(independent)
    if p_value is not None and p_value < share:
        a, b = max(combinations(independent, 2), key=lambda pair: abs(_distance(*pair)))
        alarms.append(
            f"χ² = {chi_square:.1f} for {freedom} degree{'s' * (freedom > 1)} of freedom, p = {_p(p_value)}; "
            f"{a.name} and {b.name} are {abs(_distance(a, b)):.1f} combined errors apart"
        )
    for a, b in pairs:
        if _tail(_distance(a, b)) < share / len(pairs):
            alarms.append(f"{a.name} and {b.name} are {abs(_distance(a, b)):.1f} combined errors apart")
    for one in both_ways:
        z = float(one.estimate.diagnostics["disagreement_z"])
        if _tail(z) < share / len(both_ways):
            alarms.append(f"forward and reverse of {one.name} are {abs(z):.1f} combined errors apart")
    return _Tests(n_tests, tuple(alarms), chi_square, freedom, p_value)


def _problem(
    candidate: Candidate, enough: float, least_overlap: float, least_fraction: float
) -> Problem | None:
    estimate = candidate.estimate
    if not math.isfinite(estimate.value):
        return Problem("has no finite value", "draw more samples")
    if math.isfinite(estimate.n_eff) and estimate.n_eff < enough:
        drawn = sum(candidate.samples.values())
        factor = enough / max(estimate.n_eff, 1.0)
        more = _rounded_up(drawn * (factor - 1)) if drawn and factor > 1 else None
        advice = f"draw about {more} more samples" if more else "draw more samples"
        return Problem(f"{estimate.n_eff:.3g} effective samples, {enough:.0f} are needed", advice, more)
    if not math.isfinite(estimate.std_error) or math.isnan(estimate.n_eff):
        return Problem("its error is not known", "draw more samples")
    least = candidate.least_overlap
    if least is None:
        least = least_overlap if candidate.two_sided else least_fraction
    if estimate.overlap is not None and not estimate.overlap >= least:
        return Problem(
            f"overlap {estimate.overlap:.2g} is below {least:g}",
            "bring the ensembles nearer: train longer, use more rungs, or put states between them",
        )
    return None


def _insufficient(candidates: Sequence[Candidate], problems: Mapping[str, Problem]) -> Judgement:
    exact = [c for c in candidates if c.exact]
    if not exact:
        return Judgement(None, None, problems, "Refused: no exact estimator applies to this run.")
    wanted = [(problems[c.name].more_samples, c) for c in exact if problems[c.name].more_samples]
    if wanted:
        more, nearest = min(wanted, key=lambda pair: pair[0] or 0)
        text = (
            f"Refused: no estimate has enough effective samples; the nearest, {nearest.name}, has "
            f"{nearest.estimate.n_eff:.3g}."
        )
        advice: tuple[str, ...] = (
            f"draw at least {more} more samples (the effective number grows in proportion, if nothing is "
            "missed), or improve the model so that more of them count",
        )
        return Judgement(None, None, problems, text, advice, more_samples=more)
    reasons = "; ".join(f"{c.name}: {problems[c.name].reason}" for c in exact)
    advice = tuple(dict.fromkeys(problems[c.name].advice for c in exact if problems[c.name].advice))
    return Judgement(None, None, problems, f"Refused: no estimate is sufficient ({reasons}).", advice)


def _independent(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The most candidates of which no two share samples; of several such sets that of the smallest errors."""
    for size in range(len(candidates), 1, -1):
        found = [
            chosen
            for chosen in combinations(candidates, size)
            if not any(_share(a, b) for a, b in combinations(chosen, 2))
        ]
        if found:
            return min(found, key=lambda chosen: sum(c.estimate.std_error**2 for c in chosen))
    return candidates[:1]


def _share(a: Candidate, b: Candidate) -> bool:
    """Whether they use a set of samples in common; those that name none are taken to."""
    return not a.samples or not b.samples or not set(a.samples).isdisjoint(b.samples)


def _chi_square(candidates: Collection[Candidate]) -> tuple[float | None, int, float | None]:
    from scipy.special import chdtrc

    known = [c.estimate for c in candidates if c.estimate.std_error > 0]
    if len(known) < 2:
        return None, 0, None
    weight = [1 / estimate.std_error**2 for estimate in known]
    mean = math.fsum(w * e.value for w, e in zip(weight, known, strict=True)) / math.fsum(weight)
    value = math.fsum(w * (e.value - mean) ** 2 for w, e in zip(weight, known, strict=True))
    return value, len(known) - 1, float(chdtrc(len(known) - 1, value))


def _distance(a: Candidate, b: Candidate) -> float:
    return a.estimate.z_score(b.estimate.value, b.estimate.std_error)


def _tail(z: float) -> float:
    """Probability that a standard normal number is as far from 0."""
    return math.erfc(abs(z) / math.sqrt(2))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _rounded_up(value: float) -> int:
    """Two significant digits: nothing more is known about it."""
    unit = 10 ** max(math.floor(math.log10(max(value, 1.0))) - 1, 0)
    return math.ceil(value / unit) * unit


def _p(value: float) -> str:
    return f"{value:.2f}" if value >= 0.095 else f"{value:.1g}"
