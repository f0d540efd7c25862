"""What a var may be called: `{{ }}` must be able to name it, and nothing else may be called so."""

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
        return f"A var cannot be called `{name}`, which has a meaning of its own.", "Give it another name."
    if not _VAR.fullmatch(name) or templates.is_reserved(name):
        guess = re.sub(r"\W", "_", name, flags=re.ASCII)
        hint = f"Call it `{guess}`." if _VAR.fullmatch(guess) and not templates.is_reserved(guess) else ""
        return f"A var cannot be called `{cut(name)}`: {{{{ }}}} could not name it.", hint or "Use letters and _."
    return None
