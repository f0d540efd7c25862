"""Makes an output in which a million jobs are done, once, in the temporary folder: python million.py FOLDER

It records the ledger's own events in the order of a run. A run checks each file, so the files exist too: sparse files
of 1,024 zero bytes, which take an inode and no space. Their size, hash and modification time match the ledger. `run`
cannot tell this output from one of its own, and skips no check.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import rig

from batchgen.app.load import load_manifest
from batchgen.jobs import ID_VERSION, ImageKey, ImageLink, ReceivedImage, external_id
from batchgen.ledger.events import Accepted, Fetched, Intent, Made
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.matrix.expand import expand
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.jobs import Job
    from batchgen.ledger.events import Event
    from batchgen.manifest.model import Manifest

JOBS = 1_000_000
RATIOS = "[16:9, 9:16, 1:1, 4:3, 3:4, 3:2, 2:3, 21:9]"
_UNREACHABLE = "http://127.0.0.1:9/kling"
_BATCH = 1000
_BYTES = 1024
_SHA256 = hashlib.sha256(bytes(_BYTES)).hexdigest()
_COMPLETE = "complete"  # a file that is written last


def matrix() -> str:
    """125,000 prompts in eight ratios."""
    rows, columns = (", ".join(f"v{i}" for i in range(number)) for number in (1000, 125))
    prompt = '"{{ a }} of {{ b }}"'
    return f"matrix: {{prompt: {prompt}, aspect_ratio: {RATIOS}, vars: {{a: [{rows}], b: [{columns}]}}}}\n"


def ready() -> Path:
    """The folder with the output, made if it is missing; remove it by hand when it is no longer needed."""
    schema = (Path(rig.__file__).parents[2] / "batchgen" / "ledger" / "schema.sql").read_bytes()
    key = hashlib.sha256(schema + ID_VERSION.encode() + matrix().encode() + Path(__file__).read_bytes())
    folder = Path(tempfile.gettempdir()) / f"batchgen-bench-million-{key.hexdigest()[:12]}"
    if not (folder / _COMPLETE).exists():
        print(f"Making an output of {JOBS:,} jobs in {folder}, once; this takes some minutes.", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run([sys.executable, __file__, str(folder)], check=True)
    return folder


def make(folder: Path) -> None:
    """Make the output in a new folder."""
    path = rig.manifest(folder, _UNREACHABLE, matrix())
    manifest = load_manifest(path)
    tree = Tree(folder / "outputs" / rig.NAME)
    tree.prepare()
    ledger = Ledger.open(tree.root / FILE_NAME)
    ledger.set_wanted_jobs(expand(manifest))
    jobs = enumerate(expand(manifest))
    while batch := list(islice(jobs, _BATCH)):
        ledger.record(event for number, job in batch for event in done(number, job, tree, manifest))
    ledger.mark_reconciled(manifest.digest)
    ledger.close()
    usage = rig.launch(folder, path).wait()  # writes the index
    if usage.exit_code:
        raise SystemExit(f"batchgen does not accept the output that was made:\n{usage.printed}")
    os.sync()  # otherwise the measured runs wait for these writes
    (folder / _COMPLETE).touch()


def done(number: int, job: Job, tree: Tree, manifest: Manifest) -> Iterator[Event]:
    """The events of a job, after writing its file."""
    path = manifest.output_path.render(job, 0, ".png")
    mtime_ns = write(tree.root / path)
    at = time.time_ns() // 1_000_000
    yield Intent(
        job=job,
        attempt=1,
        account=manifest.account.name,
        base_url=manifest.account.base_url,
        external_id=external_id(job.id, 1),
        at=at,
        reserved=None,
    )
    yield Accepted(job_id=job.id, attempt=1, task_id=str(number), at=at)
    link = ImageLink(index=0, url=f"{_UNREACHABLE}/images/{number}/0.png")
    yield Made(job_id=job.id, attempt=1, links=(link,), cost=None, at=at)
    image = ReceivedImage(
        sha256=_SHA256, bytes=_BYTES, width=1360, height=768, ext=".png", mtime_ns=mtime_ns, warning=""
    )
    yield Fetched(key=ImageKey(job.id, 1, 0, 0), path=path, image=image, at=at)


def write(path: Path) -> int:
    """Write a file of zeros; its modification time in nanoseconds."""
    name = str(path)
    try:
        file = os.open(name, os.O_CREAT | os.O_WRONLY, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(name, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.truncate(file, _BYTES)
        return os.fstat(file).st_mtime_ns
    finally:
        os.close(file)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
