"""The GPU-hours around a main run: ablations, evaluation, post-training, RL; and what they cost,
draw, emit, store and serve."""

from planner.budget.load import load_budget, load_budget_preset, parse_budget
from planner.budget.spec import BudgetSpec
from planner.budget.total import Budget, make_budget

__all__ = [
    "Budget",
    "BudgetSpec",
    "load_budget",
    "load_budget_preset",
    "make_budget",
    "parse_budget",
]
