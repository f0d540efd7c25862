"""Names of image files: portable, unique, short, whatever the manifest holds."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchgen.jobs import Job, Parameters, job_id
from batchgen.storage.paths import DEFAULT_TEMPLATE, LONGEST, PathInvalid, PathTemplate, folded, retired, watermarked

DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"
}
ANY_TEXT = st.text(st.characters(), max_size=300) | st.sampled_from(
    [
        "con",
        "CON.txt",
        "nul .x",
        "..",
        ".",
        "",
        " ",
        "a/../../b",
        "x" * 500,
        "日本" * 100,
        "\ud800",
        "\u0301",
        "e\u0301",
    ]
)
TEMPLATES = [
    DEFAULT_TEMPLATE,
    "{prompt_id}{job_id}{index}{ext}",
    "{product}/{prompt_id}/{index:03}-{job_id}{ext}",
    "{job_id}/{index}/{product} {prompt_id}{ext}",
    "{product}.{prompt_id}.{job_id}.{index}{ext}",
    "con/{{é}}{job_id}{product}-{index}{ext}",
]


def a_job(prompt_id="fox", *, prompt="A fox", labels=None, **parameters):
    values = Parameters(**parameters)
    name = job_id(prompt, values.digest())
    return Job(id=name, prompt=prompt, parameters=values, prompt_id=prompt_id, labels=labels or {})


def render(template, job, index=0, ext=".png", known=("product", "surface")):
    return PathTemplate.parse(template, known).render(job, index, ext)


def is_portable(path):
    def segment_is_portable(segment):
        stem = segment.split(".")[0].rstrip(" ").lower()
        return segment and segment[0] not in " ." and segment[-1] not in " ." and stem not in DEVICES

    characters = not any(c in '\\:*?"<>|' or ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in path)
    return characters and all(map(segment_is_portable, path.split("/"))) and len(path.encode()) <= LONGEST


# --- what is rendered ---------------------------------------------------------------------------------------


def test_the_default_names_model_ratio_prompt_job_and_image():
    job = a_job("fox-logo", model="kling-v2-1", aspect_ratio="16:9")
    assert render(DEFAULT_TEMPLATE, job, 2, ".jpg") == f"images/kling-v2-1/16x9/fox-logo-{job.id}-2.jpg"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{index:03}{ext}", "images/007.png"),
        ("{index:03d}{ext}", "images/007.png"),
        ("{product}/{surface}{ext}", "images/a-b/oak.png"),
        ("{{{product}}}{ext}", "images/{a-b}.png"),
        ("{resolution}_{prompt_id}{ext}", "images/2k_fox.png"),
    ],
)
def test_placeholders_are_filled_in(template, name):
    job = a_job(labels={"product": "a/b", "surface": "oak"}, resolution="2k")
    assert render(template, job, 7) == name


def test_an_id_of_an_axis_entry_goes_before_its_value():
    job = a_job(labels={"model": "best", "aspect_ratio": "wide"}, aspect_ratio="21:9")
    assert render("{model}-{aspect_ratio}{ext}", job) == "images/best-wide.png"


def test_a_variable_that_a_job_does_not_have_leaves_a_name_that_stands():
    assert render("{product}/{index}{ext}", a_job()) == "images/_/0.png"


@pytest.mark.parametrize(
    ("prompt_id", "stem"),
    [
        ("con", "_con"),
        ("Com1.tar", "_Com1.tar"),
        ("console", "console"),
        ("a:b*c?", "a-b-c-"),
        ("..", "_"),
        (".hidden. ", "hidden"),
        ("two\nlines\tand  blanks", "two lines and blanks"),
        ("abc\u202egnp", "abc-gnp"),
        ("e\u0301", "é"),
        ("\u0301", "_\u0301"),
        ("\ud800", "-"),
    ],
)
def test_what_a_system_cannot_hold_is_replaced(prompt_id, stem):
    assert render("{prompt_id}{ext}", a_job(prompt_id)) == f"images/{stem}.png"


def test_the_longest_value_is_cut_first_and_what_tells_files_apart_is_kept():
    job = a_job("p" * 300, labels={"product": "mug"})
    path = render("{product}/{prompt_id}-{job_id}-{index}{ext}", job, 3)
    assert path.startswith("images/mug/ppp")
    assert path.endswith(f"p-{job.id}-3.png")
    assert LONGEST - 10 < len(path.encode()) <= LONGEST


def test_values_that_are_all_too_long_are_cut_to_the_same_length():
    job = a_job("p" * 300, labels={"product": "q" * 300, "surface": "oak"})
    folder, surface, name = render("{product}/{surface}/{prompt_id}{ext}", job).split("/")[1:]
    assert surface == "oak"
    assert len(folder) == len(name.removesuffix(".png")) > 50


def test_no_character_is_cut_in_two():
    path = render("{prompt_id}{ext}", a_job("日" * 100))
    assert set(path.removeprefix("images/").removesuffix(".png")) == {"日"}


@given(prompt_id=ANY_TEXT, product=ANY_TEXT, template=st.sampled_from(TEMPLATES), index=st.integers(0, 8))
@example(prompt_id="\u0301a", product="\u1161", template=TEMPLATES[1], index=0)
@example(prompt_id="é" * 200, product="é" * 200, template=TEMPLATES[5], index=8)
def test_every_name_is_portable_and_keeps_job_and_index(prompt_id, product, template, index):
    job = a_job(prompt_id, labels={"product": product})
    path = render(template, job, index, ".webp")
    assert is_portable(path)
    assert path.startswith("images/")
    assert path.endswith(".webp")
    assert job.id in path
    assert len(path.split("/")) == len(template.split("/")) + 1


@given(
    jobs=st.lists(st.tuples(st.text(max_size=5), ANY_TEXT, ANY_TEXT), min_size=2, max_size=5, unique_by=lambda j: j[0]),
    template=st.sampled_from(TEMPLATES),
)
def test_names_with_job_and_index_are_unique_even_where_case_is_folded(jobs, template):
    parsed = PathTemplate.parse(template, ["product"])
    made = [a_job(prompt_id, prompt=prompt, labels={"product": text}) for prompt, prompt_id, text in jobs]
    names = [folded(parsed.render(job, index, ".png")) for job in made for index in range(9)]
    assert {"job_id", "index"} <= parsed.fields
    assert len(set(names)) == len(names)


@given(prompt_id=ANY_TEXT, template=st.sampled_from([*TEMPLATES, "{prompt_id}{ext}", "{product}/{prompt_id}{ext}"]))
def test_the_sister_trees_keep_the_name_and_its_length(prompt_id, template):
    job = a_job(prompt_id, labels={"product": prompt_id})
    path = render(template, job, 0)
    name = path.removeprefix("images/")
    assert watermarked(path) == f"watermarked/{name}"
    assert is_portable(watermarked(path))
    assert is_portable(retired(path, job.id))
    assert retired(path, job.id).count(job.id) == 1


def test_a_retired_name_says_whose_it_was():
    assert retired("images/a.b/fox.png", "1abc") == "retired/a.b/fox-1abc.png"
    assert retired("images/1abc/fox.png", "1abc") == "retired/1abc/fox.png"


def test_names_that_a_file_system_may_take_for_one_fold_to_one():
    assert folded("images/Fox.png") == folded("images/fox.png")
    assert folded("images/E\u0301.png") == folded("images/é.png")
    assert folded("images/Straße") == folded("images/STRASSE")
    assert folded("images/fox-1.png") != folded("images/fox-2.png")


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{modle}/{index}{ext}", "Did you mean {model}?"),
        ("{prompt}{ext}", "Did you mean {prompt_id}?"),
        ("{}{ext}", "no placeholder {}"),
        ("{0}{ext}", "no placeholder {0}"),
        ("{product.__class__}{ext}", "no placeholder {product.__class__}"),
        ("{product[0]}{ext}", "no placeholder {product[0]}"),
        ("{model!r}{ext}", "has a conversion"),
        ("{model:>10}{ext}", "has a format"),
        ("{model:03}{ext}", "has a format"),
        ("{index:{model}}{ext}", "has a format"),
        ("{index:0999}{ext}", "has a format"),
        ("{index", "cannot be read"),
        ("}{ext}", "cannot be read"),
        ("/abs/{index}{ext}", "is absolute"),
        ("../{index}{ext}", "steps out"),
        ("a/./{index}{ext}", "steps out"),
        ("a//{index}{ext}", "empty name"),
        ("{model}/{ext}", "empty name"),
        ("a\\{index}{ext}", "has characters that some systems do not allow in a name: \\"),
        ("C:{index}{ext}", "in a name: :"),
        ("a\n{index}{ext}", "a control character"),
        ("\u202e{index}{ext}", "a control character"),
        ("{job_id}\u0301{ext}", "accent"),
        (".hidden/{index}{ext}", "begins or ends with a dot"),
        ("a /{index}{ext}", "begins or ends with a dot"),
        ("{index}.{ext}", "a dot before {ext}"),
        ("{index}", "must end in {ext}"),
        ("{index}{ext}.png", "must end in {ext}"),
        ("{ext}/{index}{ext}", "must end in {ext}"),
        ("", "must end in {ext}"),
        ("x" * 180 + "{index}{ext}", "too long"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_the_reason(template, words):
    with pytest.raises(PathInvalid) as caught:
        PathTemplate.parse(template, ["product"])
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@given(st.text(st.sampled_from("{}/.: ae!0ndixjob_t\\\u0301é"), max_size=40).map("{job_id}{index}".__add__))
def test_any_template_is_refused_or_gives_portable_names(text):
    try:
        template = PathTemplate.parse(text + "{ext}")
    except PathInvalid:
        return
    assert is_portable(template.render(a_job("x" * 99), 0, ".png"))


def test_fields_are_known_before_anything_is_rendered():
    template = PathTemplate.parse("{product}/{index}{ext}", ["product"])
    assert template.fields == {"product", "index", "ext"}
    assert "job_id" not in template.fields
