"""The row on declared APIs: the CPU of the same API by a definition, compared with its protocol in Python."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import rig
from table import Line
from throughput import LATENCY, SLOTS

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

JOBS = 2000
_KLING = """\
api: 1
base_url: {url}
auth: {{env: SANDBOX_KEY}}
models: [kling-v1]
defaults: {{model: kling-v1, aspect_ratio: "1:1"}}
limits: {{concurrency: {slots}}}
create:
  post: /v1/images/generations
  json:
    model: "{{{{ model }}}}"
    prompt: "{{{{ prompt }}}}"
    n: "{{{{ n }}}}"
    aspect_ratio: "{{{{ aspect_ratio }}}}"
    external_task_id: "{{{{ attempt.id }}}}"
  fine: code == `0`
  task: data.task_id
query:
  get: /v1/images/generations/{{{{ task }}}}
  state: data.task_status
  states: {{running: [submitted, processing], done: [succeed], failed: [failed]}}
  images: {{url: "data.task_result.images[].url"}}
find:
  get: /v1/images/generations/{{{{ attempt.id }}}}
  task: data.task_id
"""


def cpu(*, by_definition: bool) -> float:
    """CPU seconds of the whole command; neither reads the list of tasks, so that both send the same requests."""
    with rig.folder() as place, rig.gateway(units=SLOTS, latency=LATENCY) as server:
        path = rig.manifest(place, server.base_url, rig.plain(place, JOBS), limits=f"concurrency: {SLOTS}")
        text = path.read_text(encoding="utf-8")
        if by_definition:
            (place / "my.yaml").write_text(_KLING.format(url=server.base_url, slots=SLOTS), encoding="utf-8")
            begin, end = text.index("providers:"), text.index("\n", text.index("providers:"))
            text = f"{text[:begin]}providers: {{local: {{use: ./my.yaml}}}}{text[end:]}"
        else:
            text = text.replace("use: kapon,", 'use: kapon, lists_tasks: "no",')
        path.write_text(text, encoding="utf-8")
        seen = rig.whole_run(place, server, path)
        if seen.usage.exit_code:
            raise SystemExit(f"The run failed:\n{seen.usage.printed[-2000:]}")
        return seen.usage.cpu


def declared(options: Namespace) -> Iterator[Line]:
    """200 slots of 150 ms, 2,000 jobs of Kling's API: as its protocol in Python, and by a definition."""
    pairs = [(cpu(by_definition=False), cpu(by_definition=True)) for _ in range(options.repeat)]
    ratio = median(ours / python for python, ours in pairs)
    yield Line(
        figure=f"{ratio:.2f} × the Python protocol's CPU",
        aim="≤ 1.1",
        reached=ratio <= 1.1,
        note=f"{median(ours for _, ours in pairs) / JOBS * 1000:.2f} ms a job,"
        f" {median(python for python, _ in pairs) / JOBS * 1000:.2f} in Python",
    )
