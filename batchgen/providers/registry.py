"""Finds the provider of an account by its entry point, and its keys in the environment."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchgen.errors import CommandError
from batchgen.http.proxies import proxy_of
from batchgen.providers import credentials
from batchgen.providers.base import Provider, Secrets
from batchgen.providers.validated import ValidatedProvider

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account
    from batchgen.http.client import HttpClient

GROUP = "batchgen.providers"
_FINDS = ("mark", "create", "find", "list")  # of a definition
_ANY_IMAGE = "https://images.invalid/"  # a gateway behind a proxy may have its images on any host


def provider_for(account: Account, client: HttpClient, *, callback_url: str = "") -> ValidatedProvider:
    """The provider of this account's protocol; `callback_url` goes with its creates.

    Raises CommandError, with the variable's or the package's name, before anything is sent.
    """
    kind = provider_class(account)
    keys = secrets_of(account)
    if callback_url:  # whoever knows it can call us, so it is redacted in answers that repeat it
        keys = Secrets({**keys.values, "callback_url": urlsplit(callback_url).path.rpartition("/")[2]})
    try:
        provider = kind(account, client, keys)
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"The provider {account.protocol!r} cannot be used: {_defect(error)}") from error
    provider.callback_url = callback_url
    return ValidatedProvider(provider)


def check(account: Account) -> None:
    """Raise CommandError where the account cannot be used: its package, key or proxy is missing or wrong."""
    provider_class(account)
    secrets_of(account)
    credentials.check(account)
    if account.base_url and proxy_of(account.base_url):
        proxy_of(_ANY_IMAGE)


def secrets_of(account: Account) -> Secrets:
    """The account's keys from the environment. Raises CommandError naming every variable that is missing."""
    missing = [name for name in dict.fromkeys(account.secret_variables) if not os.environ.get(name, "").strip()]
    if missing:
        names = " and ".join(missing)
        raise CommandError(
            f"The account {account.name!r} needs its key in the environment: set {names}"
            f" (for instance: export {missing[0]}=…). To rehearse without a key, add --provider sandbox."
        )
    keys = {name: os.environ[name].strip() for name in account.secret_variables}
    for name, value in keys.items():
        if not value.isprintable():
            raise CommandError(f"The key in {name} holds a line break or another control character: set {name} again.")
    return Secrets(keys)


def key_print(account: Account, salt: str) -> str:
    """A fingerprint of the account's key: the same for the same key and salt; the key cannot be read from it.

    Of a declared account it is also that of what finds its tasks: with another mark, or of other models, a list says
    nothing of what was sent before. Raises CommandError as `secrets_of`.
    """
    key = "\0".join(value for _, value in sorted(secrets_of(account).values.items()))
    if finds := {name: account.definition[name] for name in _FINDS if name in account.definition}:
        key = "\0".join([key, *account.models, json.dumps(finds, sort_keys=True)])
    return hashlib.blake2b(key.encode(), digest_size=8, key=salt.encode()[:64]).hexdigest()


def provider_class(account: Account) -> type[Provider]:
    """The class of the account's `protocol`. Raises CommandError where no installed package has it."""
    for entry in _entries(account.protocol):
        try:
            kind = entry.load()
        except Exception as error:
            raise CommandError(
                f"The provider {account.protocol!r} ({entry.value}) cannot be loaded: {_defect(error)}"
            ) from error
        if not (isinstance(kind, type) and issubclass(kind, Provider)):
            raise CommandError(f"The provider {account.protocol!r} ({entry.value}) is not a batchgen Provider.")
        return kind
    known = ", ".join(sorted(entry_points(group=GROUP).names))
    raise CommandError(
        f"The account {account.name!r} uses the protocol {account.protocol!r}, which no installed package provides."
        f" Known protocols: {known}."
    )


@cache
def _entries(protocol: str) -> tuple[EntryPoint, ...]:
    """To look through all installed packages takes 3 ms, and a run asks several times."""
    return tuple(entry_points(group=GROUP, name=protocol))


def _defect(error: Exception) -> str:
    """The error of a package, without its message: a constructor may have put our keys into it."""
    words = f": {error}" if isinstance(error, ImportError) else ""
    return f"it raised {type(error).__name__}{words}. Update or fix the package that provides it."
