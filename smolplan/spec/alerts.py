"""Who is told when a run needs somebody."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from smolplan.spec.fields import Seconds, SpecPart, secret_given


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or any(ord(sign) <= 32 for sign in value):
        raise ValueError(f"{value!r} is not a URL; write it like https://alerts.example.org/hook")
    if parts.username or parts.password:
        raise secret_given(
            f"{parts.hostname} is given with a password, which would be copied into every run "
            f"folder; name an environment variable that holds it"
        )
    return value


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is not a name of an environment variable")
    return name


Url = Annotated[str, AfterValidator(_url)]
"""http or https, without a password."""

Variable = Annotated[str, AfterValidator(_variable)]
"""Name of an environment variable that holds a secret; the spec never does."""


class AlertsSpec(SpecPart):
    """A receiver of alerts. Secrets stay in the environment; here are the variables' names."""

    kind: Literal["webhook", "alertmanager", "slack"] = Field(
        default="webhook",
        description="webhook: a POST of Alertmanager's JSON, version 4; alertmanager: its API, "
        "version 2; slack: a text, as the incoming webhooks of Slack and Mattermost take it.",
    )
    url: Url | None = Field(default=None, description="Where to.")
    url_variable: Variable | None = Field(
        default=None,
        description="Environment variable with the URL, where the URL itself is a secret (Slack).",
    )
    token_variable: Variable | None = Field(
        default=None, description="Environment variable with a bearer token."
    )
    timeout_s: Seconds = Field(default=5.0, description="Longest wait for the receiver's answer.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.url is None) == (self.url_variable is None):
            raise ValueError("give exactly one of url and url_variable")
        return self
