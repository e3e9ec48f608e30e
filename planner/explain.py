"""Numbers that explain themselves."""

from dataclasses import dataclass


def scientific(value: float, digits: int = 3) -> str:
    """1.98e+23 → "1.98e23", as the field writes it; small numbers in full."""
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


@dataclass(frozen=True)
class Line:
    """One line of arithmetic: what it is, how it comes about, and where that stands."""

    name: str
    value: float
    unit: str
    formula: str
    source: str = ""

    @property
    def text(self) -> str:
        """Value and unit as people read them: 384, 378.913, 1.98e23 FLOP."""
        if self.value == 0 or 1e-3 <= abs(self.value) < 1e13:
            digits = 0 if self.value == int(self.value) else 3
            shown = f"{self.value:,.{digits}f}"
        else:
            shown = scientific(self.value, 4)
        return f"{shown} {self.unit}".rstrip()
