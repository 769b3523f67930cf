"""The compiled kernel as a program: rows on their own, threads, forks, bad input, loading, building."""

import logging
import multiprocessing
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forcefield_tables import empty_tables, one_pair
from peptides import peptide, peptide_structure, peptide_system

from bgdiff.errors import DataError
from bgdiff.targets.forcefield import build, kernel
from bgdiff.targets.forcefield.kernel import KernelEvaluator, KernelUnavailable, kernel_status, load_kernel
from bgdiff.targets.forcefield.parser import parse_system
from bgdiff.targets.forcefield.tables import BondTable

ROOT = Path(__file__).resolve().parent.parent
DTYPES = [torch.float64, torch.float32]

needs_kernel = pytest.mark.skipif(load_kernel() is None, reason="no compiled kernel on this machine")


@pytest.fixture(scope="module")
def tables():
    return parse_system(peptide_system(peptide("ALA"), "ff96", "OBC1"))


@pytest.fixture(scope="module")
def x():
    """203 conformations, some with clashes: every branch of the Born integrals in one tile."""
    structure = torch.from_numpy(peptide_structure(peptide("ALA")))
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(203, *structure.shape, generator=generator, dtype=torch.float64)
    return structure + torch.linspace(0.001, 0.06, 203)[:, None, None] * noise


def assert_equal(found, expected):
    """Bit for bit."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
class TestRowsAreOnTheirOwn:
    def test_whatever_the_batch(self, tables, x, dtype):
        """A row gives the same bits alone, in any part, in any order, and twice."""
        evaluator = KernelEvaluator(tables, dtype, 1)
        energy, force = evaluator.energy_and_force(x)
        for row in range(0, len(x), 20):
            assert_equal(
                evaluator.energy_and_force(x[row : row + 1]), (energy[row : row + 1], force[row : row + 1])
            )
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        assert_equal(evaluator.energy_and_force(x[order]), (energy[order], force[order]))
        assert_equal(
            evaluator.energy_and_force(x[:1].expand(37, -1, -1)), (energy[[0] * 37], force[[0] * 37])
        )
        assert_equal([evaluator.energy(x)], [energy])

    def test_whatever_the_threads(self, tables, x, dtype):
        x = x.repeat(20, 1, 1)
        expected = KernelEvaluator(tables, dtype, 1).energy_and_force(x)
        for threads in (2, 3, 16):
            assert_equal(KernelEvaluator(tables, dtype, threads).energy_and_force(x), expected)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_a_row_that_is_not_finite_is_nan_alone(self, tables, x, dtype, bad):
        evaluator = KernelEvaluator(tables, dtype, 1)
        energy, force = evaluator.energy_and_force(x)
        x = x.clone()
        x[5, 21, 2] = bad
        x[200, 0, 0] = bad
        energy[[5, 200]] = force[[5, 200]] = float("nan")
        assert_equal(evaluator.energy_and_force(x), (energy, force))

    def test_concurrent_calls(self, tables, x, dtype):
        """Twelve threads on one evaluator, which itself starts two each."""
        evaluator = KernelEvaluator(tables, dtype, 2)
        parts = [x[start:].repeat(4, 1, 1) for start in range(12)]
        expected = [evaluator.energy_and_force(part) for part in parts]
        with ThreadPoolExecutor(12) as pool:
            for _ in range(5):
                for found, one in zip(pool.map(evaluator.energy_and_force, parts), expected, strict=True):
                    assert_equal(found, one)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    def test_after_a_fork(self, tables, x, dtype):
        """A child has none of its parent's threads, and needs none of them."""
        evaluator = KernelEvaluator(tables, dtype, 2)
        expected = evaluator.energy(x)
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=lambda: queue.put(bool((evaluator.energy(x) == expected).all())))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert queue.get()


@needs_kernel
class TestInput:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_any_strides_and_batch_dimensions(self, tables, x, dtype):
        evaluator = KernelEvaluator(tables, dtype)
        energy, force = evaluator.energy_and_force(x)
        assert_equal(evaluator.energy_and_force(x[::3]), (energy[::3], force[::3]))
        flipped = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        assert not flipped.is_contiguous()
        assert_equal(evaluator.energy_and_force(flipped), (energy, force))
        found = evaluator.energy_and_force(x[:24].reshape(2, 3, 4, 22, 3))
        assert_equal(found, (energy[:24].reshape(2, 3, 4), force[:24].reshape(2, 3, 4, 22, 3)))

    @pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
    def test_empty_batches(self, tables, shape):
        energy, force = KernelEvaluator(tables).energy_and_force(torch.empty(*shape, 22, 3))
        assert energy.shape == shape
        assert force.shape == (*shape, 22, 3)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_float32_coordinates(self, tables, x, dtype):
        """They are what they are; nothing is lost on the way to float64."""
        evaluator = KernelEvaluator(tables, dtype)
        single = x.float()
        assert_equal(evaluator.energy_and_force(single), evaluator.energy_and_force(single.double()))
        half = x.bfloat16()
        assert_equal(evaluator.energy_and_force(half), evaluator.energy_and_force(half.to(dtype)))

    def test_results_can_be_written_in_place(self, tables, x):
        evaluator = KernelEvaluator(tables)
        energy, force = torch.empty(len(x), dtype=torch.float64), torch.empty_like(x)
        found = evaluator.energy_and_force(x, out=(energy, force), scale=0.5)
        assert found[0] is energy
        assert found[1] is force
        expected = evaluator.energy_and_force(x)
        assert_equal(found, [0.5 * one for one in expected])
        for wrong in ((energy[:-1], force), (energy, force.float()), (energy, force.mT.contiguous().mT)):
            with pytest.raises(
                ValueError, match="out: .* must be a contiguous torch.float64 tensor of shape"
            ):
                evaluator.energy_and_force(x, out=wrong)

    def test_what_is_no_conformation_is_refused(self, tables, x):
        evaluator = KernelEvaluator(tables)
        for wrong in (x[:, :21], x[..., :2], x[0], x.long(), x.to(torch.complex128), x.numpy()):
            with pytest.raises(DataError, match="conformations must"):
                evaluator.energy_and_force(wrong)
            with pytest.raises(DataError, match="conformations must"):
                evaluator.energy(wrong)
        with pytest.raises(ValueError, match="on the CPU, not on meta"):
            evaluator.energy(x.to("meta"))

    def test_settings_and_tables_that_make_no_sense_are_refused(self, tables):
        with pytest.raises(ValueError, match="dtype"):
            KernelEvaluator(tables, torch.float16)
        with pytest.raises(ValueError, match="threads"):
            KernelEvaluator(tables, threads=0)
        with pytest.raises(ValueError, match="at least one atom"):
            KernelEvaluator(empty_tables(0))
        bond = BondTable(np.array([[0, 2]], np.int32), np.ones(1), np.ones(1))
        with pytest.raises(ValueError, match="atom indices .* must be in 0 ... 1"):
            KernelEvaluator(replace(empty_tables(2), bonds=bond))

    def test_one_atom_and_no_interaction(self):
        energy, force = KernelEvaluator(empty_tables(1)).energy_and_force(torch.randn(5, 1, 3))
        assert_equal((energy, force), (torch.zeros(5).double(), torch.zeros(5, 1, 3).double()))

    def test_pairs_in_any_order_and_twice(self):
        """(1, 0) is (0, 1), and what is listed twice counts twice."""
        pair = one_pair(3.0, 1e-6, 1e-3)
        twice = replace(
            pair.pairs,
            atoms=np.array([[1, 0], [0, 1]], np.int32),
            **{name: np.repeat(getattr(pair.pairs, name), 2) for name in ("charge_product", "c12", "c6")},
        )
        x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        one = KernelEvaluator(pair).energy_and_force(x)
        two = KernelEvaluator(replace(pair, pairs=twice)).energy_and_force(x)
        torch.testing.assert_close(two, (2 * one[0], 2 * one[1]))


class TestLoading:
    """``_load_all`` is the uncached search behind ``load_kernel``."""

    @needs_kernel
    def test_best_variant_and_named_variants(self):
        status = kernel_status()
        assert status.variant == status.usable[0] == load_kernel().variant
        assert status.reason is None
        assert str(status) == f"kernel {status.variant}"
        for variant in status.usable:
            assert load_kernel(variant).variant == variant
            assert load_kernel(variant).lanes[torch.float32] == 2 * load_kernel(variant).lanes[torch.float64]
        assert list(status.usable) == [name for name in build.VARIANTS if name in status.usable]
        assert load_kernel("v5") is None

    def test_nothing_was_built(self, tmp_path):
        libraries, reason = kernel._load_all.__wrapped__(tmp_path)
        assert libraries == {}
        assert "not built, for want of a C++ compiler" in reason
        assert "pip install -e ." in reason

    @needs_kernel
    def test_other_sources(self, monkeypatch, caplog):
        monkeypatch.setattr(build, "source_digest", lambda: "0" * 16)
        with caplog.at_level(logging.WARNING):
            libraries, reason = kernel._load_all.__wrapped__(build.LIBRARIES)
        assert libraries == {}
        assert "was built from other sources; reinstall with: pip install -e ." in reason
        assert len(caplog.records) == 1
        assert reason in caplog.text

    @needs_kernel
    def test_what_is_no_library(self, tmp_path):
        for name in (build.CPU_LIBRARY, *map(build.library_name, build.VARIANTS)):
            (tmp_path / name).write_bytes(b"\x7fELF, but no more")
        libraries, reason = kernel._load_all.__wrapped__(tmp_path)
        assert libraries == {}
        assert build.CPU_LIBRARY in reason

    @needs_kernel
    def test_an_older_processor_gets_what_it_can_run(self, tmp_path, monkeypatch):
        for path in build.LIBRARIES.iterdir():
            (tmp_path / path.name).symlink_to(path)
        for level, allowed in ((0, {"portable"}), (2, {"v2", "portable"}), (3, {"v3", "v2", "portable"})):
            monkeypatch.setattr(kernel, "_cpu_level", lambda path, level=level: level)
            libraries, _ = kernel._load_all.__wrapped__(tmp_path)
            assert set(libraries) == allowed & set(kernel_status().usable)

    def test_evaluator_without_kernel(self, tables, monkeypatch):
        monkeypatch.setattr(kernel, "_load_all", lambda: ({}, "a good reason"))
        assert load_kernel() is None
        assert str(kernel_status()) == "torch (no compiled kernel: a good reason)"
        with pytest.raises(KernelUnavailable, match="cannot be used: a good reason"):
            KernelEvaluator(tables)


def fake_compiler(folder, body):
    """A compiler that runs ``body`` with $out set to the file after -o."""
    path = folder / "fake-c++"
    path.write_text(f'#!/bin/sh\nfor last; do :; done; out="$last"\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="not built on Windows")
class TestBuild:
    @needs_kernel
    def test_compiles_and_loads(self, tmp_path, monkeypatch):
        monkeypatch.setattr(build, "_X86_FLAGS", {"portable": ("-O0",)})  # quick to compile
        warnings = []
        libraries = build.build_kernel(tmp_path / "lib", warn=warnings.append)
        assert warnings == []
        assert [path.name for path in libraries] == [build.CPU_LIBRARY, "kernel-portable.so"]
        assert sorted(tmp_path.joinpath("lib").iterdir()) == sorted(libraries)  # and nothing is left over
        found, _ = kernel._load_all.__wrapped__(tmp_path / "lib")
        assert list(found) == ["portable"]

    def test_digest_is_of_names_and_contents(self, tmp_path):
        for name, text in (("a.hpp", "1"), ("b.cpp", "2"), ("note.txt", "3")):
            (tmp_path / name).write_text(text)
        first = build.source_digest(tmp_path)
        (tmp_path / "note.txt").write_text("4")
        assert build.source_digest(tmp_path) == first
        (tmp_path / "a.hpp").write_text("5")
        second = build.source_digest(tmp_path)
        (tmp_path / "a.hpp").rename(tmp_path / "c.hpp")
        assert len({first, second, build.source_digest(tmp_path)}) == 3

    @pytest.mark.parametrize(
        ("compiler", "reason"),
        [
            ("/nowhere/c++", "/nowhere/c++"),
            ("false", "false failed with status 1"),
            (None, "none of c++, g++"),
        ],
    )
    def test_without_compiler_there_is_one_warning(self, tmp_path, monkeypatch, compiler, reason):
        if compiler is None:
            monkeypatch.delenv("CXX", raising=False)
            monkeypatch.setenv("PATH", str(tmp_path))
        else:
            monkeypatch.setenv("CXX", compiler)
        warnings = []
        assert build.build_kernel(tmp_path / "lib", warn=warnings.append) == []
        assert len(warnings) == 1
        assert reason in warnings[0]
        assert "evaluated in torch" in warnings[0]
        assert list((tmp_path / "lib").iterdir()) == []

    def test_a_variant_that_does_not_compile_is_left_out(self, tmp_path, monkeypatch):
        refusal = 'case "$*" in *-mavx512f*) echo "error: unknown option -mavx512f" >&2; exit 1;; esac'
        monkeypatch.setenv("CXX", fake_compiler(tmp_path, refusal + '; touch "$out"') + " -with-an-option")
        monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
        warnings = []
        names = [path.name for path in build.build_kernel(tmp_path / "lib", warn=warnings.append)]
        assert names == ["cpu.so", "kernel-v3.so", "kernel-v2.so", "kernel-portable.so"]
        (warning,) = warnings
        assert "variant v4" in warning
        assert "error: unknown option -mavx512f" in warning

    def test_other_architectures_get_the_portable_variant(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CXX", fake_compiler(tmp_path, 'touch "$out"'))
        monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
        names = [path.name for path in build.build_kernel(tmp_path / "lib")]
        assert names == ["cpu.so", "kernel-portable.so"]

    def test_a_target_that_cannot_be_written_is_a_warning(self, tmp_path):
        (tmp_path / "file").touch()
        warnings = []
        assert build.build_kernel(tmp_path / "file" / "lib", warn=warnings.append) == []
        assert "was not built" in warnings[0]


@pytest.mark.skipif(sys.platform == "win32", reason="not built on Windows")
class TestHook:
    """hatch_build.py, which hatchling runs."""

    def hook(self, root, warnings):
        spec = util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        app = SimpleNamespace(display_warning=warnings.append)
        return module.KernelBuildHook(str(root), {}, None, None, "", "wheel", app=app)

    @pytest.fixture
    def checkout(self, tmp_path):
        """The files that the hook reads, elsewhere, so that nothing here is built anew."""
        package = tmp_path / "bgdiff" / "targets" / "forcefield"
        package.mkdir(parents=True)
        (package / "build.py").write_bytes(Path(build.__file__).read_bytes())
        (package / "src").symlink_to(build.SOURCES)
        return tmp_path

    def test_wheel_with_the_kernel_is_for_this_platform(self, checkout, monkeypatch):
        monkeypatch.setenv("CXX", fake_compiler(checkout, 'touch "$out"'))
        warnings, data = [], {"force_include": {}, "pure_python": True}
        hook = self.hook(checkout, warnings)
        hook.initialize("standard", data)
        assert warnings == []
        assert data["pure_python"] is False
        assert data["tag"].startswith("py3-none-")
        assert data["tag"] != "py3-none-any"
        assert all(Path(source).is_file() for source in data["force_include"])
        assert "bgdiff/targets/forcefield/lib/kernel-portable.so" in data["force_include"].values()
        assert not (checkout / "bgdiff/targets/forcefield/lib").exists()
        hook.finalize("standard", data, "some.whl")
        assert not any(Path(source).exists() for source in data["force_include"])

    def test_editable_installation_builds_beside_the_sources(self, checkout, monkeypatch):
        monkeypatch.setenv("CXX", fake_compiler(checkout, 'touch "$out"'))
        warnings, data = [], {"force_include": {}, "pure_python": True}
        self.hook(checkout, warnings).initialize("editable", data)
        assert warnings == []
        assert (checkout / "bgdiff/targets/forcefield/lib/kernel-portable.so").is_file()
        assert data["force_include"] == {}

    @pytest.mark.parametrize("version", ["standard", "editable"])
    def test_without_compiler_the_wheel_is_pure(self, checkout, monkeypatch, version):
        monkeypatch.setenv("CXX", "/nowhere/c++")
        warnings, data = [], {"force_include": {}, "pure_python": True}
        hook = self.hook(checkout, warnings)
        hook.initialize(version, data)
        hook.finalize(version, data, "some.whl")
        assert len(warnings) == 1
        assert data == {"force_include": {}, "pure_python": True}
