"""What to do about the doctor's findings, and what may be shown of them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchgen.catalog.load import builtin
from batchgen.errors import BatchgenError, NameNotFound, NotSent, ProxyFailed, TlsFailed

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account


def problem_of_key(value: str) -> str:
    """Why a value of the environment is no key, such as a slip of pasting. Empty where it may be one."""
    if value[:1] in {'"', "'"} or value[-1:] in {'"', "'"}:
        return "is in quotation marks"
    if value.lower().startswith("bearer "):
        return "begins with the word Bearer, which batchgen adds by itself"
    return "contains a space" if " " in value else ""


def advice_on_host(error: BatchgenError, scheme: str) -> str:
    """What to do where a host does not answer."""
    if isinstance(error, NameNotFound):
        return "Check the name in base_url, and this machine's network."
    if isinstance(error, TlsFailed):
        return "If it has no TLS, write http:// in base_url; if its certificate is a company's own, set SSL_CERT_FILE."
    if isinstance(error, ProxyFailed):
        return "Check the proxy's variable, or name the host in no_proxy."
    if isinstance(error, NotSent):
        return "Check host and port of base_url, and whether a firewall or a proxy blocks the way."
    other = "https" if scheme == "http" else "http"
    return f"Check base_url (does the port speak {other}?), and whether a firewall or a proxy blocks the way."


def advice_on_path(account: Account) -> str:
    """What to do where the API is not at the account's address."""
    known = [
        each.base_url for each in builtin().accounts.values() if each.protocol == account.protocol and each.base_url
    ]
    there = f"; built-in accounts of its protocol have {' and '.join(known)}" if known else ""
    return f"Check base_url{there}."


def without_password(url: str) -> str:
    """The address as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
