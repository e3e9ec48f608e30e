"""A budget from a YAML file or a bundled preset."""

from importlib import resources
from pathlib import Path

from planner.budget.spec import BudgetSpec
from smolplan.errors import UserError
from smolplan.spec.parse import parse_as, suggestion

EXAMPLE = "See an example by: smolplan budget --preset smollm3-3b"


def budget_presets() -> list[str]:
    """Names of the bundled budgets, sorted."""
    folder = resources.files("planner.budget") / "presets"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def load_budget_preset(name: str) -> BudgetSpec:
    """The bundled budget of that name. Raises UserError with near names."""
    if name not in budget_presets():
        raise UserError(
            f"there is no bundled budget {name!r}",
            where="--preset",
            remedy=suggestion(name, budget_presets()),
        )
    file = resources.files("planner.budget") / "presets" / f"{name}.yaml"
    return parse_budget(file.read_text("utf-8"), where=f"preset {name}")


def load_budget(path: Path) -> BudgetSpec:
    """The budget in a file. Raises UserError for one that cannot be read, and for what is wrong."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"cannot read the budget: {reason}", where=str(path)[:200], remedy=EXAMPLE
        ) from None
    return parse_budget(text, where=str(path))


def parse_budget(text: str, *, where: str) -> BudgetSpec:
    """YAML → BudgetSpec. `where` names its origin in errors. Raises UserError."""
    return parse_as(BudgetSpec, text, where=where, example=EXAMPLE)
