"""Continue molecular dynamics from exported starting states. Needs this folder and OpenMM.

python simulate.py                          every state
python simulate.py --states 0 1 2 --ps 100  some of them, for 100 ps each
python simulate.py --platform CUDA

Trajectories are written to trajectories/; those that are complete are not simulated again.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import openmm
from openmm import app, unit

__all__ = ["main"]

log = logging.getLogger("simulate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate as the command line says."""
    folder = Path(__file__).resolve().parent
    facts = json.loads((folder / "starts.json").read_text(encoding="utf-8"))
    starts = facts["starts"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--states", type=int, nargs="+", default=range(len(starts)), help="which; default all"
    )
    parser.add_argument("--ps", type=float, default=10.0, help="length of each trajectory (10)")
    parser.add_argument("--spacing", type=float, default=0.1, help="ps between frames (0.1)")
    parser.add_argument("--step", type=float, default=1.0, help="fs; bonds are not constrained (1)")
    parser.add_argument("--friction", type=float, default=1.0, help="per ps (1)")
    parser.add_argument("--platform", help="of OpenMM; default the fastest")
    chosen = parser.parse_args(arguments)

    topology = app.PDBFile(str(folder / "topology.pdb")).topology
    system = openmm.XmlSerializer.deserialize((folder / "system.xml").read_text(encoding="utf-8"))
    temperature = facts["temperature"] * unit.kelvin
    integrator = openmm.LangevinMiddleIntegrator(
        temperature, chosen.friction / unit.picosecond, chosen.step * unit.femtosecond
    )
    platform = openmm.Platform.getPlatformByName(chosen.platform) if chosen.platform else None
    simulation = app.Simulation(topology, system, integrator, platform)
    every, steps = (max(1, round(1000 * t / chosen.step)) for t in (chosen.spacing, chosen.ps))
    results = folder / "trajectories"
    results.mkdir(exist_ok=True)
    for index in chosen.states:
        final = results / f"{index:05d}.dcd"
        if final.exists():
            log.info("%s is there already", final)
            continue
        simulation.loadState(str(folder / starts[index]["file"]))
        simulation.currentStep = 0
        if not facts["velocities"]:
            simulation.context.setVelocitiesToTemperature(temperature)
        unfinished = final.with_suffix(".partial")
        reporter = app.DCDReporter(str(unfinished), every)
        simulation.reporters = [reporter]
        simulation.step(steps)
        simulation.reporters = []
        del reporter  # closes the file
        unfinished.rename(final)
        log.info("wrote %s", final)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
