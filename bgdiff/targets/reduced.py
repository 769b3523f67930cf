"""From what a ``system.yaml`` says of a density in reduced units to the density."""

from bgdiff.system_spec import DoubleWellSpec, LennardJonesSpec, ManyWellSpec, MultiDoubleWellSpec
from bgdiff.targets.base import Target

__all__ = ["reduced_target"]


def reduced_target(spec: DoubleWellSpec | ManyWellSpec | LennardJonesSpec | MultiDoubleWellSpec) -> Target:
    """Make the density; the temperature is 1."""
    parameters = spec.parameters.model_dump()
    if isinstance(spec, LennardJonesSpec):
        from bgdiff.targets.lennard_jones import LennardJones

        return LennardJones(spec.particles, spec.dimensions, **parameters)
    if isinstance(spec, MultiDoubleWellSpec):
        from bgdiff.targets.multi_double_well import MultiDoubleWell

        return MultiDoubleWell(spec.particles, spec.dimensions, **parameters)
    if isinstance(spec, ManyWellSpec):
        from bgdiff.targets.many_well import ManyWell

        return ManyWell(spec.copies, **parameters)
    from bgdiff.targets.double_well import DoubleWell

    return DoubleWell(**parameters)
