"""Which texts are valid as a prompt, and which as the name of one."""

from __future__ import annotations

from batchgen.catalog.load import builtin
from batchgen.manifest import templates
from batchgen.source import encoding

LONGEST_ID = 80  # characters


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


def name_fault(name: str, column: str | None) -> tuple[str, str] | None:
    """What is wrong with a name from a column, if anything: message and hint."""
    if not name.strip():
        return f"The column `{column}` is empty here.", "Every row needs a name there."
    if len(name) > LONGEST_ID:
        return f"The name is {len(name)} characters long.", f"It may have at most {LONGEST_ID}."
    if encoding.CONTROL.search(name) or "\n" in name:
        return "The name holds a control character or a line break.", "Remove it."
    return None
