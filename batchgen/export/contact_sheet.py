"""A contact sheet: pages of small images with captions, as PDF, or drawn from it as PNG.

Text in a PDF stays text, in every script for which a font is installed, from right to left where it is written so.
"""

from __future__ import annotations

import io
import re
import unicodedata
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fontTools.ttLib import TTCollection, TTFont, TTLibError
from fpdf import FPDF
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from batchgen.errors import CommandError
from batchgen.export.target import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchgen.export.selection import Item

_SOFTWARE = "batchgen contact sheet"
MAX_IMAGES = 5_000  # a sheet is made in memory, and nobody looks at more
_MARGIN, _GAP, _CAPTION_GAP = 10.0, 4.0, 1.2  # mm
_TEXT, _SMALL = 7.0, 5.6  # points
_LINE, _SMALL_LINE = 3.0, 2.5  # mm
_PROMPT_LINES = 3
_HIGHEST = 1.4  # of an image, in widths of its column
_DPI = 150
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_FONT_FOLDERS = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
)
_FONTS = (  # the first that is there draws what it can, the others what is left
    *("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-zenhei.ttc", "wqy-microhei.ttc"),
    *("DroidSansFallbackFull.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "NotoEmoji-Regular.ttf", "unifont.otf"),
)


class _Line(NamedTuple):
    """A line of a caption; its size in points, its height in mm."""

    text: str
    size: float
    height: float
    align: str


class ContactSheet:
    """Collects images, and writes them as pages. `warnings` says after `save` what could not be drawn."""

    def __init__(self, title: str, total: int, *, columns: int, fonts: Sequence[Path]) -> None:
        """`fonts` are files to try first. Raises CommandError for more images than a sheet can have."""
        if total > MAX_IMAGES:
            raise CommandError(
                f"{total} images are too many for a contact sheet (at most {MAX_IMAGES}). Choose some with --where."
            )
        self.warnings: list[str] = []
        self._title, self._columns, self._given = title, columns, fonts
        self._cells: list[tuple[Item, bytes]] = []

    def add(self, item: Item, data: bytes) -> None:
        self._cells.append((item, data))

    def close(self) -> None:
        self._cells.clear()

    def save(self, path: Path) -> list[Path]:
        """Write the file, or the first page as PNG and others beside it as `NAME-2.png`; returns all of them."""
        body = self._draw()
        if path.suffix.lower() == ".pdf":
            with replaced(path) as new:
                new.write_bytes(body)
            return [path]
        import pypdfium2  # noqa: PLC0415 - for PNG alone

        document = pypdfium2.PdfDocument(body)
        paths = [path, *(path.with_name(f"{path.stem}-{page}{path.suffix}") for page in range(2, len(document) + 1))]
        ours = PngInfo()
        ours.add_text("Software", _SOFTWARE)
        for page, target in zip(document, paths, strict=True):
            with replaced(target) as new:
                page.render(scale=_DPI / 72).to_pil().save(new, "PNG", optimize=True, pnginfo=ours)
        of_a_page = re.compile(rf"{re.escape(path.stem)}-[0-9]+{re.escape(path.suffix)}")
        for left in set(path.parent.iterdir()) - set(paths):  # pages of a longer sheet before
            if of_a_page.fullmatch(left.name) and _is_page(left):
                left.unlink()
        return paths

    # --- pages --------------------------------------------------------------------------------------------

    def _draw(self) -> bytes:
        pdf = FPDF(format="A4")
        pdf.set_title(self._title)
        pdf.set_creator("batchgen")
        pdf.set_creation_date(_latest(self._cells))  # the same images give the same bytes
        pdf.set_margin(_MARGIN)
        pdf.set_auto_page_break(False)
        pdf.c_margin = 0
        captions = [_caption(item) for item, _ in self._cells]
        missing = self._set_fonts(pdf, set("".join(map("".join, captions))) | set(self._title))
        width = (pdf.epw - _GAP * (self._columns - 1)) / self._columns
        top = first = self._new_page(pdf, missing)
        for at in range(0, len(self._cells), self._columns):
            row = []
            for (_, data), caption in zip(self._cells[at : at + self._columns], captions[at:], strict=False):
                row.append((data, *_fitted(data, width), _lines(pdf, caption, width, missing)))
            height = max(image_height + _height(lines) for _, _, image_height, lines in row)
            if top + height > pdf.h - _MARGIN and top > first:
                top = self._new_page(pdf, missing)
            images = max(image_height for _, _, image_height, _ in row)
            for column, (data, image_width, image_height, lines) in enumerate(row):
                left = _MARGIN + column * (width + _GAP)
                pdf.image(io.BytesIO(data), x=left, y=top + images - image_height, w=image_width, h=image_height)
                _write(pdf, lines, left, top + images + _CAPTION_GAP, width)
            top += height + _GAP
        return bytes(pdf.output())

    def _new_page(self, pdf: FPDF, missing: set[str]) -> float:
        pdf.add_page()
        pdf.set_font_size(_TEXT)
        pdf.set_text_color(110)
        for text, align in ((self._title, "L"), (f"{len(self._cells)} images · page {pdf.page_no()}", "R")):
            pdf.set_xy(_MARGIN, _MARGIN - 4)
            pdf.cell(pdf.epw, _LINE, _drawable(text, missing), align=align)
        return _MARGIN + 2

    def _set_fonts(self, pdf: FPDF, characters: set[str]) -> set[str]:
        """Load the fonts that the captions need; returns the characters that none has."""
        left = {ord(character) for character in characters if not character.isspace()}
        used: list[str] = []
        for path in (*self._given, *_installed()):
            try:
                has = _characters_of(path)
                if not (left & has) and (used or path not in self._given):
                    continue
                name = f"font{len(used)}"
                pdf.add_font(name, fname=path)
            except (OSError, TTLibError, ValueError, KeyError) as error:
                if path in self._given:
                    raise CommandError(f"--font {path} cannot be used: {error}") from error
                continue
            used.append(name)
            left -= has
            if not left:
                break
        if used:
            pdf.set_font(used[0], size=_TEXT)
            pdf.set_fallback_fonts(used[1:])
            pdf.set_text_shaping(True)
        else:
            pdf.set_font("Helvetica", size=_TEXT)
            left = {code for code in left if code > 0xFF}
        if left:
            shown = " ".join(map(chr, sorted(left)[:5]))
            self.warnings.append(
                f"No font here has {len(left)} characters of the captions, such as {shown}: they are drawn as ?."
                " Install one (Debian: fonts-noto-cjk, fonts-noto-core), or name its file with --font."
            )
        return set(map(chr, left))


def _is_page(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _SOFTWARE
    except OSError:
        return False


def _caption(item: Item) -> tuple[str, str, str]:
    """The prompt, what was asked for, and the name of the file."""
    record = item.record
    facts = [record.get(name) for name in ("model", "aspect_ratio", "mark")]
    name = item.source.rpartition("/")[2]
    return (
        _BLANK.sub(" ", record.get("prompt", "")),
        " · ".join(str(fact) for fact in facts if fact),
        _BLANK.sub(" ", name),
    )


def _latest(cells: Sequence[tuple[Item, bytes]]) -> datetime:
    times = [item.record["finished_at"] for item, _ in cells if "finished_at" in item.record]
    return datetime.fromisoformat(max(times, default="2000-01-01T00:00:00Z"))


def _fitted(data: bytes, width: float) -> tuple[float, float]:
    """The size of an image on the page, in mm: as wide as its column, and not much higher than wide."""
    with Image.open(io.BytesIO(data)) as image:
        height = width * image.height / image.width
    return (width, height) if height <= _HIGHEST * width else (width * _HIGHEST * width / height, _HIGHEST * width)


def _drawable(text: str, missing: set[str]) -> str:
    return "".join("?" if character in missing else character for character in text) if missing else text


def _lines(pdf: FPDF, caption: Sequence[str], width: float, missing: set[str]) -> list[_Line]:
    prompt, facts, name = (_drawable(text, missing) for text in caption)
    pdf.set_font_size(_TEXT)
    prompt_lines: Any = pdf.multi_cell(width, _LINE, prompt, dry_run=True, output="LINES", align="L")
    lines = [str(line) for line in prompt_lines]
    if len(lines) > _PROMPT_LINES:
        last = lines[_PROMPT_LINES - 1]
        while pdf.get_string_width(f"{last}…") > width:
            last = last[:-1]
        lines = [*lines[: _PROMPT_LINES - 1], f"{last}…"]
    pdf.set_font_size(_SMALL)
    small = [_cut(pdf, facts, width), _cut(pdf, name, width)]
    align = "R" if _is_rtl(prompt) else "L"
    of_prompt = [_Line(line, _TEXT, _LINE, align) for line in lines]
    return of_prompt + [_Line(line, _SMALL, _SMALL_LINE, "L") for line in small if line]


def _cut(pdf: FPDF, text: str, width: float) -> str:
    """The text, without its middle where it is too wide: names differ at their ends."""
    kept = len(text)
    shown = text
    while kept > 4 and pdf.get_string_width(shown) > width:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def _height(lines: Sequence[_Line]) -> float:
    return _CAPTION_GAP + sum(line.height for line in lines)


def _write(pdf: FPDF, lines: Sequence[_Line], x: float, y: float, width: float) -> None:
    for line in lines:
        pdf.set_font_size(line.size)
        pdf.set_text_color(20 if line.size == _TEXT else 110)
        pdf.set_xy(x, y)
        pdf.cell(width, line.height, line.text, align=line.align)
        y += line.height


def _is_rtl(text: str) -> bool:
    kinds = (unicodedata.bidirectional(character) for character in text)
    return next((kind for kind in kinds if kind in {"L", "R", "AL"}), "L") != "L"


def _installed() -> Iterator[Path]:
    found: dict[str, Path] = {}
    for folder in _FONT_FOLDERS:
        for path in Path(folder).expanduser().rglob("*.[to]t[fc]"):
            found.setdefault(path.name, path)
    return (found[name] for name in _FONTS if name in found)


def _characters_of(path: Path) -> set[int]:
    with path.open("rb") as file:
        is_collection = path.suffix.lower() == ".ttc"
        font = TTCollection(file, lazy=True).fonts[0] if is_collection else TTFont(file, lazy=True)
        return set(font.getBestCmap())
