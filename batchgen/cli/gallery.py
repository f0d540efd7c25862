"""`batchgen gallery`: a page to look at the images of an output, to compare and to mark them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.cli import options as common
from batchgen.cli.outcome import header, print_result
from batchgen.errors import CommandError, ExitCode, ReasonCode
from batchgen.formatting import counted
from batchgen.ledger.store import check_not_merged

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.app.gallery import Gallery


EXAMPLES = """\
batchgen gallery spring.yaml
batchgen gallery spring.yaml --serve
batchgen gallery spring.yaml --where mark=keep --where model=kling-v2*
"""


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    common.add_where(parser, "this mark, label.NAME, parameter.NAME, score.NAME>0.5, model …; wildcards; repeatable")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="serve the page on this machine until Ctrl-C: marks are stored at once, and new images of a run appear",
    )
    parser.add_argument("--port", metavar="N", type=common.count, help="port of --serve (default: a free one)")
    common.add_json(parser)
    common.add_logging(parser)


def execute(options: Namespace) -> int:
    """Write the gallery; with --serve, serve it until Ctrl-C or SIGTERM."""
    from batchgen.app.gallery import GalleryWriter  # noqa: PLC0415 - not needed by --help
    from batchgen.cli.progress import Progress  # noqa: PLC0415
    from batchgen.reports.where import Where  # noqa: PLC0415

    if options.port is not None and not options.serve:
        raise CommandError("--port is an option of --serve: add --serve, or leave it out.")
    root = common.find_output(options)
    if options.serve:
        check_not_merged(root)  # marks belong into an output
    writer = GalleryWriter(root, Where.parse(options.where), common.unit_of(options))
    progress = Progress(quiet=options.quiet, log_format=options.log_format)
    gallery = writer.write_page()
    if options.serve:
        import asyncio  # noqa: PLC0415 - only where it is needed

        from batchgen.app.gallery_server import serve  # noqa: PLC0415 - aiohttp costs 250 ms
        from batchgen.app.review import refresh_index  # noqa: PLC0415

        asyncio.run(
            serve(root, writer, gallery, progress, options.port or 0, lambda url: _report_address(options, url))
        )
        refresh_index(root, escape_formulas=common.output_setting(options, "spreadsheet_safe"))
        return ExitCode.OK
    writer.write_thumbnails(gallery, progress)
    if options.json:
        print_result(
            header(ExitCode.OK, ReasonCode.COMPLETE)
            | {
                "page": str(gallery.page),
                "images": gallery.images,
                "thumbnails_made": gallery.thumbnails_made,
                "unreadable": gallery.unreadable,
            }
        )
    elif not options.quiet:
        print("\n".join(_lines(gallery)))
    return ExitCode.OK


def _lines(gallery: Gallery) -> list[str]:
    lines = [f"{counted(gallery.images, 'image')} in {gallery.page}: open it in a browser."]
    if unreadable := gallery.unreadable:
        lines.append(f"No thumbnail of {counted(len(unreadable), 'picture')} that cannot be opened: {unreadable[0]} …")
    return lines


def _report_address(options: Namespace, url: str) -> None:
    if options.json:
        print_result(header(ExitCode.OK, ReasonCode.COMPLETE) | {"url": url})
    else:
        print(f"The gallery is at {url}\nIt is served to this machine alone. Press Ctrl-C to stop.")
