"""`batchgen export`: chosen images of an output, in the formats that other programs read."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result
from batchgen.export.request import FORMATS, SHARD_SIZE, Request
from batchgen.formatting import counted

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from batchgen.export.export import Report

_SHOWN = 20  # faults, in text
EXAMPLES = """\
batchgen export spring.yaml --format contact-sheet --to sheet.pdf --where mark=keep
batchgen export spring.yaml --format zip --to spring.zip --names "{prompt_id}-{model}-{index}{ext}"
batchgen export spring.yaml --format csv --to spring.csv
batchgen export data.yaml --format imagefolder --to data/ --where label.Category=Animals --resize 512
batchgen export data.yaml --format parquet --to data/ --split train=0.8,test=0.2 --drop-duplicates
batchgen export data.yaml --format webdataset --to shards/ --encode webp --quality 85 --strip
"""


def configure(parser: ArgumentParser) -> None:
    formats = "".join(f"  {each.name:15}{each.about}\n" for each in FORMATS.values())
    parser.description = f"{parser.description}\n\nformats:\n{formats}"
    common.add_manifest(parser)
    add = parser.add_argument
    add("--format", required=True, choices=FORMATS, metavar="FORMAT", help=f"one of {', '.join(FORMATS)}")
    add("--to", required=True, type=common.folder, metavar="PATH", help="the file or folder to write")
    common.add_where(
        parser,
        "this mark, label.NAME, parameter.NAME, score.CHECK.NAME, model …; also !=, <, <=, >, >=; wildcards; repeatable"
        ". Without a condition on mark, images marked reject are left out",
    )
    add("--split", metavar="NAME=FRACTION,…", default="", help="such as train=0.8,test=0.2; no prompt is in two splits")
    add(
        "--drop-duplicates",
        nargs="?",
        const="sha256",
        default="",
        choices=("sha256", "perceptual"),
        help="export images with the same bytes once; perceptual: also those that look alike",
    )
    add("--names", metavar="TEMPLATE", help="names of the files, with the placeholders of output.path")
    add("--resize", metavar="N", type=_positive, help="shrink images whose longest side has more than N pixels")
    add("--encode", choices=("webp", "jpeg", "png"), help="encode images in this format")
    add("--quality", metavar="1-100", type=_quality, help="of images that are encoded anew (default: 90)")
    add("--embed", action="store_true", help="write prompt, model, parameters, job, time and software into the images")
    add("--strip", action="store_true", help="remove texts, EXIF, XMP, IPTC and C2PA from the images")
    add(
        "--shard-size", metavar="N", type=_positive, default=SHARD_SIZE, help="images in a shard (default: %(default)s)"
    )
    add("--columns", metavar="N", type=_columns, default=4, help="columns of a contact sheet, 1 to 12 (default: 4)")
    add("--font", metavar="FILE", type=Path, action="append", default=[], help="a font for captions; repeatable")
    common.add_json(parser)
    common.add_logging(parser)


def execute(options: Namespace) -> int:
    """0 when all that was selected is exported, 1 when an image is missing, changed or cannot be re-encoded."""
    from batchgen.export.export import export  # noqa: PLC0415 - only this command's run needs it

    root = common.find_output(options)
    request = Request(
        format=FORMATS[options.format],
        to=options.to,
        where=options.where,
        split=options.split,
        drop_duplicates=options.drop_duplicates,
        names=options.names,
        resize=options.resize,
        encode=options.encode,
        quality=options.quality,
        strip=options.strip,
        embed=options.embed,
        shard_size=options.shard_size,
        columns=options.columns,
        fonts=options.font,
    )
    report = export(root, request, _progress(options))
    if options.json:
        print_result(_as_data(report, request))
    else:
        for line in (*report.warnings, *_faults(report)):
            print(line, file=sys.stderr)
        if not options.quiet:
            print(_sentence(report, request))
    return 1 if report.faults else 0


def _progress(options: Namespace) -> Callable[[int, int], None]:
    from batchgen.cli.progress import Progress  # noqa: PLC0415
    from batchgen.engine.counters import Counters  # noqa: PLC0415

    progress = Progress(quiet=options.quiet, log_format=options.log_format)
    counters = Counters()
    shown = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown
        counters.images_done, counters.images_wanted = done, total
        if done == 1:
            progress.on_start(counters)
        if done == total:
            progress.on_end(counters)
        elif time.monotonic() - shown > progress.interval:
            progress.on_progress(counters)
            shown = time.monotonic()

    return show


def _as_data(report: Report, request: Request) -> dict[str, Any]:
    return {
        **checked(ok=not report.faults),
        "format": request.format.name,
        "to": str(request.to),
        "images": report.images,
        "splits": dict(report.splits),
        "files": {"written": report.written, "unchanged": report.unchanged, "removed": report.removed},
        "left_out": {"rejected": report.rejected, "duplicates": report.duplicates},
        "faults": [fault._asdict() for fault in report.faults],
        "running": report.running,
        "warnings": report.warnings,
    }


def _faults(report: Report) -> list[str]:
    if not report.faults:
        return []
    lines = [f"{fault.path}: {fault.why}" for fault in report.faults[:_SHOWN]]
    more = len(report.faults) - _SHOWN
    lines += [f"and {more} more (--json lists all)"] if more > 0 else []
    advice = (
        f"A run is going ({report.running}); export again when it has ended."
        if report.running
        else "Files that are missing or changed are restored, unpaid, by `batchgen run`; then export again."
    )
    return [*lines, f"{counted(len(report.faults), 'image')} could not be exported. {advice}"]


def _sentence(report: Report, request: Request) -> str:
    splits = ", ".join(f"{name} {number}" for name, number in report.splits.items())
    files = f"{counted(report.written, 'file')} written, {report.unchanged} unchanged, {report.removed} removed"
    left_out = [
        f"{counted(number, 'image')} {why}"
        for number, why in ((report.rejected, "marked reject"), (report.duplicates, "like another one"))
        if number
    ]
    more = f" Left out: {', '.join(left_out)}." if left_out else ""
    return f"{counted(report.images, 'image')} in {request.to}{f' ({splits})' if splits else ''}: {files}.{more}"


def _positive(text: str) -> int:
    return _between(text, 1, 1_000_000)


def _quality(text: str) -> int:
    return _between(text, 1, 100)


def _columns(text: str) -> int:
    return _between(text, 1, 12)


def _between(text: str, least: int, most: int) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)
