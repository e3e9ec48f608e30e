"""Who is told when a run needs somebody."""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    model_validator,
)

from smolplan.spec.fields import ADDED_LATER, Seconds, SpecPart, secret_given


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


def _address(value: str) -> str:
    if not re.fullmatch(r"[^\s@<>,;]+@[^\s@<>,;]+", value):
        raise ValueError(f"{value!r} is not an address; write it like oncall@example.org")
    return value


Url = Annotated[str, AfterValidator(_url)]
"""http or https, without a password."""

Variable = Annotated[str, AfterValidator(_variable)]
"""Name of an environment variable that holds a secret; the spec never does."""


Address = Annotated[str, AfterValidator(_address)]

Severity = Literal["info", "warning", "critical"]

SMTP_PORTS = {"starttls": 587, "tls": 465, "none": 25}
"""RFC 6409, RFC 8314 and RFC 5321."""


class AlertsSpec(SpecPart):
    """A receiver of alerts. Secrets stay in the environment; here are the variables' names."""

    kind: Literal["webhook", "alertmanager", "slack", "email"] = Field(
        default="webhook",
        description="webhook: a POST of Alertmanager's JSON, version 4; alertmanager: its API, "
        "version 2; slack: a text, as the incoming webhooks of Slack and Mattermost take it; "
        "email: by SMTP.",
    )
    severity: Annotated[Severity, ADDED_LATER] = Field(
        default="info", description="What is less than this is not told here."
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
    smtp_host: Annotated[str | None, ADDED_LATER] = Field(
        default=None, description="email: the server that takes it."
    )
    smtp_port: Annotated[int | None, ADDED_LATER] = Field(
        default=None, ge=1, le=65535, description="587, 465 or 25 by smtp_security, unless given."
    )
    smtp_security: Annotated[Literal["starttls", "tls", "none"], ADDED_LATER] = Field(
        default="starttls", description="How the connection to it is kept secret."
    )
    smtp_user: Annotated[str | None, ADDED_LATER] = Field(
        default=None, description="Who logs in there; nobody unless given."
    )
    password_variable: Annotated[Variable | None, ADDED_LATER] = Field(
        default=None, description="Environment variable with the password of smtp_user."
    )
    sender: Annotated[Address | None, ADDED_LATER] = Field(
        default=None, description="email: the address that it comes from."
    )
    to: Annotated[tuple[Address, ...], ADDED_LATER] = Field(
        default=(), description="email: addresses."
    )

    @property
    def name(self) -> str:
        """Says which receiver it is, without a secret: its kind, and where it is known to be."""
        place = self.smtp_host if self.kind == "email" else urlsplit(self.url or "").netloc
        return f"{self.kind} {place or self.url_variable}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that are needed, by the field that names them."""
        names = ("url_variable", "token_variable", "password_variable")
        return {name: value for name in names if (value := getattr(self, name))}

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        over_http = {"url", "url_variable", "token_variable"}
        over_smtp = {"smtp_host", "smtp_port", "smtp_security", "smtp_user", "password_variable"}
        over_smtp |= {"sender", "to"}
        foreign = self.model_fields_set & (over_http if self.kind == "email" else over_smtp)
        if foreign := {name for name in foreign if getattr(self, name) is not None}:
            raise ValueError(f"a receiver of kind {self.kind} has no {', '.join(sorted(foreign))}")
        if self.kind == "email":
            missing = [name for name in ("smtp_host", "sender", "to") if not getattr(self, name)]
            if missing:
                raise ValueError(f"kind email needs {', '.join(missing)} too")
            if (self.smtp_user is None) != (self.password_variable is None):
                raise ValueError("give smtp_user and password_variable together")
            if self.smtp_user and self.smtp_security == "none":
                raise ValueError(
                    "smtp_security none would send the password for all to read; use starttls or "
                    "tls"
                )
        elif (self.url is None) == (self.url_variable is None):
            raise ValueError("give exactly one of url and url_variable")
        return self


def _listed(value: Any) -> Any:
    """One receiver stands by itself as well, as in specs from when there was but one."""
    if value is None:
        return ()
    return (value,) if isinstance(value, dict | AlertsSpec) else value


def _as_before(value: tuple[AlertsSpec, ...], handler: SerializerFunctionWrapHandler) -> Any:
    """One receiver is written as it was when there was but one: its spec keeps its hash."""
    written = handler(value)
    return written[0] if len(written) == 1 else written


def _one_or_many(schema: dict[str, Any]) -> None:
    """For editors, what `_listed` takes."""
    several = {"type": schema.pop("type"), "items": schema.pop("items")}
    schema["anyOf"] = [several["items"], several]


Receivers = Annotated[
    tuple[AlertsSpec, ...],
    BeforeValidator(_listed),
    WrapSerializer(_as_before),
    Field(json_schema_extra=_one_or_many),
]
"""Who is told: one receiver, or a list of them."""
