"""Numbers of several seeds as text."""

import math

__all__ = ["over_seeds"]


def over_seeds(values: list[float]) -> str:
    """Mean ± standard deviation with three decimals or digits; the value alone if there is one."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "not finite"
    mean = sum(finite) / len(finite)
    decimals = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 3
    decimals = min(decimals, 3) if abs(mean) >= 0.01 else min(decimals, 6)
    text = f"{mean:.{decimals}f}"
    if len(finite) > 1:
        std = math.sqrt(sum((value - mean) ** 2 for value in finite) / (len(finite) - 1))
        text += f" ± {std:.{decimals}f}"
    return text + (f" ({len(values) - len(finite)} not finite)" if len(finite) < len(values) else "")
