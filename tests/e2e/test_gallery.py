"""The gallery in a real browser: what it shows, what it finds, its keys, its marks, and that it asks no network."""

from __future__ import annotations

import csv
import hashlib
import http.client
import json
import re
import shutil
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from command import batchgen, manifest, started, wait_for
from large_output import ANIMALS, MODELS, Made, make_output, matrix_image
from output_checks import check_invariant
from sandbox_server import SandboxServer

from batchgen.app.gallery import GalleryWriter
from batchgen.app.review import Mark, NewMark, store_marks
from batchgen.jobs import Job, Parameters, job_id
from batchgen.ledger.store import FILE_NAME, reading
from batchgen.reports.where import Where

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = [
    "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>",
    "</script><script>window.harmed = 3</script> <!-- ]]> ${window.harmed = 4} {{x}}",
    "line one\nline two\ttab \\n \\u003c \u2028 \u2029 end",
    "\"double\" 'single' `back` & &amp; &lt; %00 %2e",
    "\u202eright to left override\u202c and \u0634\u062c\u0631\u0629 \u0632\u064a\u062a\u0648\u0646 at dusk",
    "=cmd|' /C calc'!A0",
    "雪の中の富士山 🗻 и медведь",
]
LOADED = "[...document.querySelectorAll('.cell img')].filter((image) => image.naturalWidth > 0).length"
AWKWARD = "images/a b/#1 50%?&'\"<b>é雪.png"


class Shown(NamedTuple):
    """A page that is open, what it asked for, and the errors of its scripts."""

    page: object
    requests: list[str]
    errors: list[str]

    def count(self):
        return int(re.match(r"[\d,]+", self.page.text_content("#count"))[0].replace(",", ""))

    def counts(self, number):
        wait_for(lambda: self.page.text_content("#count").startswith(f"{number:,} "))

    def rows(self):
        return self.page.evaluate("[...document.querySelectorAll('.cell')].map((cell) => Number(cell.dataset.row))")

    def current(self):
        return self.page.evaluate("Number(document.activeElement.dataset.row ?? -1)")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser):
    """Opens an output's page in a context of its own; afterwards, no script has failed and no network was asked."""
    contexts = []

    def opened(at, *, size=(1280, 800), **options):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True, **options)
        shown = Shown(context.new_page(), [], [])
        shown.page.set_default_timeout(30_000)
        contexts.append((context, shown))
        context.on("request", lambda request: shown.requests.append(request.url))
        shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
        shown.page.on("dialog", lambda dialog: (shown.errors.append(dialog.message), dialog.dismiss()))
        shown.page.on("console", lambda line: line.type == "error" and shown.errors.append(line.text))
        shown.page.goto(at if isinstance(at, str) else (at / "gallery" / "index.html").as_uri())
        shown.page.wait_for_selector(".cell, #empty:not([hidden])")
        return shown

    yield opened
    for context, shown in contexts:
        context.close()
        schemes = {urlsplit(url).scheme for url in shown.requests} - {"blob"}
        assert schemes <= {"file"} or {urlsplit(url).hostname for url in shown.requests} == {"127.0.0.1"}
        # of a thumbnail that is not there, and of a server that has ended
        expected = ("ERR_FILE_NOT_FOUND", "status of 404", "ERR_CONNECTION_REFUSED")
        broken = [error for error in shown.errors if not any(each in error for each in expected)]
        assert broken == []


def gallery(root, *words):
    done = batchgen("gallery", "any.yaml", "--output", root, "--json", *words, cwd=root.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def write_page(root):
    """The page without thumbnails, for tests that look at something else: no process is started."""
    GalleryWriter(root, Where.parse([])).write_page()


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """1,000 images of 125 prompts, four models and two ratios."""
    root = tmp_path_factory.mktemp("large") / "out"
    images = [matrix_image(number) for number in range(1000)]
    make_output(root, images)
    marks = [(5, Mark.KEEP), (6, Mark.REJECT), (7, Mark.STAR), (8, Mark.REJECT)]
    store_marks(root, [NewMark(sha256=images[at].sha256, mark=mark, note=f"note {at}") for at, mark in marks])
    scores = [NewMark(sha256=images[at].sha256, reviewer="sharp@1", scores={"edge": at / 100}) for at in range(100)]
    store_marks(root, scores)
    write_page(root)
    return root


def one(text, path="", labels=None, content=None, number=0):
    """An image of a prompt of our own."""
    parameters = Parameters()
    job = Job(
        id=job_id(text, parameters.digest()), prompt=text, parameters=parameters, prompt_id="own", labels=labels or {}
    )
    content = content or matrix_image(number).content
    sha256 = hashlib.sha256(content).hexdigest()
    return Made(job, path or f"images/{job.id}.png", sha256, content, None, "sandbox")


@pytest.fixture
def small(tmp_path):
    """Twelve images, without thumbnails or a page yet."""
    root = tmp_path / "out"
    make_output(root, [matrix_image(number) for number in range(12)])
    return root


# --- a run's images ---------------------------------------------------------------------------------------------


def test_the_images_of_a_run_are_shown_marked_and_handed_to_review(tmp_path, show):
    with SandboxServer("--emulate", "kapon", "--latency", "0.05") as server:
        text = "matrix:\n  prompt: [a red fox, a blue heron]\n  aspect_ratio: [1:1, 16:9, 9:16]\n"
        path = manifest(tmp_path, server, f"{text}  model: [kling-v1, kling-v2-1]\n")
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        done = batchgen("gallery", path, cwd=tmp_path)
        assert done.stdout == "12 images in outputs/tried/gallery/index.html: open it in a browser.\n", done.stderr
        root = tmp_path / "outputs" / "tried"
        shown = show(root)
        shown.counts(12)
        assert len(shown.rows()) == 12
        wait_for(lambda: shown.page.evaluate(LOADED) == 12)
        shown.press("j", "1", "j", "2", "Enter")
        shown.page.fill("#note", 'two "thumbs", =1+1\nsecond line')
        shown.page.click("#detail .close")
        with shown.page.expect_download() as download:
            shown.page.click("#save")
        saved = tmp_path / "marks.csv"
        download.value.save_as(saved)
        with saved.open(encoding="utf-8", newline="") as file:
            marks = list(csv.DictReader(file))
        assert download.value.suggested_filename == "marks.csv"
        assert [row["mark"] for row in marks] == ["keep", "reject"]
        assert batchgen("review", path, "--from", saved, cwd=tmp_path).returncode == 0
        with reading(root / FILE_NAME) as ledger:
            told = {row.path: (row.mark.value, row.note) for row in ledger.index_rows() if row.mark}
        assert told == {row["file_name"]: (row["mark"], row["note"]) for row in marks}

        again = json.loads(batchgen("gallery", path, "--json", cwd=tmp_path).stdout)
        assert (again["images"], again["thumbnails_made"]) == (12, 0)
        shown.page.reload()
        shown.page.wait_for_selector(".cell[data-mark=reject]")
        assert shown.page.is_hidden("#save"), "the ledger has these marks now"

        assert batchgen("verify", path, cwd=tmp_path).returncode == 0, "the gallery is no foreign file"
        assert "Nothing to do" in batchgen("run", path, cwd=tmp_path).stdout
        assert (root / "gallery" / "index.html").exists()
        check_invariant(root)


# --- a thousand images --------------------------------------------------------------------------------------------


def rows_where(root, claim):
    with reading(root / FILE_NAME) as ledger:
        return sum(1 for row in ledger.index_rows() if claim(row))


def axis(shown, key):
    return shown.page.evaluate("(key) => store.columns.axes.findIndex((axis) => axis.key === key)", key)


FILTERS = {
    "model": (lambda row: row.job.parameters.model in MODELS[:2], ["kling-v1", "kling-v1-5"]),
    "aspect_ratio": (lambda row: row.job.parameters.aspect_ratio == "16:9", ["16:9"]),
    "resolution": (lambda row: row.job.parameters.resolution == "2k", ["2k"]),
    "provider": (lambda row: row.account == "local", ["local"]),
    "label.animal": (lambda row: row.job.labels["animal"] in ANIMALS[3:], list(ANIMALS[3:])),
}


def test_each_filter_selects_what_it_says(thousand, show):
    shown = show(thousand)
    shown.counts(1000)
    for key, (claim, values) in FILTERS.items():
        name = f"axis-{axis(shown, key)}"
        for value in values:
            shown.page.click(f"fieldset:has([name='{name}']) label:has(span:text-is('{value}'))")
        shown.counts(rows_where(thousand, claim))
        shown.page.click("#filters button[type=reset]")
        shown.counts(1000)
    for number, mark in enumerate(("", "keep", "reject", "star")):
        shown.page.check(f"[name=mark][value='{number}']")
        shown.counts(rows_where(thousand, lambda row, mark=mark: row.mark == mark))
        shown.page.uncheck(f"[name=mark][value='{number}']")
    shown.page.fill("[name=id]", "P12")
    shown.counts(rows_where(thousand, lambda row: row.job.prompt_id.startswith("p12")))
    shown.page.fill("[name=id]", "")
    shown.page.fill("[name=range-cost-least]", "0.1")
    shown.page.fill("[name=range-cost-most]", "0.11")
    shown.counts(rows_where(thousand, lambda row: 100_000 <= row.share <= 110_000))
    shown.page.check(f"[name=axis-{axis(shown, 'model')}] >> nth=0")
    shown.counts(22)
    shown.page.click("#filters button[type=reset]")
    shown.page.fill("[name='range-sharp.edge-least']", "0.5")
    shown.counts(rows_where(thousand, lambda row: row.scores.get("sharp.edge", -1) >= 0.5))
    shown.page.fill("[name=id]", "nothing like it")
    shown.counts(0)
    shown.page.click("#reset-empty")
    shown.counts(1000)


def test_search_finds_prompts_and_labels_and_orders_sort(thousand, show):
    shown = show(thousand)
    shown.press("/")
    shown.page.keyboard.type("NUMBER 77")
    shown.counts(8)
    shown.page.fill("#search", "otter 8")
    shown.counts(rows_where(thousand, lambda row: row.job.labels["animal"] == "otter" and "8" in row.job.prompt))
    shown.press("Escape")
    shown.counts(1000)
    shown.page.click("#as-wall")
    for order, first in {
        "cost-": 992,
        "cost+": 0,
        "time-": 999,
        "time+": 0,
        "mark+": 7,
        "score.sharp.edge-": 99,
        "score.sharp.edge+": 0,
        "id+": 0,
        "order+": 0,
    }.items():
        shown.page.select_option("#order", order)
        wait_for(lambda first=first: shown.rows()[0] == first)


def test_only_what_is_seen_has_elements_and_the_end_can_be_reached(thousand, show):
    shown = show(thousand)
    for layout in ("grid", "wall"):
        shown.page.click(f"#as-{layout}")
        for part in (0, 0.5, 1):
            shown.page.evaluate("(part) => (view.scrollTop = part * view.scrollHeight)", part)
            wait_for(lambda part=part: (999 * part) in shown.rows() or part == 0.5)
            assert 0 < len(shown.rows()) < 150
    heads = shown.page.query_selector_all("#heads div")
    assert heads == [], "a wall has no columns"
    shown.page.click("#as-grid")
    columns = [" ".join(head.inner_text().split()) for head in shown.page.query_selector_all("#heads div")]
    assert columns == [f"{model} {ratio}" for model in MODELS for ratio in ("1:1", "16:9")]


def test_a_layout_that_is_too_high_for_a_browser_is_scrolled_to_its_end(small, show):
    write_page(small)
    shown = show(small)
    shown.page.evaluate("const scroller = new Scroller(view, sheet, () => el('section')); globalThis.tried = scroller")
    lines = "Array.from({ length: 200000 }, (_, at) => ({ y: at * 250, height: 250 }))"
    last = shown.page.evaluate(
        f"""() => {{
            tried.show({{ lines: {lines}, height: 250 * 200000, width: 100 }});
            view.scrollTop = 1e9;
            tried.render();
            return Math.max(...tried.drawn.keys());
        }}"""
    )
    assert last == 199_999


# --- keys -----------------------------------------------------------------------------------------------------------


def test_every_key_does_what_the_help_says(small, show):
    write_page(small)
    shown = show(small)
    shown.press("j", "j")  # of a line in the order of its columns: (model, ratio)
    assert shown.current() == 2
    shown.press("k")
    assert shown.current() == 1
    shown.press("ArrowRight", "ArrowDown")
    assert shown.current() == 10, "the image below has the same model and ratio"
    shown.press("ArrowUp", "ArrowLeft")
    assert shown.current() == 1
    for key, mark in {"1": "keep", "2": "reject", "3": "star", "0": ""}.items():
        shown.press(key)
        assert shown.page.get_attribute(".cell[data-row='1']", "data-mark") == mark
    assert "kling-v1, 16:9" in shown.page.get_attribute(".cell[data-row='1']", "aria-label")
    shown.press("?")
    assert shown.page.is_visible("#help")
    assert "batchgen review" in shown.page.text_content("#help-marks")
    shown.press("Escape")
    assert not shown.page.is_visible("#help")
    shown.press("/")
    assert shown.page.evaluate("document.activeElement.id") == "search"
    shown.page.keyboard.type("j1")
    assert shown.page.input_value("#search") == "j1", "in a field, keys are text"
    shown.press("Escape")
    shown.page.focus(".cell[data-row='1']")
    shown.press("Enter")
    shown.page.wait_for_selector("#detail[open] dl")
    assert "prompt number 0" in shown.page.text_content("#detail pre")
    shown.press("j", "2")
    wait_for(lambda: shown.page.get_attribute(".cell[data-row='2']", "data-mark") == "reject")
    pressed = "#detail [data-mark=reject]"
    wait_for(lambda: shown.page.get_attribute(pressed, "aria-pressed") == "true")
    shown.press("Escape")
    assert not shown.page.is_visible("#detail")
    wait_for(lambda: shown.current() == 2)


def test_images_are_compared_along_one_axis(small, show):
    write_page(small)
    shown = show(small)
    shown.page.focus(".cell[data-row='3']")
    shown.press("c")
    shown.page.wait_for_selector("#compare[open] figure")
    names = "[...document.querySelectorAll('#compare figcaption strong')].map((each) => each.textContent)"
    assert shown.page.evaluate(names) == list(MODELS)
    wait_for(lambda: shown.current() == 3)
    shown.press("j", "3")
    assert shown.page.get_attribute(".cell[data-row='5']", "data-mark") == "star"
    shown.page.select_option("#compare select", "aspect_ratio")
    wait_for(lambda: shown.page.evaluate(names) == ["1:1", "16:9"])
    shown.page.focus("#compare figure >> nth=0")
    shown.press("Enter")
    shown.page.wait_for_selector("#detail[open] dl")
    assert shown.page.get_attribute("#detail .marks", "data-marks-of") == "2"
    shown.press("c")
    shown.page.wait_for_selector("#compare[open]")
    shown.press("Escape")
    assert not shown.page.is_visible("#compare")


# --- what is hostile --------------------------------------------------------------------------------------------------


def test_prompts_labels_and_names_are_text_whatever_they_hold(tmp_path, show):
    root = tmp_path / "out"
    images = [one(text, number=at, labels={f"<b>{at}": text}) for at, text in enumerate(HOSTILE)]
    images.append(one("an awkward name", AWKWARD, number=99))
    make_output(root, images)
    write_page(root)
    shown = show(root, permissions=["clipboard-read", "clipboard-write"])
    shown.page.focus(".cell[data-row='0']")
    shown.press("Enter")
    for at, text in enumerate([*HOSTILE, "an awkward name"]):
        shown.page.wait_for_selector(f"#detail .marks[data-marks-of='{at}']")
        assert shown.page.evaluate("document.querySelector('#detail pre').textContent") == text
        shown.page.click("#detail .copy")
        wait_for(lambda: shown.page.text_content("#detail .copy") == "Copied")
        assert shown.page.evaluate("navigator.clipboard.readText()") == text
        wait_for(lambda: shown.page.evaluate("document.querySelector('#detail .picture img')?.naturalWidth > 0"))
        shown.press("j")
    assert (
        shown.page.evaluate(
            "document.querySelectorAll('#detail b, #filters b, .line script, .line img[onerror]').length"
        )
        == 0
    )
    assert shown.page.get_attribute("#detail a", "href").endswith("/%231%2050%25%3F%26'%22%3Cb%3E%C3%A9%E9%9B%AA.png")
    shown.press("Escape", "/")
    for words, number in {"<script>": 2, "富士山": 1, "'!a0": 1, "زيتون": 1, "медведь": 1}.items():
        shown.page.fill("#search", words)
        shown.counts(number)
    assert shown.page.evaluate("window.harmed") is None
    for file in (root / "gallery" / "data").iterdir():
        assert b"<" not in file.read_bytes()
        assert "\u2028" not in file.read_text("utf-8")


def test_text_from_right_to_left_is_laid_out_so(tmp_path, show):
    root = tmp_path / "out"
    make_output(root, [one("شجرة زيتون عند الغروب"), one("an olive tree at dusk", number=1)])
    write_page(root)
    shown = show(root)
    directions = "[...document.querySelectorAll('.prompt-head span')].map((each) => getComputedStyle(each).direction)"
    wait_for(lambda: shown.page.evaluate(directions) == ["rtl", "ltr"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_of_either_scheme_hides_the_filters_until_they_are_asked_for(small, show, scheme):
    write_page(small)
    shown = show(small, size=(360, 640), color_scheme=scheme)
    assert not shown.page.is_visible("#filters")
    shown.page.click("#filter-button")
    assert shown.page.is_visible("#filters")
    dark = shown.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    back = [
        int(each) for each in re.findall(r"\d+", shown.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    ]
    assert dark is (scheme == "dark") is (sum(back) < 300)
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# --- thumbnails, and whose files these are ----------------------------------------------------------------------------


def thumbnails(root):
    return {path.stem: path.stat().st_size for path in (root / "gallery" / "thumbs").rglob("*.webp")}


def test_a_picture_that_cannot_be_opened_has_a_placeholder(tmp_path, show):
    root = tmp_path / "out"
    make_output(root, [one("good"), one("bad", content=b"no picture"), one("lost", number=2)])
    lost = next(root.glob(f"images/{one('lost').job.id}*"))
    lost.unlink()
    made = gallery(root)
    assert made["unreadable"] == [one("bad").path]
    assert sorted(map(bool, thumbnails(root).values())) == [False, True], "a lost file is tried again"
    assert gallery(root)["unreadable"] == [], "it is not tried again"
    shown = show(root)
    wait_for(lambda: len(shown.page.query_selector_all(".cell.blank")) == 2)


def test_thumbnails_of_images_that_are_gone_are_removed_and_others_stay(small):
    gallery(small)
    before = thumbnails(small)
    stranger = small / "gallery" / "thumbs" / "ab" / "mine.txt"
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_text("mine")
    unused = stranger.with_name(f"{'ab' * 32}.webp")
    unused.write_bytes(b"")
    removed = min(before)
    (small / "gallery" / "thumbs" / removed[:2] / f"{removed}.webp").unlink()
    assert gallery(small, "--where", "aspect_ratio=1:1")["images"] == 6
    assert set(before) - {removed} <= set(thumbnails(small)), "of images that are not shown now too"
    assert stranger.exists()
    assert not unused.exists()


def test_a_page_of_somebody_else_and_a_link_are_left_alone(small, tmp_path):
    (small / "gallery").mkdir()
    (small / "gallery" / "index.html").write_text("my own page")
    done = batchgen("gallery", "any.yaml", "--output", small, cwd=tmp_path)
    assert done.returncode == 2
    assert "is not a page of batchgen. Move it away" in done.stderr
    assert (small / "gallery" / "index.html").read_text() == "my own page"
    shutil.rmtree(small / "gallery")
    (small / "gallery").symlink_to(tmp_path)
    done = batchgen("gallery", "any.yaml", "--output", small, cwd=tmp_path)
    assert done.returncode == 2
    assert "is not a folder of this output" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "8000"], "--port is an option of --serve"),
        (["--where", "mark=good"], "a mark is keep, reject, star or empty"),
        (["--output", "nothing"], "There is no output in nothing to show. First use `batchgen run`"),
    ],
)
def test_a_wrong_command_gets_one_sentence(small, tmp_path, words, sentence):
    done = batchgen("gallery", "any.yaml", "--output", small, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (tmp_path / "nothing").exists()


def test_an_output_without_images_says_so(tmp_path, show):
    make_output(tmp_path / "out", [])
    write_page(tmp_path / "out")
    shown = show(tmp_path / "out")
    assert shown.page.text_content("#count") == "0 images"
    assert "There is no image here yet." in shown.page.text_content("#empty")


def test_an_open_page_notices_that_the_gallery_was_written_again(small, show):
    write_page(small)
    shown = show(small)
    shown.page.evaluate("store.columns.digests['images-0001'] = 'of another time'")
    shown.page.focus(".cell[data-row='0']")
    shown.press("Enter")
    wait_for(lambda: "written again" in (shown.page.text_content("#notice") or ""))


# --- the server ---------------------------------------------------------------------------------------------------


@contextmanager
def served(root):
    process = started("gallery", "any.yaml", "--output", root, "--serve", "--quiet", cwd=root.parent)
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, line + process.stderr.read()
        yield urlsplit(line.split()[-1]), process
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert errors == ""


def asked(url, path, method="GET", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=20)
    try:
        connection.request(
            method, path, body=body, headers={key.replace("_", "-"): text for key, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_server_answers_its_own_page_alone(small):
    (small / "retired").mkdir()
    (small / "retired" / "old.png").write_bytes(b"old")
    (small / "images" / "out.png").symlink_to("/etc/hostname")
    name = matrix_image(0).path
    with served(small) as (url, _):
        token = url.path.split("/")[1]
        assert len(token) >= 32
        own, host = f"http://127.0.0.1:{url.port}", f"127.0.0.1:{url.port}"
        marks = json.dumps([{"sha256": matrix_image(0).sha256, "mark": "keep", "note": None}])

        for path in (name, "retired/old.png", "gallery/index.html", "gallery/data/columns.js", "api/state"):
            assert asked(url, f"/{token}/{path}")[0] == 200, path  # the control of what follows
            assert asked(url, f"/{token[:-1]}x/{path}")[0] == 404, path
            assert asked(url, f"/{path}")[0] == 404, path
            for foreign in ("evil.example", f"evil.example:{url.port}", "127.0.0.1.evil.example", "10.0.0.1"):
                assert asked(url, f"/{token}/{path}", Host=foreign)[0] == 403, foreign
            for foreign in ("http://evil.example", "null", "http://127.0.0.1:1", f"https://{host}"):
                assert asked(url, f"/{token}/{path}", Origin=foreign)[0] == 403, foreign
        assert asked(url, f"/{token}/{name}", Host="localhost")[0] == 200

        for path in (
            "state.sqlite3",
            "index.csv",
            "images/../state.sqlite3",
            "images/%2e%2e/state.sqlite3",
            "images/..%2fstate.sqlite3",
            "gallery/../../../../../../etc/hostname",
            "images//etc/hostname",
            "images/%00",
            "images/out.png",
            "images",
            "images/",
            ".lock",
        ):
            assert asked(url, f"/{token}/{path}")[0] in {403, 404}, path

        where = f"/{token}/api/marks"
        assert asked(url, where, "POST", marks)[0] == 403, "without an origin"
        assert asked(url, where, "POST", marks, Origin="http://evil.example")[0] == 403
        assert asked(url, f"/{'x' * 32}/api/marks", "POST", marks, Origin=own)[0] == 404
        for wrong in ("", "{", "7", "[7]", '[{"sha256": "x", "mark": "keep"}]', marks.replace("keep", "good")):
            assert asked(url, where, "POST", wrong, Origin=own)[0] == 400, wrong
        with reading(small / FILE_NAME) as ledger:
            assert not any(row.mark for row in ledger.index_rows())
        assert asked(url, where, "POST", marks, Origin=own) == (200, b'{"changed": 1}')
        with reading(small / FILE_NAME) as ledger:
            assert [row.mark for row in ledger.index_rows()][:2] == ["keep", ""]
    assert batchgen("verify", "any.yaml", "--output", small, cwd=small.parent).returncode == 1, "of the link alone"
    (small / "images" / "out.png").unlink()
    assert batchgen("verify", "any.yaml", "--output", small, cwd=small.parent).returncode == 0, "the index has the mark"


def test_served_marks_are_stored_at_once_and_new_images_appear(small, show):
    with served(small) as (url, _):
        shown = show(url.geturl())
        shown.page.wait_for_function("() => store.served")
        wait_for(lambda: shown.page.evaluate(LOADED) == 12)  # also of those that were made after the page was open
        shown.page.focus(".cell[data-row='1']")
        shown.press("3")

        def told():
            with reading(small / FILE_NAME) as ledger:
                return {row.sha256: row.mark.value for row in ledger.index_rows() if row.mark}

        wait_for(lambda: told() == {matrix_image(1).sha256: "star"})
        assert shown.page.is_hidden("#save")
        store_marks(small, [NewMark(sha256=matrix_image(2).sha256, mark=Mark.REJECT)])  # by another program
        shown.page.wait_for_selector(".cell[data-row='2'][data-mark=reject]")
        add_image(small, 12)
        shown.counts(13)
        assert shown.current() == 1, "the focus stays"
        wait_for(lambda: shown.page.evaluate("document.querySelector(\".cell[data-row='12'] img\")?.naturalWidth > 0"))


def test_a_server_that_is_stopped_makes_no_more_thumbnails(tmp_path):
    root = tmp_path / "out"
    make_output(root, [matrix_image(number) for number in range(1500)])
    with served(root):
        wait_for(lambda: thumbnails(root))
    assert 0 < len(thumbnails(root)) < 1500


def add_image(root, number):
    """As a run does: the ledger has one more image, and its file is there."""
    other = root.parent / "other"
    make_output(other, [matrix_image(number)])
    shutil.copytree(other / "images", root / "images", dirs_exist_ok=True)
    from batchgen.ledger.store import Ledger

    ledger = Ledger.open(root / FILE_NAME)
    ledger.db.execute("ATTACH ? AS other", (str(other / FILE_NAME),))
    with ledger.transaction():
        for table in ("job", "attempt", "image"):
            ledger.db.execute(f"INSERT INTO main.{table} SELECT * FROM other.{table}")
        ledger.db.execute(f"INSERT INTO main.wanted SELECT {number}, job_id, images FROM other.wanted")
    ledger.close()
