"""Which particles of a system are equal, so that a model may exchange them."""

from typing import TYPE_CHECKING

from bgdiff.system_spec import ClusterSpec, OpenMMSpec, SystemSpec

if TYPE_CHECKING:
    import mdtraj
    from torch import Tensor

__all__ = ["particle_types"]


def particle_types(spec: SystemSpec, topology: "mdtraj.Topology | None") -> "Tensor | None":
    """int64 ``(N,)``: particles of one number are equal; None if there is no symmetry to use.

    Clusters of equal particles have one number. Atoms of a molecule in Cartesian coordinates have those that
    ``equal_particles`` says: all different, one for each element in order of appearance, or all the same.
    """
    import torch

    if isinstance(spec, ClusterSpec):
        return torch.zeros(spec.particles, dtype=torch.int64)
    if not isinstance(spec, OpenMMSpec) or spec.coordinates != "mean_free":
        return None
    assert topology is not None
    if spec.equal_particles == "all":
        return torch.zeros(topology.n_atoms, dtype=torch.int64)
    if spec.equal_particles == "none":
        return torch.arange(topology.n_atoms)
    elements = [atom.element.symbol for atom in topology.atoms]
    known = list(dict.fromkeys(elements))
    return torch.tensor([known.index(element) for element in elements], dtype=torch.int64)
