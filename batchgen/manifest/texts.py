"""Which texts are valid as a prompt, as the name of one, and as the name of a var."""

from __future__ import annotations

import re

from batchgen import templates
from batchgen.catalog.load import builtin
from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest.diagnostics import cut
from batchgen.source import encoding
from batchgen.storage.paths import PLACEHOLDERS

LONGEST_ID = 80  # characters
_VAR = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN = frozenset({*PARAMETER_NAMES, *PLACEHOLDERS, "prompt", "id", "from", "column", "vars", "labels", "parameters"})
_LABEL = re.compile(r"\w[^{}!:=<>]*")
_NO_LABEL = frozenset({*PARAMETER_NAMES, *PLACEHOLDERS, "prompt", "block", "zip", "vars"})


def fault_of(text: str, *, rendered: bool = False) -> tuple[str, str] | None:
    """What is wrong with a prompt's text, if anything: message and hint."""
    if bad := encoding.CONTROL.search(text):
        return encoding.character_fault(bad.group())
    if not text or text.isspace():
        return ("The rendered prompt is empty." if rendered else "The prompt is empty."), "Write what to show."
    most = builtin().limits.prompt_characters
    if len(text) > most and (rendered or not templates.is_template(text)):
        what = "The rendered prompt" if rendered else "The prompt"
        return f"{what} is {len(text):,} characters long.", f"It may have at most {most:,}; shorten it."
    return None


def name_fault(name: str) -> tuple[str, str] | None:
    """What is wrong with the name of a prompt, an entry or a block, if anything: message and hint."""
    if name.strip() and len(name) <= LONGEST_ID and not encoding.CONTROL.search(name) and "\n" not in name:
        return None
    return f'"{cut(name)}" cannot name anything.', f"A name has 1 to {LONGEST_ID} characters, in one line."


def var_fault(name: str) -> tuple[str, str] | None:
    """What is wrong with a var's name, if anything: `{{ }}` must be able to use it, and nothing else may have it."""
    if name in _TAKEN:
        return f"A var cannot be called `{name}`: that name is reserved.", "Give it another name."
    if not _VAR.fullmatch(name) or templates.is_reserved(name):
        guess = re.sub(r"\W", "_", name, flags=re.ASCII)
        is_usable = _VAR.fullmatch(guess) and not templates.is_reserved(guess)
        message = f"A var cannot be called `{cut(name)}`: {{{{ }}}} cannot contain that name."
        return message, f"Call it `{guess}`." if is_usable else "Use letters and _."
    return None


def label_fault(name: str) -> tuple[str, str] | None:
    """What is wrong with a label's name, if anything: paths, `--only` and the index must be able to hold it."""
    if name in _NO_LABEL:
        return f"A label cannot be called `{name}`: every job has something of that name.", "Give it another name."
    if _LABEL.fullmatch(name) and len(name) <= LONGEST_ID and name.isprintable() and name == name.strip():
        return None
    hint = f"Begin with a letter or a digit, use none of {{ }} ! : = < >, and at most {LONGEST_ID} characters."
    return f"A label cannot be called `{cut(name)}`.", hint
