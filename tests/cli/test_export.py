"""`batchgen export`: every format is loaded back by the library that it is for."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections import Counter

import pytest
from command import batchgen, batchgen_process
from made_output import MadeImage, file_of, make_output, mark, picture
from PIL import Image

HOSTILE = [
    '=HYPERLINK("http://x","y")',
    "+1 a\nsecond line",
    "قطة سوداء",
    "一只可爱的猫",
    "חתול with English",
    '<script>alert("1")</script> & {braces}',
    "a fox 🦊 \u202egnp.exe",
    "-- DROP TABLE",
    "@sum",
    "x" * 3000,
]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    make_output(
        folder, [MadeImage(prompt=prompt, labels={"Category": f"C{at % 2}"}) for at, prompt in enumerate(HOSTILE)]
    )
    return folder


def exported(folder, *words, to, code=0):
    done = batchgen("export", "manifest.yaml", "--json", "--quiet", *words, "--to", to, cwd=folder)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def loaded(kind, path, cache, **more):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # it is read when the library is loaded
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset(kind, data_dir=str(path), cache_dir=str(cache), **more)


@pytest.mark.filterwarnings("ignore")  # of datasets' own
@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_datasets_loads_images_with_their_prompts_and_labels(kind, output, tmp_path):
    exported(output, "--format", kind, "--split", "train=0.5,test=0.5", to=tmp_path / "data")
    found = loaded(kind, tmp_path / "data", tmp_path / "cache")
    rows = [row for split in found.values() for row in split]
    assert sorted(row["prompt"] for row in rows) == sorted(HOSTILE)
    assert {row["label.Category"] for row in rows} == {"C0", "C1"}
    for row in rows:
        original = Image.open(file_of(output, row["prompt"]))
        assert row["image"].tobytes() == original.tobytes()
        assert (row["width"], row["height"]) == original.size
    assert set(found) == {"train", "test"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["imagefolder", "parquet", "webdataset"])
def test_words_such_as_test_in_a_prompt_make_no_split(kind, tmp_path):
    prompts = ["a train in the test field", "validation", "test", "a fox"]
    make_output(tmp_path, [MadeImage(prompt=prompt, labels={"test": "train"}) for prompt in prompts])
    exported(tmp_path, "--format", kind, to=tmp_path / "data")
    found = loaded(kind, tmp_path / "data", tmp_path / "cache")
    assert {name: len(rows) for name, rows in found.items()} == {"train": 4}


@pytest.mark.filterwarnings("ignore")
def test_datasets_streams_parquet(output, tmp_path):
    exported(output, "--format", "parquet", to=tmp_path / "data")
    stream = loaded("parquet", tmp_path / "data", tmp_path / "cache", streaming=True)["train"]
    assert next(iter(stream))["image"].size == (24, 16)


@pytest.mark.filterwarnings("ignore")
def test_webdataset_loads_its_shards(output, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    exported(output, "--format", "webdataset", "--shard-size", 4, to=tmp_path / "data")
    shards = sorted(map(str, (tmp_path / "data").glob("*.tar")))
    assert len(shards) == 3
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["txt"] for sample in samples] == HOSTILE
    assert all(sample["json"]["prompt"] == sample["txt"] and sample["png"].size == (24, 16) for sample in samples)
    found = loaded("webdataset", tmp_path / "data", tmp_path / "cache")["train"]
    assert sorted(row["txt"] for row in found) == sorted(HOSTILE)


def test_pyarrow_reads_parquet_in_small_groups_of_rows(output, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    exported(output, "--format", "parquet", to=tmp_path / "data")
    (path,) = (tmp_path / "data").glob("*.parquet")
    table = parquet.read_table(path)
    assert table.column("prompt").to_pylist() == HOSTILE
    assert table.column("image")[0].as_py()["bytes"] == file_of(output, HOSTILE[0]).read_bytes()
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}


def test_a_csv_has_no_formula_and_a_jsonl_the_exact_text(output, tmp_path):
    exported(output, "--format", "csv", to=tmp_path / "table.csv")
    exported(output, "--format", "jsonl", to=tmp_path / "table.jsonl")
    with (tmp_path / "table.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = [row["prompt"] for row in csv.DictReader(file)]
    assert cells == [f"'{prompt}" if prompt[0] in "=+-@" else prompt for prompt in HOSTILE]
    lines = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [line["prompt"] for line in lines] == HOSTILE
    assert {(output / "outputs" / "tried" / line["file_name"]).is_file() for line in lines} == {True}


def test_a_zip_has_the_names_of_its_template_and_no_name_twice(output, tmp_path):
    exported(output, "--format", "zip", "--names", "{Category}/{model}{ext}", to=tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert {"C0/kling-v1.png", "C0/kling-v1-2.png", "C1/kling-v1-5.png"} <= set(names)
    assert len({name.casefold() for name in names}) == len(HOSTILE)


@pytest.mark.parametrize("ending", ["pdf", "png"])
def test_a_contact_sheet_draws_every_image_and_every_script(ending, output, tmp_path):
    found = exported(output, "--format", "contact-sheet", "--columns", 3, to=tmp_path / f"sheet.{ending}")
    assert found["images"] == len(HOSTILE)
    if ending == "pdf":
        pdfium = pytest.importorskip("pypdfium2")
        pages = list(pdfium.PdfDocument(tmp_path / "sheet.pdf"))
        text = "".join(page.get_textpage().get_text_range() for page in pages)
        assert '=HYPERLINK("http' in text
        assert text.count("kling-v1") == len(HOSTILE)
    else:
        with Image.open(tmp_path / "sheet.png") as page:
            assert page.size == (1241, 1754)
            assert len(page.convert("RGB").getcolors(2**24)) > 100


def test_a_contact_sheet_of_many_images_has_several_pages(output, tmp_path):
    found = exported(output, "--format", "contact-sheet", "--columns", 1, to=tmp_path / "sheet.png")
    assert found["files"]["written"] == len(list(tmp_path.glob("sheet*.png"))) > 1
    (tmp_path / "sheet-9.png").write_bytes(picture(1))
    exported(output, "--format", "contact-sheet", "--columns", 8, to=tmp_path / "sheet.png")
    assert {path.name for path in tmp_path.glob("sheet*.png")} == {"sheet.png", "sheet-9.png"}


# --- which images --------------------------------------------------------------------------------------------


@pytest.fixture
def six(tmp_path):
    make_output(tmp_path, [MadeImage(prompt=f"prompt {at}", labels={"Kind": "ab"[at % 2]}) for at in range(6)])
    return tmp_path


def prompts_of(path):
    return [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_rejected_images_are_left_out_unless_the_mark_is_asked_for(six):
    mark(six, "prompt 1", "reject", "a hand with six fingers")
    mark(six, "prompt 2", "keep")
    done = batchgen("export", "manifest.yaml", "--format", "jsonl", "--to", "a.jsonl", cwd=six)
    assert (
        done.stdout == "5 images in a.jsonl: 1 file written, 0 unchanged, 0 removed. Left out: 1 image marked reject.\n"
    )
    assert "prompt 1" not in prompts_of(six / "a.jsonl")
    exported(six, "--format", "jsonl", "--where", "mark=reject", to="b.jsonl")
    exported(six, "--format", "jsonl", "--where", "mark=keep", "--where", "label.Kind=a", to="c.jsonl")
    assert (prompts_of(six / "b.jsonl"), prompts_of(six / "c.jsonl")) == (["prompt 1"], ["prompt 2"])


def test_equal_and_similar_images_are_exported_once(tmp_path):
    first, again = picture(1, size=(64, 64)), picture(1, "jpeg", (64, 64), quality=90)
    bodies = [first, first, again, picture(5, size=(64, 64)), b"no image"]
    make_output(tmp_path, [MadeImage(prompt=f"p{at}", body=body, size=(64, 64)) for at, body in enumerate(bodies)])
    assert exported(tmp_path, "--format", "jsonl", "--drop-duplicates", to="a.jsonl")["left_out"]["duplicates"] == 1
    found = exported(tmp_path, "--format", "jsonl", "--drop-duplicates", "perceptual", to="b.jsonl")
    assert found["left_out"]["duplicates"] == 2
    assert prompts_of(tmp_path / "b.jsonl") == ["p0", "p3", "p4"]


def test_missing_and_changed_files_are_reported_and_the_others_exported(six):
    lost, changed = file_of(six, "prompt 1"), file_of(six, "prompt 3")
    before = {path: path.read_bytes() for path in (lost, changed)}
    lost.unlink()
    changed.write_bytes(b"something else")
    done = batchgen("export", "manifest.yaml", "--format", "imagefolder", "--to", "data", cwd=six)
    assert done.returncode == 1
    assert "2 images could not be exported. Files that are missing or changed are restored, unpaid" in done.stderr
    assert prompts_of(six / "data" / "train" / "metadata.jsonl") == ["prompt 0", "prompt 2", "prompt 4", "prompt 5"]
    names = [
        json.loads(line)["file_name"] for line in (six / "data" / "train" / "metadata.jsonl").read_text().splitlines()
    ]
    assert all((six / "data" / "train" / name).is_file() for name in names)
    for path, body in before.items():
        path.write_bytes(body)
    assert exported(six, "--format", "imagefolder", to="data")["images"] == 6
    assert len(prompts_of(six / "data" / "train" / "metadata.jsonl")) == 6


def test_where_no_image_can_be_read_an_earlier_export_stays(six):
    exported(six, "--format", "parquet", to="data")
    before = {path: path.read_bytes() for path in (six / "data").iterdir()}
    (six / "outputs" / "tried" / "images").rename(six / "unmounted")
    found = exported(six, "--format", "parquet", "--resize", 8, to="data", code=2)
    assert "None of the 6 images can be exported" in found["error"]
    assert {path: path.read_bytes() for path in (six / "data").iterdir()} == before


# --- changed pixels and metadata -----------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "ext"), [("webp", ".webp"), ("jpeg", ".jpg"), ("png", ".png")])
def test_images_are_resized_and_encoded(encoding, ext, six):
    exported(six, "--format", "imagefolder", "--resize", 12, "--encode", encoding, "--quality", 80, to="data")
    rows = [json.loads(line) for line in (six / "data" / "train" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    for row in rows:
        with Image.open(six / "data" / "train" / row["file_name"]) as image:
            assert (row["width"], row["height"]) == image.size == (12, 8)
            assert image.format.lower() == encoding
        assert row["file_name"].endswith(ext)


def test_an_image_that_cannot_be_decoded_is_reported(tmp_path):
    make_output(tmp_path, [MadeImage(prompt="good"), MadeImage(prompt="bad", body=b"\x89PNG no image")])
    found = exported(tmp_path, "--format", "zip", "--resize", 8, to="a.zip", code=1)
    assert found["images"] == 1
    assert found["faults"][0]["why"].startswith("it cannot be decoded or encoded")


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "csv", "--to", "manifest.yaml"], "as csv, the file's name ends in .csv"),
        (["--format", "csv", "--to", "a.csv", "--resize", "9"], "--resize changes images, and csv holds none"),
        (["--format", "zip", "--to", "a.zip", "--quality", "9"], "add --encode webp or --resize"),
        (["--format", "contact-sheet", "--to", "a.pdf", "--split", "a=1"], "--split is not for contact-sheet"),
        (["--format", "imagefolder", "--to", "a", "--names", "{model}/{index}{ext}"], "folders are splits"),
        (["--format", "webdataset", "--to", "a", "--names", "{model}{ext}"], "--names is not for webdataset"),
        (["--format", "zip", "--to", "a.zip", "--names", "{colour}{ext}"], "no placeholder {colour}"),
        (["--format", "parquet", "--to", "outputs/tried/data"], "is in the output folder"),
        (["--format", "parquet", "--to", "outputs"], "outputs is not empty, and what is in it is no export"),
        (["--format", "parquet", "--to", "manifest.yaml"], "manifest.yaml is a file, and parquet is written into a"),
        (["--format", "csv", "--to", "a.csv", "--where", "model=none"], "No image is selected"),
        (["--format", "csv", "--to", "a.csv", "--where", "modle=none"], "Did you mean model?"),
        (["--format", "csv", "--to", "a.csv", "--split", "train=0.8"], "the fractions add up to 0.8"),
        (["--format", "csv", "--to", "a.csv", "--split", "../x=1"], "write NAME=FRACTION"),
        (["--format", "csv", "--to", "a.csv", "--split", "a=0.5,A=0.5"], "two splits have the same name"),
        (["--format", "contact-sheet", "--to", "a.pdf", "--font", "none.ttf"], "there is no such file"),
        (["--format", "contact-sheet", "--to", "a.pdf", "--font", "manifest.yaml"], "cannot be used"),
        (["--format", "contact-sheet", "--to", "a.pdf", "--columns", "99"], "from 1 to 12"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(words, says, six):
    before = sorted(six.rglob("*"))
    done = batchgen("export", "manifest.yaml", "--quiet", *words, cwd=six)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(six.rglob("*")) == before


def test_a_library_that_is_missing_is_named_with_its_command(six, monkeypatch):
    monkeypatch.setattr("batchgen.export.request.find_spec", lambda _name: None)
    done = batchgen("export", "manifest.yaml", "--format", "parquet", "--to", "data", cwd=six)
    assert done.returncode == 2
    assert "parquet needs pyarrow, which is not installed: pip install 'batchgen[export]'" in done.stderr


def test_the_command_makes_an_archive_of_a_real_run(tmp_path):
    path = tmp_path / "manifest.yaml"
    path.write_text("version: 1\nname: tried\nprovider: sandbox\nmatrix: {prompt: [a fox, a cat]}\n", encoding="utf-8")
    assert batchgen_process("run", path, "--quiet", cwd=tmp_path).returncode == 0
    done = batchgen_process("export", path, "--format", "zip", "--to", "a.zip", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 images in a.zip: 1 file written, 0 unchanged, 0 removed.\n")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert Counter(Image.open(io.BytesIO(archive.read(name))).format for name in archive.namelist()) == {"PNG": 2}
