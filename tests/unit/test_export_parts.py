"""Splits by prompt, and what is embedded into images or removed from them."""

from __future__ import annotations

import io
import json
import unicodedata
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_output import picture
from PIL import Image, PngImagePlugin

from batchgen.export.pixels import CannotChange, new_size
from batchgen.export.provenance import embed, strip
from batchgen.export.request import Splits

SPLITS = Splits("train=0.7,validation=0.2,test=0.1")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(TEXT)
def test_a_prompt_is_in_one_split_however_it_is_composed(prompt):
    forms = {SPLITS.of(unicodedata.normalize(form, prompt)) for form in ("NFC", "NFD")} | {SPLITS.of(prompt)}
    assert len(forms) == 1
    assert forms <= {"train", "validation", "test"}


@given(st.lists(TEXT, unique_by=lambda prompt: unicodedata.normalize("NFC", prompt)), st.lists(TEXT))
def test_splits_share_no_prompt_and_more_prompts_move_none(prompts, more):
    before = {prompt: SPLITS.of(prompt) for prompt in prompts}
    assert {prompt: SPLITS.of(prompt) for prompt in [*more, *prompts]}.items() >= before.items()


def test_splits_have_about_their_fractions():
    found = [SPLITS.of(f"prompt {at}") for at in range(4000)]
    assert [round(found.count(name) / 4000, 1) for name in ("train", "validation", "test")] == [0.7, 0.2, 0.1]


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 9000))
def test_a_new_size_has_its_longest_side_and_no_side_of_nothing(width, height, longest):
    new = new_size((width, height), longest)
    assert min(new) >= 1
    assert max(new) == min(longest, max(width, height))


RECORD = {
    "prompt": 'a <fox> & 狐狸\x0b\n"x"',
    "model": "kling-v1",
    "job_id": "1" + "a" * 25,
    "image_index": 0,
    "params": "{}",
    "finished_at": "2027-01-31T06:00:00.000Z",
}
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:rights="theirs"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def exif():
    found = Image.Exif()
    found[0x013B] = "their artist"
    return found.tobytes()


def png_with_texts():
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "theirs")
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return picture(3, pnginfo=info)


def alpha(kind, **more):
    target = io.BytesIO()
    Image.new("RGBA", (7, 5), (1, 2, 3, 128)).save(target, kind, **more)
    return target.getvalue()


FILES = {
    "png": picture(1),
    "png with texts": png_with_texts(),
    "png and bytes after it": picture(1) + b"after",
    "jpeg": picture(1, "jpeg"),
    "jpeg with exif": picture(1, "jpeg", exif=exif()),
    "jpeg with xmp": picture(1, "jpeg", xmp=XMP),
    "jpeg with a comment": picture(1, "jpeg", comment=b"theirs", progressive=True),
    "webp": picture(1, "webp"),
    "webp without loss": picture(1, "webp", lossless=True),
    "webp with alpha": alpha("webp"),
    "webp without loss with alpha": alpha("webp", lossless=True),
    "webp with all": picture(1, "webp", exif=exif(), xmp=XMP, icc_profile=b"a profile"),
}


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.mode, image.size, image.tobytes(), dict(image.info)


@pytest.mark.parametrize("name", FILES)
def test_what_is_embedded_can_be_read_and_changes_no_pixel(name):
    data = FILES[name]
    found = embed(data, RECORD)
    assert decoded(found)[:3] == decoded(data)[:3]
    info = decoded(found)[3]
    xmp = info.get("xmp") or info["XML:com.adobe.xmp"].encode()
    root = ET.fromstring(xmp.rstrip(b"\0"))  # noqa: S314 - our own
    said = "".join(root.itertext())
    assert 'a <fox> & 狐狸\n"x"' in said
    assert json.loads(next(e for e in root.iter() if e.tag.endswith("}parameters")).text)["job_id"] == RECORD["job_id"]
    if name.startswith("png"):
        assert info["Description"] == RECORD["prompt"]
        assert info["Creation Time"] == RECORD["finished_at"]
    before = decoded(data)[3]
    kept = {key: value for key, value in before.items() if key.lower() not in {"xmp", "xml:com.adobe.xmp"}}
    assert kept.items() <= info.items()
    if b"theirs" in data:
        assert b"theirs" in found
    assert found == embed(data, RECORD)


@pytest.mark.parametrize("name", FILES)
def test_strip_leaves_the_pixels_and_the_profile_alone(name):
    data = FILES[name]
    for file in (data, embed(data, RECORD)):
        left = strip(file)
        assert decoded(left)[:3] == decoded(data)[:3]
        assert not any(word in left for word in (b"theirs", b"their artist", b"fox", b"batchgen", b"after"))
        assert not {"exif", "xmp", "comment", "Description", "Author", "batchgen"} & set(decoded(left)[3])
        assert decoded(left)[3].get("icc_profile") == decoded(data)[3].get("icc_profile")


@pytest.mark.parametrize("change", [strip, lambda data: embed(data, RECORD)])
def test_a_format_that_cannot_be_changed_says_what_to_do(change):
    with pytest.raises(CannotChange, match="add --encode"):
        change(picture(1, "gif"))


def test_a_very_long_prompt_is_cut_to_what_a_jpeg_can_hold():
    found = embed(FILES["jpeg"], {**RECORD, "prompt": "&狐" * 30_000, "negative_prompt": "n" * 200})
    assert decoded(found)[:3] == decoded(FILES["jpeg"])[:3]
