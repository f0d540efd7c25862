"""Prompts that look the same and differ in their bytes: in Unicode's composed and decomposed forms."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from batchgen.checks.templates import MOST_OF_A_KIND, place_of
from batchgen.manifest.diagnostics import cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import Block, Prompts


def check_forms(block: Block, diagnostics: Diagnostics) -> None:
    """Warn of prompts that are equal in the form NFC: each is sent as it is written, and each is paid for."""
    decomposed: dict[str, tuple[Prompts, int]] = {}
    for group, number, text in _texts(block):
        if not unicodedata.is_normalized("NFC", text):
            decomposed.setdefault(unicodedata.normalize("NFC", text), (group, number))
    warned = 0
    for group, number, text in _texts(block) if decomposed else ():
        other, first = decomposed.get(unicodedata.normalize("NFC", text), (group, number))
        if other.texts[first] != text and warned < MOST_OF_A_KIND:
            warned += 1
            message = f'The prompt "{cut(text, 40)}" is there twice: in two Unicode forms, which look the same.'
            also = place_of(other, first) or other.path_of(first)
            hint = "Both are made and paid for; remove one."
            path, place = group.path_of(number), place_of(group, number)
            diagnostics.add(path, message, hint, place=place, also=[also], warning=True)


def _texts(block: Block) -> Iterator[tuple[Prompts, int, str]]:
    """The prompts that may have two forms."""
    for group in block.prompts:
        for number, text in enumerate(group.texts if not group.columns else ()):
            if not text.isascii():
                yield group, number, text
