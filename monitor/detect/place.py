"""Where in training something was, in words."""


def place(unit: str, at: float) -> str:
    """`unit`: step or tokens."""
    if unit == "tokens":
        return f"{at / 1e9:.4g}B tokens"
    return f"{unit} {at:,.0f}"
