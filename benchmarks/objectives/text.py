"""Numbers of several seeds, and tables of them for the console and for the documentation."""

import math
from dataclasses import dataclass, field

from rich.table import Table

__all__ = ["TextTable", "over_seeds"]


@dataclass
class TextTable:
    """A table of words."""

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def rich(self) -> Table:
        """For the console."""
        table = Table(*self.header, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page of documentation."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def over_seeds(values: list[float]) -> str:
    """Mean ± standard deviation over seeds; the value alone if there is one.

    The standard deviation has two digits, a single value three.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "not finite" if values else ""
    mean = sum(finite) / len(finite)
    if len(finite) > 1:
        std = math.sqrt(sum((value - mean) ** 2 for value in finite) / (len(finite) - 1))
        decimals = _decimals(std, 2) if std else _decimals(mean, 3)
        text = f"{mean:.{decimals}f} ± {std:.{decimals}f}"
    else:
        text = f"{mean:.{_decimals(mean, 3)}f}"
    lost = len(values) - len(finite)
    return text + (f" ({lost} not finite)" if lost else "")


def _decimals(value: float, digits: int) -> int:
    """Decimals that show so many digits of a number, six at most."""
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value))))) if value else digits
