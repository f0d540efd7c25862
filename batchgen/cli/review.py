"""`batchgen review`: marks images to keep or to reject, and lists the marks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.app.marks_file import read_marks
from batchgen.app.review import Images, Mark, NewMark, refresh_index, selected_rows, store_marks
from batchgen.cli import options as common
from batchgen.cli.outcome import header, print_result
from batchgen.errors import CommandError, ExitCode, ReasonCode
from batchgen.formatting import counted

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.ledger.records import IndexRow

_ACTIONS = {"reject": Mark.REJECT, "keep": Mark.KEEP, "star": Mark.STAR, "clear": Mark.NONE}
_HELP = {
    "reject": "reject these images: files, patterns such as '*mug*', job ids or sha256; none: those of --where",
    "keep": "keep these images",
    "star": "keep these images, as some of the best",
    "clear": "take the marks and notes of these images away",
}


EXAMPLES = """\
batchgen review spring.yaml --reject images/kling-v2/1x1/mug-*.png --why "the handle is missing"
batchgen review spring.yaml --keep --where label.Category=Animals
batchgen review spring.yaml --from marks.csv
"""


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    for action, about in _HELP.items():
        parser.add_argument(f"--{action}", metavar="FILE", nargs="*", help=about)
    parser.add_argument("--why", "--note", metavar="TEXT", dest="note", help="why, or any note, of the images selected")
    common.add_where(
        parser, "this mark, label.NAME, parameter.NAME, model …, such as mark=reject or 'score.blank.contrast<0.1'"
    )
    parser.add_argument(
        "--from",
        metavar="FILE",
        type=Path,
        dest="file",
        help="marks from a CSV file with the columns sha256 or file_name, and mark, note",
    )
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """Store the marks that are given; without any, list those that there are."""
    root = common.find_output(options)
    rows = selected_rows(root, options.where)
    marks = _marks(options, root, rows)
    changed = store_marks(root, marks) if marks else 0
    shown = not changed or refresh_index(root, escape_formulas=common.output_setting(options, "spreadsheet_safe"))
    if marks:
        rows = selected_rows(root)
    counts = Counter(row.mark for row in rows)
    if options.json:
        listed = [] if marks else [row for row in rows if row.mark or row.note or row.scores]
        print_result(
            {
                **header(ExitCode.OK, ReasonCode.COMPLETE),
                "changed": changed,
                "images": len(rows),
                "marks": {mark.value or "none": counts[mark] for mark in Mark if counts[mark]},
                "listed": [_as_data(row) for row in listed],
            }
        )
    else:
        _print(options, rows, marks=len(marks), changed=changed, shown=shown)
    return ExitCode.OK


def _marks(options: Namespace, root: Path, rows: list[IndexRow]) -> list[NewMark]:
    """What the options ask for. Raises CommandError, and then nothing is written."""
    given = {action: names for action in _ACTIONS if (names := getattr(options, action)) is not None}
    if options.file is not None:
        if given or options.note is not None or options.where:
            raise CommandError("--from takes the marks of a file: give it alone.")
        return read_marks(options.file, root, rows)
    if not given:
        if options.note is None:
            return []
        if not options.where:
            raise CommandError("--note: say of which images, with --where, or with --keep, --reject or --star FILE.")
        return [NewMark(sha256=row.sha256, note=options.note) for row in rows]
    images = Images(root, rows)
    chosen: dict[str, NewMark] = {}
    for action, names in given.items():
        if not names and not options.where:
            raise CommandError(f"--{action}: name files, or select images with --where KEY=VALUE.")
        note = "" if action == "clear" else options.note
        for row in images.named(names) if names else rows:
            mark = NewMark(sha256=row.sha256, mark=_ACTIONS[action], note=note)
            if chosen.setdefault(row.sha256, mark) != mark:
                raise CommandError(f"{row.path} is to have two marks at once. Nothing was changed.")
    return list(chosen.values())


def _as_data(row: IndexRow) -> dict[str, object]:
    return {
        "file_name": row.path,
        "sha256": row.sha256,
        "job_id": row.job.id,
        "mark": row.mark.value,
        "note": row.note,
        "scores": dict(row.scores),
    }


def _print(options: Namespace, rows: list[IndexRow], *, marks: int, changed: int, shown: bool) -> None:
    if marks:
        print(f"{counted(marks, 'image')} marked; {changed} changed.")
        if not shown:
            print("The index shows this when the run that is going ends, or after the next one.")
    else:
        for row in rows:
            if row.mark or row.note:
                print(f"{row.mark.value or '-':<8}{row.path}{f'  {_one_line(row.note)}' if row.note else ''}")
    counts = Counter(row.mark for row in rows)
    words = ", ".join(f"{counts[mark]} {mark.value or 'without a mark'}" for mark in reversed(Mark) if counts[mark])
    print(f"{counted(len(rows), 'image')}{f': {words}' if words else ''}.")
    if rejected := counts[Mark.REJECT]:
        print(f"To make {'it' if rejected == 1 else 'them'} anew: batchgen run {options.manifest} --remake rejected")


def _one_line(text: str) -> str:
    return " ".join(text.split())
