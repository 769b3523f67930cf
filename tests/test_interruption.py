"""Simulations stopped from outside: Ctrl-C ends every process at once, and kill -9 costs at most a chunk."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from molecules import switch_folder, twist_folder
from processes import children, is_running, sees_processes, wait_until

from bgdiff.data.generate import generate_data
from bgdiff.systems import load_system

ROOT = Path(__file__).resolve().parent.parent


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bgdiff.cli", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def endless(tmp_path):
    """A generation by two worker processes whose chunks would take minutes."""
    folder = switch_folder(tmp_path / "switch")
    text = (folder / "system.yaml").read_text()
    text = text.replace("length_ns: 0.004, spacing_ps: 0.002", "length_ns: 1000, spacing_ps: 200")
    (folder / "system.yaml").write_text(text)
    process = start("data", "generate", folder, "--out", tmp_path / "a.dcd", "--processes", 2)
    # Beside the two workers there is multiprocessing's resource tracker.
    assert wait_until(lambda: len(children(process.pid)) >= 3 or process.poll() is not None, 120)
    yield process, children(process.pid)
    process.kill()
    process.communicate()


@sees_processes
def test_ctrl_c_stops_workers_in_the_middle_of_a_chunk(endless):
    process, ids = endless
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "Stopped; the same command continues it" in output
    assert "Traceback" not in output
    assert wait_until(lambda: not any(map(is_running, ids)))


@sees_processes
def test_a_killed_generation_leaves_no_workers(endless):
    process, ids = endless
    process.kill()
    assert wait_until(lambda: not any(map(is_running, ids)))


@sees_processes
def test_a_killed_generation_resumes_to_the_same_file(tmp_path):
    system = load_system(twist_folder(tmp_path / "twist"))
    options = {"seed": 4, "method": "parallel-tempering", "frames": 1000, "processes": 1}
    whole = system.load_data(generate_data(system, tmp_path / "whole.dcd", **options))
    out, parts = tmp_path / "cut.dcd", tmp_path / "cut.dcd.parts"
    process = start(
        *("data", "generate", system.path, "--out", out, "--seed", 4, "--processes", 1),
        *("--method", "parallel-tempering", "--frames", 1000),
    )
    assert wait_until(lambda: len(list(parts.glob("*chunk*.npz"))) > 1 or process.poll() is not None, 120)
    process.kill()
    process.communicate()
    assert parts.exists()
    assert not out.exists()
    cut = system.load_data(generate_data(system, out, **options))
    assert torch.equal(cut.x, whole.x)
