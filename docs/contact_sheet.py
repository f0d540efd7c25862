"""Runs the quickstart and makes docs/images/quickstart.jpg of its images: `python docs/contact_sheet.py`."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, GAP, COLUMNS = 200, 10, 6  # pixels of a row, pixels between images, images in a row


def main() -> None:
    """Run the quickstart in an empty folder and write the sheet."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "batchgen",
            "run",
            str(ROOT / "manifests" / "quickstart.yaml"),
            "--output",
            folder,
        ]
        subprocess.run(command, check=True)
        with (Path(folder) / "index.csv").open(encoding="utf-8", newline="") as file:
            images = [Image.open(Path(folder) / row["file_name"]).convert("RGB") for row in csv.DictReader(file)]
    target = ROOT / "docs" / "images" / "quickstart.jpg"
    target.parent.mkdir(exist_ok=True)
    sheet(images).save(target, quality=85, optimize=True)


def sheet(images: list[Image.Image]) -> Image.Image:
    """All images in rows of equal height, on white."""
    scaled = [image.resize((round(image.width * HEIGHT / image.height), HEIGHT)) for image in images]
    rows = [scaled[start : start + COLUMNS] for start in range(0, len(scaled), COLUMNS)]
    width = max(sum(image.width for image in row) + GAP * (len(row) + 1) for row in rows)
    paper = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) + GAP), "white")
    for number, row in enumerate(rows):
        left = GAP
        for image in row:
            paper.paste(image, (left, GAP + number * (HEIGHT + GAP)))
            left += image.width + GAP
    return paper


if __name__ == "__main__":
    main()
