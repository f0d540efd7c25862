"""What `init --provider` writes: a starter manifest for one account, with its models, its ratios and its key."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from batchgen.catalog import definitions
from batchgen.catalog.accounts import parse_account
from batchgen.catalog.load import builtin
from batchgen.errors import CommandError
from batchgen.manifest.definitions import shipped
from batchgen.manifest.diagnostics import listed, nearest

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account

_IMAGES = 20  # the budget
_RATIOS = ("1:1", "16:9")  # of the matrix, where the account makes them
_PROMPTS = """\
    - A lighthouse in a storm, oil on canvas
    - {prompt: "Logo of a fox, flat design", id: fox-logo}      # `id` names its files
    # - {from: prompts.csv, column: text}                       # or .txt .tsv .jsonl .yaml
"""


def account_of(name: str) -> Account:
    """A built-in account, or that of a shipped definition. Raises CommandError for a name that is neither."""
    if name in (known := builtin().accounts):
        return known[name]
    if (settings := shipped(name).settings if name in definitions.names() else None) is not None:
        return parse_account(name, settings)
    names = (*known, *definitions.names())
    guess = nearest(name, names)
    hint = f"Did you mean {guess}? " if guess else ""
    raise CommandError(f"There is no account {name!r}. {hint}There are {listed(names, 40)}.")


def starter(account: Account, *, file: str, name: str, prompts: str = "") -> str:
    """The manifest as text; `file` as a shell takes it, `name` as YAML does, `prompts` an entry in place of our own."""
    entry = f"    - {{{prompts}}}\n" if prompts else _PROMPTS
    head = f"{_head(account, file)}\nversion: 1\nname: {name}\nprovider: {account.name}\n"
    return f"{head}{_defaults(account)}matrix:\n  prompt:\n{entry}{_axes(account)}{_end(account)}"


def _head(account: Account, file: str) -> str:
    steps = [
        ("Check it", f"batchgen validate {file}   then   batchgen plan {file}"),
        ("Rehearse it, without cost", f"batchgen run {file} --provider sandbox"),
        (_before(account), f"batchgen doctor {file}   and   batchgen run {file}"),
    ]
    lines = "".join(f"# {what}:   {command}\n" for what, command in steps)
    return f"# A manifest of batchgen for {account.name}: {account.about}.\n{lines}"


def _before(account: Account) -> str:
    """What has to be there before a run."""
    if keys := account.key_variables:
        return f"With {' and '.join(keys)} in the environment"
    command = shlex.join(account.definition.get("auth", {}).get("command", ()))
    return f"Once `{command}` prints a key" if command else "With your server running"


def _defaults(account: Account) -> str:
    others = [model for model in account.models if model != _model(account)]
    lines = [
        ("model: " + _text(_model(account)), f"or {', '.join(others[:4])}" if others else "the only one that is known")
    ]
    if "n" in account.fields and account.max_n != 1:
        lines.append(("n: 1", f"images of a task{f', 1 to {account.max_n}' if account.max_n else ''}"))
    if resolutions := list(account.sizes) or list(account.resolutions):
        wanted = account.defaults.get("resolution", resolutions[0])
        lines.append(
            (f"resolution: {wanted}", f"of {', '.join(resolutions)}" if len(resolutions) > 1 else "the only one")
        )
    if "negative_prompt" in account.fields:
        lines.append(("# negative_prompt: blurred, low quality", ""))
    return (
        "\ndefaults:                        # of every job; each can be an axis of `matrix` too\n"
        + _commented(lines)
        + "\n"
    )


def _axes(account: Account) -> str:
    known = list(dict.fromkeys(ratio for table in account.sizes.values() for ratio in table)) or list(
        account.aspect_ratios
    )
    wanted = [ratio for ratio in _RATIOS if ratio in known] or known[:2]
    return _commented([(f"aspect_ratio: [{', '.join(wanted)}]", f"it makes {', '.join(known)}")])


def _end(account: Account) -> str:
    unit = account.prices.unit
    budget = "\n" + _commented([(f"budget: {{max_images: {_IMAGES}}}", "a run stops rather than make more")], indent="")
    if unit:
        budget += (
            f"# budget: {{max_cost: 1}}          # or so much money, in {unit}; prices as of {account.prices.as_of}\n"
        )
    changes = f"{account.name}: {{base_url: {_text(account.base_url)}, limits: {{concurrency: {account.concurrency}}}}}"
    return f"{budget}\n# providers:                     # what is different for you, as in\n#   {changes}\n"


def _model(account: Account) -> str:
    return account.defaults.get("model") or account.models[-1]  # the newest


def _commented(lines: list[tuple[str, str]], indent: str = "  ") -> str:
    """Lines with their comments in one column."""
    return "".join(
        f"{indent}{text:<{31 - len(indent)}}  # {why}\n" if why else f"{indent}{text}\n" for text, why in lines
    )


def _text(value: str) -> str:
    """A text as YAML reads it back."""
    return json.dumps(value) if ": " in value or value[-1] == ":" or not value[0].isalnum() else value
