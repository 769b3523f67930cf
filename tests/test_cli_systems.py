"""The command line: systems, their data and their references."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Call

from bgdiff.catalogue import describe_systems


class TestSystems:
    def test_table(self, call: Call) -> None:
        outcome = call("systems")
        assert outcome.code == 0
        assert "alanine_dipeptide_vacuum" in outcome.out
        assert "double_well" in outcome.out

    def test_facts(self) -> None:
        rows = {row["name"]: row for row in describe_systems()}
        assert rows["alanine_dipeptide_vacuum"]["particles"] == "22"
        assert rows["double_well"]["particles"] == "1"
        for name, row in rows.items():
            assert row["frames"] == "missing" if name == "chignolin" else int(row["frames"]) > 1000, row
            if name == "chignolin":
                assert row["reference"] == "none", row
            else:
                assert "±" in row["reference"] or "exact" in row["reference"], row

    def test_broken_system_is_listed_with_what_is_wrong(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "system.yaml").write_text("name: mine\nkind: openmm\n")
        monkeypatch.setenv("BGDIFF_SYSTEMS", str(tmp_path))
        rows = {row["name"]: row for row in describe_systems()}
        assert "temperature" in rows["mine"]["title"]
        assert rows["double_well"]["particles"] == "1"


class TestData:
    def test_generate(self, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        recorded: list[Any] = []

        def generate(system: Any, out: Any, seed: int, processes: int, progress: Any, **options: Any) -> Path:
            recorded.append((system.name, out, seed, processes, options))
            progress(1, 2, "")
            virial = {"value": 5.951, "std_error": 0.16, "expected": 6}
            quenched = {"frames": 9, "lowest_energy": -3.0}
            checked = {"virial": virial, "means": {"energy": {"largest_z": 1.23}}, "quenched": quenched}
            Path("made.json").write_text(json.dumps({"validation": checked} if options["frames"] else {}))
            return Path("made.npz")

        monkeypatch.setattr("bgdiff.data.generate.generate_data", generate)
        monkeypatch.chdir(tmp_path)
        outcome = call("data", "generate", "double_well", "--seed", 4, "--processes", 2)
        assert outcome.code == 0
        assert outcome.out == "wrote made.npz\n"
        unasked = {"starts": (), "top": None, "temperature": None}
        options = {"method": None, "frames": None, "engine": "auto", **unasked}
        assert recorded == [("double_well", None, 4, 2, options)]
        flags = ("--method=parallel-tempering", "--frames", 9, "--engine=openmm")
        told = call("data", "generate", "double_well", *flags).out.splitlines()
        assert told == [
            "virial ⟨x·∇u⟩ = 5.951 ± 0.16; 6 in equilibrium",
            "ladders of different starts differ by 1.2 standard errors at most",
            "lowest minimum below 9 frames: -3.000000",
            "wrote made.npz",
        ]
        options = {"method": "parallel-tempering", "frames": 9, "engine": "openmm", **unasked}
        assert recorded[1] == ("double_well", None, 0, None, options)

    def test_existing_file_is_refused(self, call: Call, tmp_path: Path) -> None:
        (tmp_path / "x.npz").write_text("")
        outcome = call("data", "generate", "double_well", "--out", tmp_path / "x.npz")
        assert outcome.code == 2
        assert "exists already" in outcome.said

    def test_reference(self, call: Call, tmp_path: Path) -> None:
        outcome = call("reference", "double_well", "--out", tmp_path / "reference.json")
        assert outcome.code == 0
        log_z, value, written = outcome.out.splitlines()
        assert log_z == "log Z = 5.951223 (exact)"
        assert value == "ΔF(left → right) / kT = 2.629384 (exact)"
        assert written == f"wrote {tmp_path / 'reference.json'}"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--to", "double_well"], "double_well: there is no difference"),
            (["--to", "alanine_dipeptide_vacuum"], "double_well is not a molecule"),
            (["--to-temperature", "340"], "Invalid value for --to-temperature: needs --to OTHER"),
            (["--temperature", "340"], "double_well is in reduced units"),
            (["--length-ns", "1"], "double_well is integrated, not simulated"),
        ],
    )
    def test_references_that_make_no_sense(
        self, call: Call, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        outcome = call("reference", "double_well", "--out", tmp_path / "reference.json", *arguments)
        assert outcome.code == 2
        assert message in outcome.said
        assert not list(tmp_path.iterdir())
