"""The OpenMM evaluator: batches of any shape, derivatives, threads, and worker processes that behave."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from checks import seeded
from processes import is_running, sees_processes, wait_until
from torch import Tensor

from bgdiff.errors import ConfigError, DataError, SystemDefinitionError, WorkerError
from bgdiff.targets.base import Target
from bgdiff.targets.openmm import GAS_CONSTANT, OpenMMTarget
from bgdiff.targets.openmm_rows import RowEvaluator
from bgdiff.targets.pool import RowPool

ROOT = Path(__file__).resolve().parent.parent
TEMPERATURE = 300.0
ATOMS = 6


def chain(custom: bool = False) -> openmm.System:
    """A charged chain of six atoms; with a force that the batched engine cannot know if ``custom``."""
    system = openmm.System()
    bonds, angles, nonbonded = (
        openmm.HarmonicBondForce(),
        openmm.HarmonicAngleForce(),
        openmm.NonbondedForce(),
    )
    for i in range(ATOMS):
        system.addParticle(12.0)
        nonbonded.addParticle((-1) ** i * 0.3, 0.3, 0.4)
        if i:
            bonds.addBond(i - 1, i, 0.15, 2e5)
        if i > 1:
            angles.addAngle(i - 2, i - 1, i, 1.9, 400.0)
    nonbonded.createExceptionsFromBonds([(i, i + 1) for i in range(ATOMS - 1)], 0.8, 0.5)
    for force in (bonds, angles, nonbonded):
        system.addForce(force)
    if custom:
        spring = openmm.CustomBondForce("20*(r-0.5)^4")
        spring.addBond(0, ATOMS - 1)
        system.addForce(spring)
    return system


def nonsense() -> openmm.System:
    """A System that OpenMM can hold but not evaluate."""
    system = chain()
    force = openmm.CustomBondForce("r*undefined")
    force.addBond(0, 1)
    system.addForce(force)
    return system


def conformations(*batch: int, seed: int = 0) -> Tensor:
    zigzag = torch.tensor([[0.12 * i, 0.09 * (i % 2), 0.0] for i in range(ATOMS)], dtype=torch.float64)
    noise = torch.randn((*batch, ATOMS, 3), generator=seeded(seed), dtype=torch.float64)
    return zigzag + 0.005 * noise


@pytest.fixture(scope="module")
def target() -> OpenMMTarget:
    return OpenMMTarget(chain(custom=True), TEMPERATURE)


def test_extra_batch_dimensions_and_empty_batches(target):
    x = conformations(2, 3, 4)
    energy, force = target.energy_and_force(x)
    assert isinstance(target, Target)
    assert energy.shape == (2, 3, 4)
    assert force.shape == x.shape
    flat_energy, flat_force = target.energy_and_force(x.flatten(0, 2))
    assert torch.equal(energy.flatten(), flat_energy)
    assert torch.equal(force.flatten(0, 2), flat_force)
    assert torch.equal(target.energy(x), energy)
    for empty in (conformations(0), conformations(3, 0, 2)):
        energy, force = target.energy_and_force(empty)
        assert energy.shape == empty.shape[:-2]
        assert force.shape == empty.shape


def test_strided_and_single_precision_input(target):
    x = conformations(6)
    strided = x.expand(2, 6, ATOMS, 3).mT.contiguous().mT[:, ::2]
    assert not strided.is_contiguous()
    assert torch.equal(target.energy(strided), target.energy(x[::2]).expand(2, 3))
    energy, force = target.energy_and_force(x.float())
    assert energy.dtype == force.dtype == torch.float64
    assert torch.equal(energy, target.energy(x.float().double()))


def test_duplicates_and_neighbours_in_the_batch_change_nothing(target):
    x = conformations(5)
    alone = torch.cat([target.energy(row[None]) for row in x])
    order = torch.tensor([3, 3, 0, 4, 3, 1, 0, 2])
    assert torch.equal(target.energy(x[order]), alone[order])


def test_what_makes_no_sense_is_refused(target):
    for wrong in (conformations(1)[0], conformations(2)[:, :5], conformations(2)[..., :2]):
        with pytest.raises(DataError, match=r"must have shape \(B, 6, 3\)"):
            target.energy(wrong)
        with pytest.raises(DataError, match=r"must have shape \(B, 6, 3\)"):
            target.energy_and_force(wrong)
    with pytest.raises(DataError, match=r"torch\.int64"):
        target.energy(conformations(2).long())
    with pytest.raises(DataError, match="ndarray"):
        target.energy(conformations(2).numpy())
    for processes in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="processes must be a whole number"):
            OpenMMTarget(chain(), TEMPERATURE, processes=processes)


def test_a_platform_that_cannot_take_the_system_is_told():
    with pytest.raises(SystemDefinitionError, match="Reference platform cannot take this System.*undefined"):
        OpenMMTarget(nonsense(), TEMPERATURE).energy(conformations(1))


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_bad_rows_leave_the_others_alone(platform):
    target = OpenMMTarget(chain(), TEMPERATURE, platform)
    x = conformations(5)
    energy, force = target.energy_and_force(x)
    broken = x.clone()
    broken[1, 2, 0], broken[3, 0, 1] = torch.nan, -torch.inf
    energy_2, force_2 = target.energy_and_force(broken)
    assert torch.isnan(energy_2[[1, 3]]).all()
    assert torch.isnan(force_2[[1, 3]]).all()
    keep = [0, 2, 4]
    assert torch.equal(energy_2[keep], energy[keep])
    assert torch.equal(force_2[keep], force[keep])


def test_derivatives(target):
    x = conformations(2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(target.energy, x, eps=1e-6, atol=1e-3, rtol=1e-6)
    energy, force = target.energy_and_force(x)
    (gradient,) = torch.autograd.grad(energy.sum(), x, retain_graph=True)
    assert torch.equal(gradient, -force)
    with torch.no_grad():
        assert not target.energy(x).requires_grad


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_second_derivatives_are_double_precision_on_every_platform(platform):
    """Against finite differences of the gradient of an analytic energy: one stiff bond, off its length."""
    system = openmm.System()
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 1, 0.15, 3e5)
    system.addForce(bond)
    for _ in range(2):
        system.addParticle(12.0)
    target = OpenMMTarget(system, TEMPERATURE, platform)
    x = (torch.tensor([[[0.0, 0.0, 0.0], [0.1, 0.11, -0.02]]], dtype=torch.float64)).requires_grad_()

    def energy(x: Tensor) -> Tensor:
        return 0.5 * 3e5 / (GAS_CONSTANT * TEMPERATURE) * ((x[:, 0] - x[:, 1]).norm(dim=-1) - 0.15) ** 2

    vector = torch.randn(x.shape, generator=seeded(7), dtype=torch.float64)
    expected = torch.autograd.functional.vhp(lambda y: energy(y).sum(), x, vector)[1]
    found = torch.autograd.functional.vhp(lambda y: target.energy(y).sum(), x, vector)[1]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-2)


def test_threads_that_share_a_target_get_what_they_asked_for(target):
    batches = [conformations(40, seed=seed) for seed in range(8)]
    expected = [target.energy_and_force(x) for x in batches]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(target.energy_and_force, batches * 3))
    for index, (energy, force) in enumerate(found):
        assert torch.equal(energy, expected[index % 8][0])
        assert torch.equal(force, expected[index % 8][1])


def test_it_says_what_evaluates():
    target = OpenMMTarget(chain(), TEMPERATURE, "CPU")
    assert target.describe() == f"OpenMM {openmm.__version__}, CPU platform"


@pytest.fixture(scope="module", params=["Reference", "CPU"])
def pooled(request):
    with OpenMMTarget(chain(custom=True), TEMPERATURE, request.param, processes=2) as target:
        yield target


def workers(target: OpenMMTarget) -> list[int]:
    """Process ids of the workers that are running."""
    executor = target._pool._executor
    return [] if executor is None else list(executor._processes)


def test_results_do_not_depend_on_processes(pooled):
    alone = OpenMMTarget(pooled.system, TEMPERATURE, pooled.platform)
    for batch in (1, 8, 9, 150):
        x = conformations(batch, seed=batch)
        x[batch // 2, 0, 0] = torch.nan
        for found, expected in zip(pooled.energy_and_force(x), alone.energy_and_force(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(pooled.energy(x), alone.energy(x), rtol=0, atol=0, equal_nan=True)
    assert len(workers(pooled)) == 2


def test_derivatives_come_through_processes(pooled):
    x = conformations(40).requires_grad_()
    alone = OpenMMTarget(pooled.system, TEMPERATURE, pooled.platform)
    gradients = []
    for target in (pooled, alone):
        _, force = target.energy_and_force(x)
        gradients.append(torch.autograd.grad((force**2).sum(), x)[0])
    assert torch.equal(*gradients)


def test_pickles_and_small_batches_start_no_workers(pooled):
    copy = pickle.loads(pickle.dumps(pooled))
    x = conformations(8)
    assert torch.equal(copy.energy(x), pooled.energy(x))
    assert copy.processes == 2
    assert workers(copy) == []


@sees_processes
def test_a_killed_worker_is_told_and_replaced():
    x = conformations(64)
    with OpenMMTarget(chain(), TEMPERATURE, processes=2) as target:
        expected = target.energy(x)
        first = workers(target)
        os.kill(first[0], signal.SIGKILL)
        assert wait_until(lambda: not is_running(first[0]))
        with pytest.raises(WorkerError, match="a worker process .* died.*fewer processes"):
            for _ in range(1000):  # the other worker may finish batches before the death is noticed
                assert torch.equal(target.energy(x), expected)
        assert torch.equal(target.energy(x), expected)
        second = workers(target)
        assert not set(first) & set(second)
    assert workers(target) == []
    assert not any(map(is_running, first + second))


@sees_processes
def test_workers_end_when_the_target_is_forgotten():
    target = OpenMMTarget(chain(), TEMPERATURE, processes=2)
    target.energy(conformations(64))
    ids = workers(target)
    assert all(map(is_running, ids))
    del target
    assert wait_until(lambda: not any(map(is_running, ids)))


def test_errors_of_workers_arrive_as_they_are():
    with RowPool(RowEvaluator(nonsense(), "Reference"), 2) as pool:
        for _ in range(2):  # and the workers survive them
            with pytest.raises(SystemDefinitionError, match="cannot take this System.*undefined"):
                pool(np.zeros((64, ATOMS, 3)), forces=True)


def test_the_workers_know_nothing_of_torch():
    """It would cost every one of them a second and 200 MB."""
    code = "import sys, bgdiff.targets.openmm_rows, bgdiff.targets.pool; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


SCRIPT = """
import os, sys, time
import torch
from bgdiff.targets.openmm import OpenMMTarget
from test_openmm_target import chain, conformations, workers

if __name__ == "__main__":
    with OpenMMTarget(chain(), 300.0, processes=2) as target:
        x = conformations(64)
        target.energy(x)
        print(*workers(target), flush=True)
        x = x.repeat(500, 1, 1)
        while True:
            target.energy(x)
"""


@pytest.fixture
def at_work(tmp_path):
    """Start a script that evaluates without end; yield it and the ids of its workers."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    ids = [int(word) for word in process.stdout.readline().split()]
    yield process, ids
    process.kill()
    process.communicate()


@sees_processes
def test_ctrl_c_stops_everything_at_once(at_work):
    process, ids = at_work
    assert len(ids) == 2, process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers
    _, errors = process.communicate(timeout=30)
    assert errors.count("KeyboardInterrupt") == 1, errors
    assert errors.count("Traceback") == 1, errors
    assert process.returncode == -signal.SIGINT
    assert wait_until(lambda: not any(map(is_running, ids)))


@sees_processes
def test_a_killed_parent_leaves_no_workers(at_work):
    process, ids = at_work
    assert len(ids) == 2, process.stderr.read()
    process.kill()
    assert wait_until(lambda: not any(map(is_running, ids)))


def test_rows_are_openmm_energies_in_its_own_units():
    evaluate = RowEvaluator(chain(), "Reference")
    x = conformations(3).numpy()
    energy, force = evaluate(x, forces=True)
    assert evaluate(x, forces=False)[1] is None
    context = openmm.Context(
        chain(), openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    for row in range(3):
        context.setPositions(x[row])
        state = context.getState(energy=True, forces=True)
        assert energy[row] == state.getPotentialEnergy()._value
        np.testing.assert_array_equal(force[row], state.getForces(asNumpy=True)._value)
