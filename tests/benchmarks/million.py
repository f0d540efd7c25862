"""An output in which a million jobs are done, made once and kept in the temporary folder: python million.py FOLDER

It is made through the ledger's own events, in the order of a run. The files are there too, for a run looks at
each: 1,024 zero bytes each, as holes, so that they take an inode and no space; size, hash and time of change are
what the ledger says. `run` cannot tell it from an output of its own, and nothing of its checks is left out.
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

from batchgen.jobs import ID_VERSION, ImageFile, ImageLink, external_id
from batchgen.ledger.events import Accepted, Fetched, Intent, Made
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.manifest.load import load_manifest
from batchgen.matrix.expand import expand
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.jobs import Job
    from batchgen.ledger.events import Event
    from batchgen.manifest.model import Manifest

JOBS = 1_000_000
RATIOS = "[16:9, 9:16, 1:1, 4:3, 3:4, 3:2, 2:3, 21:9]"
_NOWHERE = "http://127.0.0.1:9/kling"
_BATCH = 1000
_BYTES = 1024
_SHA256 = hashlib.sha256(bytes(_BYTES)).hexdigest()
_WHOLE = "whole"  # a file that is there when the making came to its end


def matrix() -> str:
    """A thousand times 125 prompts in eight ratios."""
    rows, columns = (", ".join(f"v{i}" for i in range(number)) for number in (1000, 125))
    prompt = '"{{ a }} of {{ b }}"'
    return f"matrix: {{prompt: {prompt}, aspect_ratio: {RATIOS}, vars: {{a: [{rows}], b: [{columns}]}}}}\n"


def ready() -> Path:
    """The folder with the output, made now if it is not there; remove it by hand when it is in the way."""
    schema = (Path(rig.__file__).parents[2] / "batchgen" / "ledger" / "schema.sql").read_bytes()
    key = hashlib.sha256(schema + ID_VERSION.encode() + matrix().encode() + Path(__file__).read_bytes())
    folder = Path(tempfile.gettempdir()) / f"batchgen-bench-million-{key.hexdigest()[:12]}"
    if not (folder / _WHOLE).exists():
        print(f"Making an output of {JOBS:,} jobs in {folder}, once: it takes some minutes.", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run([sys.executable, __file__, str(folder)], check=True)
    return folder


def make(folder: Path) -> None:
    """Fill a new folder."""
    path = rig.manifest(folder, _NOWHERE, matrix())
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
        raise SystemExit(f"The output that was made is not one of batchgen's:\n{usage.printed}")
    os.sync()  # or the runs to be measured wait for what the making has left to write
    (folder / _WHOLE).touch()


def done(number: int, job: Job, tree: Tree, manifest: Manifest) -> Iterator[Event]:
    """What a run records of a job, and its file."""
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
    link = ImageLink(index=0, url=f"{_NOWHERE}/images/{number}/0.png")
    yield Made(job_id=job.id, attempt=1, links=(link,), cost=None, at=at)
    image = ImageFile(index=0, path=path, sha256=_SHA256, bytes=_BYTES, width=1360, height=768)
    yield Fetched(job_id=job.id, attempt=1, image=image, watermarked=False, mtime_ns=mtime_ns, at=at)


def write(path: Path) -> int:
    """A file of zeros; its time of change in nanoseconds."""
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
