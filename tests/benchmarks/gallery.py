"""The gallery of 100,000 images in Chromium: time to open, memory of the page, frames while it is scrolled.

`python tests/benchmarks/gallery.py [IMAGES] [FOLDER]`; an output in FOLDER is used again. Needs playwright and
/usr/bin/chromium. The thumbnails are links to a few files: making them is measured on a hundred.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from large_output import Made, make_output, matrix_image, matrix_job
from playwright.sync_api import sync_playwright

from batchgen.app.gallery import GalleryWriter
from batchgen.app.observer import Observer
from batchgen.reports.gallery.thumbnails import make_thumbnails, thumbnail_path
from batchgen.reports.where import Where

_KINDS = 64  # different pictures
_FRAMES = """() => new Promise((resolve) => {
  const view = document.getElementById("view"), gaps = [];
  let before = performance.now(), frames = 0;
  const step = (now) => {
    gaps.push(now - before);
    before = now;
    view.scrollTop += SPEED;
    if (++frames < 300) requestAnimationFrame(step);
    else resolve(gaps.slice(5));
  };
  requestAnimationFrame(step);
})"""


def output(root: Path, number: int) -> None:
    words = [
        "a",
        "quiet",
        "harbour",
        "at",
        "dawn,",
        "gulls",
        "over",
        "wet",
        "slate",
        "roofs,",
        "long",
        "lens,",
        "soft",
        "light",
    ]
    kinds = [matrix_image(at) for at in range(_KINDS)]

    def text(at: int) -> str:
        return f"{' '.join(words[(at + i) % len(words)] for i in range(18))}, take {at}"

    def image(at: int) -> Made:
        made = matrix_job(at, text)
        return kinds[at % _KINDS]._replace(
            job=made,
            path=f"images/{made.parameters.model}/{made.id}.png",
            sha256=hashlib.sha256(str(at).encode()).hexdigest(),
            cost=at,
        )

    make_output(root, [image(at) for at in range(number)], write_files=False)
    for at, like in enumerate(kinds):
        (root / f"images/{at}.png").write_bytes(like.content)


def link_thumbnails(root: Path, number: int) -> float:
    """Returns the seconds that a thumbnail takes."""
    folder = root / "gallery" / "thumbs"
    kinds = {hashlib.sha256(str(at).encode()).hexdigest(): f"images/{at}.png" for at in range(_KINDS)}
    began = time.monotonic()
    make_thumbnails(root, folder, kinds, lambda _: None)
    took = (time.monotonic() - began) / len(kinds)
    sources = [thumbnail_path(folder, sha256) for sha256 in kinds]
    for at in range(_KINDS, number):
        path = thumbnail_path(folder, hashlib.sha256(str(at).encode()).hexdigest())
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(sources[at % _KINDS])
    return took


def measure(page_file: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("pageerror", lambda error: print("error:", error))
        for attempt in range(3):
            began = time.monotonic()
            page.goto(page_file.resolve().as_uri(), wait_until="commit")
            page.wait_for_selector(".cell")
            seen = time.monotonic()
            while not page.evaluate("[...document.querySelectorAll('.cell img')].slice(0, 8).every((i) => i.complete)"):
                page.wait_for_timeout(5)
            done = time.monotonic()
            print(f"open {attempt + 1}: first cells after {seen - began:.2f} s, thumbnails {done - began:.2f} s")
        session = page.context.new_cdp_session(page)
        session.send("HeapProfiler.collectGarbage")
        for layout in ("grid", "wall"):
            page.click(f"#as-{layout}")
            for name, speed in (("slow", 15), ("fast", 120), ("flung", 2500)):
                gaps = sorted(page.evaluate(_FRAMES.replace("SPEED", str(speed))))
                late = sum(gap > 25 for gap in gaps)
                print(
                    f"{layout}, {name} ({speed} px a frame): {1000 / statistics.mean(gaps):.0f} frames/s,"
                    f" median {statistics.median(gaps):.1f} ms, 99% {gaps[int(len(gaps) * 0.99)]:.1f} ms,"
                    f" worst {gaps[-1]:.1f} ms, {late} of {len(gaps)} late"
                )
        began = time.monotonic()
        page.fill("#search", "take 77")
        page.wait_for_selector("#count:has-text(' of ')")
        print(f"search of all prompts: {time.monotonic() - began:.2f} s")
        began = time.monotonic()
        page.fill("#search", "")
        page.wait_for_selector("#count:not(:has-text(' of '))")
        page.check("input[name=axis-0] >> nth=1")
        page.wait_for_selector("#count:has-text(' of ')")
        print(f"cleared, and filtered by a model: {time.monotonic() - began:.2f} s")
        session.send("HeapProfiler.collectGarbage")
        print(f"JavaScript heap: {page.evaluate('performance.memory.usedJSHeapSize') / 1e6:.0f} MB")
        browser.close()


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()) / f"of-{number}"
    if not folder.exists():
        output(folder, number)
    writer = GalleryWriter(folder, Where.parse([]), "units")
    began = time.monotonic()
    gallery = writer.write_page()
    data = [path.stat().st_size for path in (folder / "gallery" / "data").iterdir()]
    print(f"{gallery.images} images: data written in {time.monotonic() - began:.1f} s, {sum(data) / 1e6:.1f} MB")
    print(f"columns.js: {(folder / 'gallery/data/columns.js').stat().st_size / 1e6:.1f} MB, {len(data)} files")
    if not (folder / "gallery" / "thumbs").exists():
        print(
            f"a thumbnail of a small picture: {1000 * link_thumbnails(folder, number):.1f} ms ({os.cpu_count()} cores)"
        )
    began = time.monotonic()
    writer.write_thumbnails(gallery, Observer())
    print(f"all thumbnails there: looked through in {time.monotonic() - began:.1f} s")
    measure(gallery.page)


if __name__ == "__main__":
    main()
