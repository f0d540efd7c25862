"""Makes workers misbehave as the environment says; Python loads it by its name wherever it is in the path.

`WORKER_FAULTS` is JSON. Of the workers: `log` (a folder: what each was given), `slow` (seconds before a download),
`poison` (jobs whose image ends its worker, as a lack of memory does), `blind` (a server that all links lead to, as a
filtering proxy does), `late` (truncates its file when another has written it), `protocol`. Of the coordinator:
`within`, `grace` (seconds), `tries` (of one image), and two controls that switch a rule off: `trusts` (a worker's
failure counts), `one_name` (all tries have one scratch file).
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path

faults = json.loads(os.environ.get("WORKER_FAULTS", "{}"))


def in_worker():
    from batchgen.http import downloads
    from batchgen.workers import functions

    functions.PROTOCOL = faults.get("protocol", functions.PROTOCOL)
    fetch, download, finish, link = functions.fetch, functions._download, functions.finish_file, downloads._link

    def logged(*arguments):
        if folder := faults.get("log"):
            with Path(folder, str(os.getpid())).open("ab") as file:
                file.write(pickle.dumps(arguments) + repr((arguments, dict(os.environ))).encode())
        time.sleep(faults.get("slow", 0))
        return fetch(*arguments)

    async def deadly(downloader, request, path):
        image = await download(downloader, request, path)
        if any(request.name.startswith(job) for job in faults.get("poison", ())):
            os.kill(os.getpid(), signal.SIGKILL)
        return image

    def late(path, pieces, *, first):
        """Wait until its file is another's, as a stopped process may that goes on."""
        end = time.monotonic() + 2
        while time.monotonic() < end:
            if path.exists() and path.stat().st_size:
                path.open("wb").close()
                time.sleep(1)
                break
        return finish(path, pieces, first=first)

    logged.__qualname__, logged.__module__ = "fetch", functions.__name__
    functions.fetch = logged
    if "poison" in faults:
        functions._download = deadly
    if "late" in faults:
        functions.finish_file = late
    if "blind" in faults:
        downloads._link = lambda _text, base=None: link(faults["blind"], base=base)


def in_coordinator():
    from batchgen.app.image_store import ImageStore
    from batchgen.engine import download, runner
    from batchgen.workers import dispatcher

    if "tries" in faults:
        download.Fetcher.fetch.__kwdefaults__["tries"] = faults["tries"]
    dispatcher.WITHIN_SECONDS = faults.get("within", dispatcher.WITHIN_SECONDS)
    dispatcher.GRACE_SECONDS = faults.get("grace", dispatcher.GRACE_SECONDS)
    if "one_name" in faults:
        dispatcher.token_hex = lambda _size: "same"
        here = ImageStore._fetch_here

        async def to_the_same(self, url, key, base_url, idle_timeout):
            path = self._tree.scratch_path(key)
            self._tree.scratch_path = lambda key: path.with_name("-".join(map(str, key)) + ".same")
            return await here(self, url, key, base_url, idle_timeout)

        ImageStore._fetch_here = to_the_same
    if "trusts" in faults:
        from batchgen import errors

        async def trusting(self, url, key, *, base_url, idle_timeout):
            reach = await self._downloader.reach(base_url)
            name, answer = await self._elsewhere._dispatcher.fetch(key, url, reach, idle_timeout)
            if hasattr(answer, "kind"):
                raise getattr(errors, answer.kind)(answer.message)
            self._tree.take(name, key, answer.bytes)
            return answer

        ImageStore.fetch = trusting
        download._REFUSED_MS = download.GONE_AFTER_MS = runner.GONE_AFTER_MS = -1  # a day has passed


if faults and any("spawn_main" in word for word in sys.orig_argv):
    in_worker()
elif faults and "run" in sys.orig_argv:
    in_coordinator()
