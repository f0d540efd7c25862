"""Names of vars: `{{ }}` must be able to use them, and they must be distinct from all other names."""

from __future__ import annotations

import re

from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest import templates
from batchgen.manifest.diagnostics import cut
from batchgen.storage.paths import PLACEHOLDERS

_VAR = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN = frozenset({*PARAMETER_NAMES, *PLACEHOLDERS, "prompt", "id", "from", "column", "vars"})


def name_fault(name: str) -> tuple[str, str] | None:
    """What is wrong with a var's name, if anything: message and hint."""
    if name in _TAKEN:
        return f"A var cannot be called `{name}`: that name is reserved.", "Give it another name."
    if not _VAR.fullmatch(name) or templates.is_reserved(name):
        guess = re.sub(r"\W", "_", name, flags=re.ASCII)
        hint = f"Call it `{guess}`." if _VAR.fullmatch(guess) and not templates.is_reserved(guess) else ""
        return (
            f"A var cannot be called `{cut(name)}`: {{{{ }}}} cannot contain that name.",
            hint or "Use letters and _.",
        )
    return None
