"""A command line that Typer cannot read, told as we tell every mistake of a user."""

import re
from typing import Any

from typer import BadParameter

from smolplan.errors import UserError

UsageError: Any = BadParameter.__base__
"""Typer's own, or click's where Typer builds on it: neither is public under one name."""

WRONG = {
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_parsing": "is not a number",
    "greater_than_equal": "is less than {ge}",
    "less_than_equal": "is more than {le}",
}
"""By what pydantic, which Typer reads values by, calls it."""


def is_help(error: Any) -> bool:
    """Whether nothing but the help was to be shown, as for a group without a command."""
    return type(error).__name__ == "NoArgsIsHelpError"


def told(error: Any) -> UserError:
    """What is wrong, at which option or argument of which command, and what would be right."""
    from smolplan.spec.parse import suggestion

    context, kind = error.ctx, type(error).__name__
    path = "smolplan" if context is None else context.command_path
    where, see = path.removeprefix("smolplan").strip(), f"{path} --help"
    what, remedy = error.format_message(), f"See: {see}"
    if kind == "NoSuchOption":
        what = f"there is no option {error.option_name}"
        if error.option_name.startswith("--"):
            options = [o for p in context.command.params for o in (*p.opts, *p.secondary_opts)]
            remedy = suggestion(error.option_name, [o for o in options if o[:2] == "--"], see)
    elif kind == "MissingParameter":
        where, what = _name(error.param), "it is missing"
    elif kind == "BadParameter":
        where, what = _name(error.param), _of_value(error)
        if " is not one of " in what:
            value, *known = re.findall(r"'(.*?)'", what)
            what, remedy = f"{value!r} is none of its values", suggestion(value, known)
    elif kind == "BadOptionUsage":
        where, what = error.option_name, re.sub(r"^Option '\S+' ", "it ", what)
        remedy = "See the command's --help."
    elif unknown := re.match(r"No such command '(\S+)'", what):
        what = f"there is no command {unknown[1]}"
        remedy = suggestion(unknown[1], list(context.command.commands), see)
    elif extra := re.match(r"Got unexpected extra argument\S* \((.*)\)", what):
        what = f"too many arguments: {extra[1]}"
    return UserError(what, where=where, remedy=remedy)


def _name(parameter: Any) -> str:
    """As it is written: --steps, or FILE."""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name).upper()


def _of_value(error: Any) -> str:
    """With the value, which Typer leaves out of some messages."""
    if not hasattr(error.__cause__, "errors"):
        return str(error.message)
    first = error.__cause__.errors()[0]
    if wrong := WRONG.get(first["type"]):
        return f"{first['input']!r} {wrong.format(**first.get('ctx', {}))}"
    return str(first["msg"]).removeprefix("Value error, ")
