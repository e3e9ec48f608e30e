"""Names, labels and quantities as Kubernetes takes them; what it would refuse is said beforehand,
with the field of the spec."""

import hashlib
import re

from smolplan.errors import UserError

LONGEST_LABEL = 63
"""Characters of a DNS label (RFC 1123), and of a label's value."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(\.{_DNS_LABEL.pattern})*")
_LABEL_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
# apimachinery's resource.Quantity, as its CRD schemas have it.
_QUANTITY = re.compile(
    r"(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?"
)


def dns_label(text: str, longest: int = LONGEST_LABEL) -> str:
    """A DNS label that begins with a letter (RFC 1035, as a Service's name must), out of any text.
    Where something had to be left out, a hash of the text keeps two of them apart."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if name == text and name[:1].isalpha() and len(name) <= longest:
        return name
    mark = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    name = name if name[:1].isalpha() else f"run-{name}"
    return f"{name[: longest - len(mark) - 1].strip('-')}-{mark}"


def label_value(text: str) -> str:
    """As `text` where a label can hold it, and else a name made from it."""
    return text if is_label_value(text) else dns_label(text)


def is_label_value(text: str) -> bool:
    return text == "" or (len(text) <= LONGEST_LABEL and bool(_LABEL_PART.fullmatch(text)))


def is_label_key(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    fits = len(name) <= LONGEST_LABEL and bool(_LABEL_PART.fullmatch(name))
    return fits and (not slash or (len(prefix) <= 253 and bool(_DNS_SUBDOMAIN.fullmatch(prefix))))


def is_dns_subdomain(text: str) -> bool:
    return len(text) <= 253 and bool(_DNS_SUBDOMAIN.fullmatch(text))


def is_dns_label(text: str) -> bool:
    return len(text) <= LONGEST_LABEL and bool(_DNS_LABEL.fullmatch(text))


def is_quantity(text: str) -> bool:
    return bool(_QUANTITY.fullmatch(text)) and not text.startswith("-")


def require(fits: bool, field: str, value: str, remedy: str) -> None:
    """Raises UserError for a value that Kubernetes would refuse."""
    if not fits:
        raise UserError(
            f"{value!r} is nothing that Kubernetes takes",
            where=f"launch.kubernetes.{field}",
            remedy=remedy,
        )


def literal(text: str) -> str:
    """So that the kubelet hands it on as it is: in arguments and in values of the environment,
    $(NAME) stands for a variable, and $$ for a dollar."""
    return text.replace("$", "$$")
