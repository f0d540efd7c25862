"""What an image says of its own making: adds it to PNG, JPEG and WebP files, or removes it. No pixel changes.

Added are a packet of XMP, which Adobe's programs, exiftool and stock agencies read, and in PNG texts under the names
that the format itself defines. What was there stays.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from batchgen import __version__
from batchgen.export.pixels import CannotChange
from batchgen.storage.formats import ImageFormat, image_format

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SOFTWARE = f"batchgen {__version__}"
_PROMPT_BYTES = 20_000  # of a prompt; a segment of JPEG has at most 65,533
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_XMP_TYPE = "http://ns.adobe.com/xap/1.0/\0"
_END_OF_RDF = b"</rdf:RDF>"
_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"  # IPTC's word for it
_DESCRIPTION = """\
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:batchgen="https://batchgen.invalid/ns/1/">\
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{prompt}</rdf:li></rdf:Alt></dc:description>\
<xmp:CreatorTool>{software}</xmp:CreatorTool>{date}\
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>\
<batchgen:parameters>{parameters}</batchgen:parameters></rdf:Description>"""
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">\
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
_SAID = ("job_id", "image_index", "model", "aspect_ratio", "resolution", "negative_prompt", "provider", "params")


def embed(data: bytes, record: Mapping[str, Any]) -> bytes:
    """The image with what its record says: prompt, model, parameters, job, time, software. Raises CannotChange."""
    prompt = str(record.get("prompt", "")).encode()[:_PROMPT_BYTES].decode(errors="ignore")
    parameters = json.dumps({name: record[name] for name in _SAID if name in record}, ensure_ascii=False)
    made_at = str(record.get("finished_at", ""))
    values = {"prompt": prompt, "software": _SOFTWARE, "parameters": parameters, "source": _BY_A_MODEL}
    date = f"<xmp:CreateDate>{made_at}</xmp:CreateDate>" if made_at else ""
    xmp = _DESCRIPTION.format(date=date, **{name: escape(_NOT_XML.sub("", text)) for name, text in values.items()})
    match image_format(data):
        case ImageFormat.PNG:
            texts = {"Description": prompt, "Software": _SOFTWARE, "Creation Time": made_at, "batchgen": parameters}
            return _png_with(data, {name: text for name, text in texts.items() if text}, xmp.encode())
        case ImageFormat.JPEG:
            return _jpeg_with(data, xmp.encode())
        case ImageFormat.WEBP:
            return _webp_with(data, xmp.encode())
    raise CannotChange("nothing can be embedded in its format; add --encode")


def strip(data: bytes) -> bytes:
    """The image without texts, EXIF, XMP, IPTC, C2PA and comments; the colours' profile stays. Raises CannotChange."""
    match image_format(data):
        case ImageFormat.PNG:
            gone = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME", b"caBX"}
            return data[:8] + b"".join(part for kind, part in _png_chunks(data) if kind not in gone)
        case ImageFormat.JPEG:
            return b"".join(part for marker, part in _jpeg_segments(data) if not _says_something(marker, part))
        case ImageFormat.WEBP:
            kept = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"ANIM", b"ANMF"}
            return _webp([(kind, body) for kind, body in _webp_chunks(data) if kind in kept], flags_off=0b1100)
    raise CannotChange("metadata cannot be removed from its format; add --encode")


def _packet(existing: bytes | None, description: bytes) -> bytes | None:
    """A packet of XMP, or an existing one with our description too; None where that one cannot be read."""
    if existing is None:
        return _PACKET.encode().replace(b"{}", description)
    before, end, after = existing.rpartition(_END_OF_RDF)
    return before + description + end + after if end else None


# --- PNG -----------------------------------------------------------------------------------------------------


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk up to the end, whole, by its kind; what follows the end is left out."""
    at, kind = 8, b""
    while at + 12 <= len(data) and kind != b"IEND":
        kind, size = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        yield kind, data[at : at + 12 + size]
        at += 12 + size


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _png_text(keyword: str, text: bytes) -> bytes:
    return _png_chunk(b"iTXt", keyword.encode() + b"\0\0\0\0\0" + text)


def _png_with(data: bytes, texts: Mapping[str, str], description: bytes) -> bytes:
    head = b"iTXt" + b"XML:com.adobe.xmp\0"
    ours = b"".join(_png_text(name, text.replace("\0", "").encode()) for name, text in texts.items())
    has_xmp, parts, end = False, [], 8
    for _, part in _png_chunks(data):
        end += len(part)
        if part[4:].startswith(head) and not has_xmp:
            has_xmp = True
            plain = part[4 + len(head) :].startswith(b"\0\0\0\0")
            packet = _packet(part[8 + len(head) : -4], description) if plain else None
            parts.append(part if packet is None else _png_text("XML:com.adobe.xmp", packet))
        else:
            parts.append(part)
    if not has_xmp:
        ours += _png_text("XML:com.adobe.xmp", _packet(None, description) or b"")
    return data[:8] + parts[0] + ours + b"".join(parts[1:]) + data[end:]


# --- JPEG ----------------------------------------------------------------------------------------------------


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The start, each segment up to the first scan, then all the rest as one, by their markers."""
    yield 0xD8, data[:2]
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, data[at:end]
        at = end
    yield 0xDA, data[at:]


def _says_something(marker: int, part: bytes) -> bool:
    """Whether a segment is metadata: comments, and APPn but JFIF, the colours' profile and Adobe's transform."""
    if marker == 0xE2:
        return not part[4:].startswith(b"ICC_PROFILE\0")
    return marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)


def _jpeg_segment(body: bytes) -> bytes:
    if len(body) > 65_533:
        raise CannotChange("its metadata is too long for a JPEG")
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def _jpeg_with(data: bytes, description: bytes) -> bytes:
    head, segments = _XMP_TYPE.encode(), list(_jpeg_segments(data))
    found = [at for at, (marker, part) in enumerate(segments) if marker == 0xE1 and part[4:].startswith(head)]
    if found:
        at = found[0]
        packet = _packet(segments[at][1][4 + len(head) :], description)
        if packet is not None and len(head) + len(packet) <= 65_533:
            segments[at] = 0xE1, _jpeg_segment(head + packet)
    else:
        first = next(at for at, (marker, _) in enumerate(segments) if marker not in {0xD8, 0xE0, 0xE1})
        segments.insert(first, (0xE1, _jpeg_segment(head + (_packet(None, description) or b""))))
    return b"".join(part for _, part in segments)


# --- WebP ----------------------------------------------------------------------------------------------------


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _webp(chunks: list[tuple[bytes, bytes]], *, flags_on: int = 0, flags_off: int = 0) -> bytes:
    """A file of these chunks; the header for features is added where a feature needs it."""
    if flags_on and chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _webp_features(*chunks[0])))
    if chunks[0][0] == b"VP8X":
        features = chunks[0][1]
        chunks[0] = b"VP8X", bytes([(features[0] | flags_on) & ~flags_off]) + features[1:]
    parts = [kind + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2) for kind, body in chunks]
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _webp_features(kind: bytes, body: bytes) -> bytes:
    """The header for features of a file that has none yet, from that of its pixels (RFC 9649)."""
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:
        width, height = (int.from_bytes(body[at : at + 2], "little") % 0x4000 - 1 for at in (6, 8))
        alpha = 0
    return bytes([alpha << 4, 0, 0, 0]) + width.to_bytes(3, "little") + height.to_bytes(3, "little")


def _webp_with(data: bytes, description: bytes) -> bytes:
    chunks = list(_webp_chunks(data))
    existing = next((body for kind, body in chunks if kind == b"XMP "), None)
    packet = _packet(existing, description)
    if packet is not None:
        chunks = [each for each in chunks if each[0] != b"XMP "] + [(b"XMP ", packet)]
    return _webp(chunks, flags_on=0b100)
