"""`report`: its figures against what the gateway billed, its page in a real browser, and hostile text in both."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tracemalloc

import pytest
from command import batchgen, manifest
from playwright.sync_api import sync_playwright

from batchgen.jobs import Job, Parameters, job_id
from batchgen.ledger.report_reader import ReportReader
from batchgen.ledger.store import Ledger, reading

HOSTILE = "<script>window.stolen = 1</script><img src=http://127.0.0.1:9/x onerror=alert(1)> \u202eevil 狐 شمعة"


@pytest.fixture
def made(tmp_path, gateway):
    vars_ = f"  vars: {{product: [mug, {json.dumps(HOSTILE)}]}}\n  model: [kling-v1, kling-v2-1]\n"
    path = manifest(tmp_path, gateway, "matrix:\n  prompt: ['a {{ product }}', 'a forbidden-word']\n" + vars_)
    assert batchgen("run", path, cwd=tmp_path).returncode == 1
    return path


def figures(path, *words):
    done = batchgen("report", path, "--json", *words, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def output(path):
    return path.parent / "outputs" / "tried"


def test_the_figures_are_those_of_the_ledger(made):
    data = figures(made)
    assert (data["ok"], data["page"], data["images"]) == (True, None, 4)
    assert data["jobs"] == {"done": 4, "rejected": 2}
    assert [(row["key"], row["images"], row["attempts"]) for row in data["by_model"]] == [
        ("kling-v1", 2, 3),
        ("kling-v2-1", 2, 3),
    ]
    assert data["total"]["cost"] == [{"amount": "4", "unit": "units"}]
    (label,) = data["by_label"]
    assert (label["label"], {row["key"]: row["images"] for row in label["listed"]}) == (
        "product",
        {"mug": 2, HOSTILE: 2},
    )
    (cause,) = data["failures"]["listed"]
    assert (cause["kind"], cause["code"], cause["jobs"], cause["prompt"]) == ("rejected", "1301", 2, "a forbidden-word")
    assert sum(bar["tasks"] for bar in data["latency"]["histogram"]) == data["latency"]["tasks"] == 4
    assert max(data["slots"]["used"]) > 0


def test_the_page_stands_alone_and_is_no_foreign_file(made):
    done = batchgen("report", made, cwd=made.parent)
    assert (done.returncode, done.stdout) == (0, "The report is outputs/tried/report.html.\n")
    text = (output(made) / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<img|<link|@import|url\(|<[a-z][^>]*(src|href)=", text)
    assert batchgen("verify", made, cwd=made.parent).returncode == 0
    assert batchgen("run", made, cwd=made.parent).returncode == 1
    assert (output(made) / "report.html").read_text(encoding="utf-8") == text
    assert list(output(made).glob(".report*")) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_script_or_a_request(made, scheme):
    batchgen("report", made, cwd=made.parent)
    requests, complaints = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto((output(made) / "report.html").as_uri())
        assert page.evaluate("window.stolen") is None
        assert page.get_by_text("<script>window.stolen").count() == 1  # the label's value, and not its markup
        assert page.locator("svg[role=img]").count() == 2
        assert page.locator("svg .bar rect").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        browser.close()
    assert [url.partition(":")[0] for url in requests] == ["file"]
    assert complaints == []
    assert (brightness(ink) < brightness(paper)) == (scheme == "light")


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_marks_and_checks_are_counted_by_reviewer(made):
    ledger = Ledger.open(output(made) / "state.sqlite3")
    hashes = [row.sha256 for row in ledger.index_rows()]
    rows = [(hashes[0], "blank@1", "reject", "no contrast", "{}", 5), (hashes[0], "", "keep", "my favourite", "{}", 6)]
    ledger.db.executemany("INSERT INTO mark VALUES (?, ?, ?, ?, ?, ?)", rows)
    ledger.close()
    assert figures(made)["verdicts"] == [
        {"reviewer": "", "verdict": "keep", "note": "", "images": 1},
        {"reviewer": "blank@1", "verdict": "reject", "note": "no contrast", "images": 1},
    ]
    batchgen("report", made, cwd=made.parent)
    assert "no contrast" in (output(made) / "report.html").read_text(encoding="utf-8")


def test_since_leaves_out_what_is_older(made):
    assert figures(made, "--since", "24h")["total"]["attempts"] == 6
    none = figures(made, "--since", "2096-01-31T06:00")
    assert (none["total"]["attempts"], none["by_model"], none["slots"]["used"]) == (0, [], [])
    assert batchgen("report", made, "--since", "2096-01-31T06:00", cwd=made.parent).returncode == 0
    done = batchgen("report", made, "--since", "yesterday", cwd=made.parent)
    assert (done.returncode, "24h" in done.stderr) == (2, True)


def test_nothing_else_is_replaced_and_what_cannot_be_written_is_one_sentence(made):
    for target in ("manifest.yaml", "outputs", "no/such/folder.html"):
        before = made.read_bytes()
        done = batchgen("report", made, "--to", target, cwd=made.parent)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert made.read_bytes() == before
    assert batchgen("report", made, "--to", "mine.html", cwd=made.parent).returncode == 0
    assert batchgen("report", made, "--to", "mine.html", cwd=made.parent).returncode == 0


def test_the_plotting_library_leaves_other_imports_alone(made):
    assert batchgen("report", made, cwd=made.parent).returncode == 0
    with pytest.raises(ModuleNotFoundError):  # and no ImportWarning about its finder
        importlib.import_module("no_such_module_anywhere")


def test_without_an_output_or_the_package_there_is_a_sentence(made, monkeypatch, tmp_path):
    done = batchgen("report", made, "--output", tmp_path / "none", cwd=made.parent)
    assert (done.returncode, "batchgen run" in done.stderr) == (2, True)
    monkeypatch.setitem(sys.modules, "pygal", None)
    done = batchgen("report", made, cwd=made.parent)
    assert (done.returncode, "pip install 'batchgen[report]'" in done.stderr) == (2, True)
    assert figures(made)["images"] == 4


# --- figures of a ledger that is written by hand ---------------------------------------------------------------


def ledger_with(path, attempts):
    """A ledger of attempts: (begun at, accepted at, ended at, images) in ms; each job has a label of its own."""
    ledger = Ledger.open(path)
    ledger.db.execute("BEGIN")
    digest = Parameters().digest()
    for number, (begun, accepted, ended, images) in enumerate(attempts):
        id_ = job_id(f"prompt {number}", digest)
        job = Job(id=id_, prompt="p", parameters=Parameters(), prompt_id="p", labels={"row": str(number)})
        ledger.db.execute("INSERT INTO job VALUES (?, 'made', ?, 1, 0, '', '')", (id_, job.to_json()))
        ledger.db.execute(
            "INSERT INTO attempt (job_id, number, account, base_url, external_id, intended_at, accepted_at, ended_at,"
            " images, cost, outcome) VALUES (?, 1, 'kapon', '', ?, ?, ?, ?, ?, 10000, 'made')",
            (id_, id_, begun, accepted, ended, images),
        )
    ledger.db.execute("COMMIT")
    ledger.close()


def test_slots_are_the_mean_of_each_interval(tmp_path):
    ledger_with(tmp_path / "state.sqlite3", [(1000, 1000, 3000, 2), (1500, 1500, 2000, 1), (2500, 2500, 4999, 4)])
    with reading(tmp_path / "state.sqlite3") as ledger:
        reader = ReportReader(ledger.db)
        assert reader.slots(1000, 1000) == [2.5, 4.0, 4.0, 3.996]
        assert reader.latencies() == [(0.5, 1), (2.0, 1), (2.4, 1)]


def test_fifty_thousand_labels_are_added_up_without_memory_for_each(tmp_path):
    ledger_with(tmp_path / "state.sqlite3", [(1000 + i, 1000 + i, 2000 + 2 * i, 1) for i in range(50_000)])
    with reading(tmp_path / "state.sqlite3") as ledger:
        tracemalloc.start()
        reader = ReportReader(ledger.db)
        ((name, totals, values),) = reader.by_label(20)
        assert (name, len(totals), values) == ("row", 20, 50_000)
        assert len(reader.slots(1000, 1000)) == 101
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1_000_000, peak
