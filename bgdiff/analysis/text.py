"""Numbers as people read them: errors to two digits, thin spaces in large counts, units always."""

import math
import re

__all__ = [
    "MOLAR_GAS_CONSTANT",
    "count",
    "fraction",
    "kt_in_kj_per_mol",
    "one_decimal",
    "percent",
    "plus_minus",
    "seconds",
    "symbol",
    "two_decimals",
    "unbroken",
    "with_error",
]

MOLAR_GAS_CONSTANT = 8.31446261815324e-3
"""kJ/(mol K), exact in the SI since 2019."""

_SYMBOLS = {"phi": "φ", "psi": "ψ", "omega": "ω", "theta": "θ", "chi": "χ", "chi1": "χ₁", "chi2": "χ₂"}
_SYMBOLS |= {"q4": "Q₄", "q6": "Q₆", "Q4": "Q₄", "Q6": "Q₆"}
_THIN = "\u202f"  # narrow no-break space
_LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def with_error(value: float | None, std_error: float | None, unit: str = "") -> str:
    """``4.672 ± 0.031 kT``: the error to two significant digits, the value to the same decimal."""
    unit = f" {unit}" if unit else ""
    if value is None or not math.isfinite(value):
        return "not known"
    if std_error is None or not math.isfinite(std_error):
        return f"{_minus(f'{value:.3g}')}{unit} (error not known)"
    if std_error == 0:
        return f"{_minus(f'{value:.6f}')}{unit} (exact)"
    decimals = min(max(1 - math.floor(math.log10(std_error)), 0), 12)
    if round(std_error, decimals) >= 10 ** (2 - decimals):  # 0.0996 rounds to 0.10
        decimals = max(decimals - 1, 0)
    return f"{_minus(f'{value:.{decimals}f}')} ± {std_error:.{decimals}f}{unit}"


def plus_minus(value: float, spread: float) -> str:
    """``0.281 ± 0.079``: a spread to two significant digits; the value alone if there is none."""
    return with_error(value, spread) if spread > 0 and math.isfinite(spread) else _minus(f"{value:.3g}")


def fraction(value: float | None) -> str:
    """``0.61``, ``0.027``, ``0.00012``, ``8.9·10⁻⁸``: more decimals the smaller it is; a dash if unknown."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if value < 1e-5:
        mantissa, exponent = f"{value:.1e}".split("e-")
        return f"{mantissa}·10⁻{exponent.lstrip('0').translate(_RAISED)}"
    if value < 5e-4:
        return f"{value:.{1 - math.floor(math.log10(value))}f}"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def percent(value: float | None) -> str:
    """``0.87 %``: two significant digits below 10 %, one decimal above; a dash if not known."""
    if value is None:
        return "–"
    share = 100 * value
    if share == 0:
        return "0 %"
    if abs(share) >= 9.95:
        return f"{share:.1f} %"
    decimals = max(1 - math.floor(math.log10(abs(share))), 0)
    return f"{share:.{decimals}f} %"


def symbol(observable: str) -> str:
    """An observable's name as it is written on an axis: φ for phi, φ₂ for phi_2, ``long pairs`` for
    long_pairs.
    """
    name, _, number = observable.rpartition("_")
    if number.isdecimal() and name in _SYMBOLS:
        return _SYMBOLS[name] + number.translate(_LOWERED)
    return _SYMBOLS.get(observable, observable.replace("_", " "))


def two_decimals(value: float | None, sign: bool = False) -> str:
    """``−0.52``, with the sign spelled out if asked; a dash if not known."""
    return "–" if value is None else _minus(f"{round(value, 2) + 0.0:{'+' if sign else ''}.2f}")


def one_decimal(value: float) -> str:
    """``−62.3``."""
    return _minus(f"{round(value, 1) + 0.0:.1f}")


def count(value: float) -> str:
    """``20 000``: thousands apart by a narrow no-break space."""
    return f"{round(value):,}".replace(",", _THIN)


def seconds(value: float) -> str:
    """``8.1 s``, ``6 min 02 s`` or ``1 h 05 min``."""
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def kt_in_kj_per_mol(temperature: float) -> float:
    """RT in kJ/mol at ``temperature`` in K."""
    return MOLAR_GAS_CONSTANT * temperature


def unbroken(text: str) -> str:
    """``300 K`` with a no-break space: the unit of a temperature stays on the line of its number."""
    return re.sub(r"(?<=\d) K\b", "\u00a0K", text)


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")
