"""The command line ``bgdiff``. Nothing heavy is imported before a command needs it."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

import bgdiff
from bgdiff.cli_compare import compare
from bgdiff.cli_data import data_app
from bgdiff.cli_export import export
from bgdiff.cli_free_energy import free_energy
from bgdiff.cli_new import new
from bgdiff.cli_options import (
    Correction,
    Data,
    EngineName,
    Evaluator,
    Out,
    Preset,
    Processes,
    Rounds,
    RunDirectory,
    Samples,
    Seed,
    Settings,
    SystemName,
    check_device,
    folder_name,
    parse_overrides,
)
from bgdiff.terminal import LogHandler, Options, console, errors_told, say, stage_progress

__all__ = ["app", "main"]

_EPILOG = (
    "A run is a directory: settings, checkpoints, samples, weights, results.json and report.html. "
    "It can be stopped at any moment and continued with: bgdiff run --resume DIR"
)

app = typer.Typer(
    name="bgdiff",
    help=(
        "Boltzmann generators: train on molecular dynamics, reweight exactly, report free energies with "
        "error bars.\n\nStart with: [bold]bgdiff run double_well --preset quick[/]"
    ),
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bgdiff {bgdiff.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only results.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is being done.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    Options.quiet, Options.debug = quiet, debug
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, handlers=[LogHandler()], force=True, format="%(message)s")
    logging.getLogger("bgdiff").setLevel(level)


@app.command(rich_help_panel="Run")
def run(
    context: typer.Context,
    system: Annotated[
        str | None,
        typer.Argument(metavar="SYSTEM", help="Name of a system, or its folder.", show_default=False),
    ] = None,
    out: Out = None,
    preset: Annotated[
        Preset, typer.Option(help="How much work: quick is for a first look.")
    ] = Preset.standard,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="Where networks run: cpu, cuda, cuda:1, mps.")] = "cpu",
    data: Data = None,
    samples: Samples = None,
    rounds: Rounds = None,
    settings: Settings = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Finish an interrupted run as it was set.", show_default=False),
    ] = None,
) -> None:
    """Train, sample, reweight and report: the whole job.

    Example: bgdiff run alanine_dipeptide_vacuum --preset standard --out runs/ala --seed 0
    """
    if resume is not None:
        given = [name for name in context.params if name != "resume" and _is_given(context, name)]
        if given:
            flags = ", ".join(map(_flag, given))
            message = f"keeps the run's own settings; drop {flags}"
            raise typer.BadParameter(message, context, param_hint="--resume")
        with errors_told(resume):
            from bgdiff.run import resume_run, run_all

            resume_run(resume)
            run_all(resume, progress=stage_progress().stage)
            _show_results(resume)
        return
    if system is None:
        message = "name a system (`bgdiff systems` lists them), or continue a run with --resume DIR"
        raise typer.BadParameter(message, context, param_hint="SYSTEM")
    with errors_told():
        check_device(device)
        from bgdiff.run import run_all, start_run

        given_settings = list(settings or [])
        if samples is not None:
            given_settings.append(f"sampling.n_samples={samples}")
        if rounds is not None:
            given_settings.append(f"rounds.n_rounds={rounds}")
        directory = start_run(
            system,
            out or Path("runs") / f"{folder_name(system)}-{preset}-{seed}",
            preset=str(preset),
            seed=seed,
            device=device,
            overrides=parse_overrides(given_settings),
            data=data or None,
        )
    with errors_told(directory):
        run_all(directory, progress=stage_progress().stage)
        _show_results(directory)


def _stage_command(name: str, text: str) -> None:
    def command(directory: RunDirectory) -> None:
        with errors_told(directory):
            import bgdiff.run

            getattr(bgdiff.run, f"stage_{name}")(directory, progress=stage_progress().stage)
            if name == "report":
                _show_results(directory)

    command.__doc__ = text
    app.command(name, rich_help_panel="Stages of a run, one at a time")(command)


_stage_command("train", "Fit the energy model to the run's data.")
_stage_command("sample", "Draw samples from the trained model, with their path weights.")


@app.command(rich_help_panel="Stages of a run, one at a time")
def reweight(
    directory: RunDirectory,
    method: Correction = None,
) -> None:
    """Correct the samples with the true energy; estimate free energies."""
    # the run's own method is part of the run; another one goes on when it is asked for again
    with errors_told(None if method else directory, again=method is not None):
        from bgdiff.run import stage_reweight

        stage_reweight(directory, progress=stage_progress().stage, method=method and method.value)
        _show_results(directory)


_stage_command("report", "Draw the figures and write report.html.")
app.command("free-energy", rich_help_panel="Free energies")(free_energy)
app.command("compare", rich_help_panel="Run")(compare)
app.command("export", rich_help_panel="Other programs")(export)


app.command("new", rich_help_panel="Systems and data")(new)


@app.command(rich_help_panel="Systems and data")
def systems() -> None:
    """List the systems that can be run."""
    with errors_told():
        from bgdiff.catalogue import describe_systems
        from bgdiff.console import systems_table

        console().print(systems_table(describe_systems()))


@app.command(rich_help_panel="This installation")
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    seconds: Annotated[
        float,
        typer.Option("--benchmark", min=0, max=3600, help="Seconds to measure speed for; 0: not at all."),
    ] = 2.0,
) -> None:
    """Show versions, what evaluates energies and why, and how fast it is on this machine."""
    with errors_told():
        from bgdiff.info import collect_info

        found = collect_info(seconds)
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        else:
            from bgdiff.console import info_view

            console().print(info_view(found))


app.add_typer(data_app, name="data", rich_help_panel="Systems and data")


@app.command(rich_help_panel="Systems and data")
def reference(
    system: SystemName,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="JSON file to write.", show_default="SYSTEM-reference.json"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER", help="Difference to another system of the same atoms.", show_default=False
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="K", help="Temperature of SYSTEM.", show_default="as system.yaml says"),
    ] = None,
    to_temperature: Annotated[
        float | None,
        typer.Option(metavar="K", help="Temperature of OTHER.", show_default="as its system.yaml says"),
    ] = None,
    length_ns: Annotated[
        float | None,
        typer.Option(help="Simulated time of every replica.", show_default="as system.yaml says"),
    ] = None,
    seed: Seed = 0,
    processes: Processes = None,
    engine: Evaluator = EngineName.auto,
) -> None:
    """Compute reference free energies by a method that shares nothing with the model.

    Molecules: parallel tempering, analysed with MBAR, as the system's replica_exchange section says (minutes
    on the batched engine, hours on OpenMM); clusters in reduced units have log Z besides. Double wells:
    quadrature. With --to: alchemical replica exchange between two systems, as the system's transformations
    section says.

    Example: bgdiff reference alanine_dipeptide_vacuum --to alanine_dipeptide_obc1
    """
    with errors_told(again=True):
        from bgdiff.analysis.text import with_error
        from bgdiff.data.reference import compute_reference
        from bgdiff.io import read_json
        from bgdiff.systems import load_system

        first = load_system(system)
        if to is None:
            if to_temperature is not None:
                raise typer.BadParameter("needs --to OTHER", param_hint="--to-temperature")
            with stage_progress().stage("reference") as progress:
                path = compute_reference(
                    first,
                    out,
                    seed=seed,
                    processes=processes,
                    progress=progress,
                    engine=engine.value,
                    temperature=temperature,
                    length_ns=length_ns,
                )
            content = read_json(path)
            if log_z := content["log_z"]:
                say(f"log Z = {with_error(log_z['value'], log_z['std_error'])}")
            for item in content["free_energy_differences"]:
                text = f"ΔF({item['initial']} → {item['final']}) / kT = "
                say(text + with_error(item["value"], item["std_error"]))
        else:
            from bgdiff.data.alchemical_reference import compute_transformation

            second = load_system(to)
            with stage_progress().stage("reference") as progress:
                path = compute_transformation(
                    first if temperature is None else first.at_temperature(temperature),
                    second if to_temperature is None else second.at_temperature(to_temperature),
                    out,
                    seed=seed,
                    processes=processes,
                    progress=progress,
                    engine=engine.value,
                    length_ns=length_ns,
                )
            item = read_json(path)["free_energy_difference"]
            text = f"ΔF({first.name} → {second.name}) / kT = "
            say(text + with_error(item["value"], item["std_error"]))
        say(f"wrote {path}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _flag(name: str) -> str:
    return {"system": "SYSTEM", "settings": "--set"}.get(name, f"--{name}")


def _show_results(directory: Path) -> None:
    from bgdiff.analysis.results import read_results
    from bgdiff.analysis.summary import summary_table

    console().print(summary_table(read_results(directory / "results.json")))
    report = directory / "report.html"
    if report.exists():
        say(f"report: {report}")


def main() -> None:
    """Entry point of the ``bgdiff`` command."""
    app(prog_name="bgdiff")


if __name__ == "__main__":
    main()
