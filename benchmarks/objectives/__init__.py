"""Objectives compared: what each learns of a density's energy, and at what cost.

    python -m benchmarks.objectives gmm|modes|planar|alanine [--quick] [--json FILE] [--keep DIR]

Four studies with one set of training objectives: mixtures of 40 normals (``gmm``) and of two (``modes``) in
up to 128 dimensions, whose densities are known at every noise level; five sets of points in the plane
(``planar``); alanine dipeptide (``alanine``). What is trained, for how long and with which seeds is in
``settings/STUDY.yaml``. A study is a list of independent jobs; a finished job is a JSON file in DIR, so an
interrupted study goes on where it was.
"""
