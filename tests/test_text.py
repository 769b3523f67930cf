"""Numbers as people read them."""

import math

import pytest

from bgdiff.analysis.text import (
    count,
    fraction,
    percent,
    seconds,
    symbol,
    two_decimals,
    unbroken,
    with_error,
)


@pytest.mark.parametrize(
    ("value", "std_error", "text"),
    [
        (4.67234, 0.0312, "4.672 ± 0.031"),
        (4.67234, 0.0996, "4.67 ± 0.10"),
        (1234.5, 99.7, "1234 ± 100"),
        (-2.1, 1.04, "\u22122.1 ± 1.0"),
        (2.629382, 0.0, "2.629382 (exact)"),
        (-0.52, math.inf, "\u22120.52 (error not known)"),
        (-0.52, None, "\u22120.52 (error not known)"),
        (None, 1.0, "not known"),
    ],
)
def test_with_error(value: float | None, std_error: float | None, text: str) -> None:
    assert with_error(value, std_error) == text


def test_numbers_in_words() -> None:
    assert with_error(4.67234, 0.0312, "kT") == "4.672 ± 0.031 kT"
    assert [fraction(v) for v in (0.614, 0.0273, 0.000123, 8.94e-8, 3e-12, 0.0, None)] == [
        "0.61", "0.027", "0.00012", "8.9·10⁻⁸", "3.0·10⁻¹²", "0", "–",
    ]  # fmt: skip
    assert [percent(v) for v in (1.0, 0.0995, 0.0087, 0.00012, -0.02, 0.0, None)] == [
        "100.0 %", "10.0 %", "0.87 %", "0.012 %", "-2.0 %", "0 %", "–",
    ]  # fmt: skip
    assert [seconds(v) for v in (8.11, 59.97, 362, 3900)] == [
        "8.1 s",
        "1 min 00 s",
        "6 min 02 s",
        "1 h 05 min",
    ]
    assert [two_decimals(v) for v in (-0.001, 2.5, None)] == ["0.00", "2.50", "–"]
    assert two_decimals(2.5, sign=True) == "+2.50"
    assert count(20_000) == "20\u202f000"


@pytest.mark.parametrize(
    ("name", "written"),
    [("phi", "φ"), ("phi_2", "φ₂"), ("psi_10", "ψ₁₀"), ("long_pairs", "long pairs"), ("shell_2", "shell 2")],
)
def test_symbols_of_observables(name: str, written: str) -> None:
    assert symbol(name) == written


def test_temperatures_are_not_broken_from_their_unit() -> None:
    assert unbroken("in water, 300 K") == "in water, 300\u00a0K"
    assert unbroken("280 K or 340.5 K, 2 Kelvin, 1 kT") == "280\u00a0K or 340.5\u00a0K, 2 Kelvin, 1 kT"
