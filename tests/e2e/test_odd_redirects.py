"""A Location header may hold any bytes: what is refused is a sentence about one image, and no defect."""

from __future__ import annotations

import json
import re

from command import batchgen, prompts
from output_checks import rows_of
from raw_server import Line, RawServer, answer
from scripted_gateway import ScriptedGateway

LOCATIONS = (
    b"http://\xff\xfe/a.png",
    b"\xed\xa0\x80://x",
    b"http://127.0.0.1:port\xff/",
    b"/a\xff.png?\xc3",
    b"http://[::\xff]/",
    b"ftp://\xff/" + b"\xff" * 4000,
    b"http://xn--\xff.example/",
    b"//\xf0\x9f",
    b"\xff" * 100,
)


def test_a_redirect_to_bytes_that_are_no_text_ends_in_a_sentence(tmp_path):
    followed, numbers = set(), {}

    def serve(line: Line):
        while request := line.request():
            first = re.match(rb"GET /first-(\d+)\.png ", request)
            number = int(first[1]) if first else 3  # which comes back here
            followed.add(number)
            head = b"\r\nLocation: " + LOCATIONS[number] + b"\r\n\r\n"
            line.say(answer(b"", "302 Found").replace(b"\r\n\r\n", head))

    with RawServer(serve) as images, ScriptedGateway(latency=0) as gateway:

        def elsewhere(call):
            number = numbers.setdefault(call.task.id, len(numbers))
            links = {"images": [{"index": 0, "url": f"{images.origin}/first-{number}.png"}]}
            return call.gateway.yes(call.gateway.view(call.task, links=False) | {"task_result": links})

        gateway.answers["query"] = elsewhere
        path = tmp_path / "manifest.yaml"
        own = {"use": "kapon", "base_url": gateway.base_url, "api_key_env": "SANDBOX_KEY", "lists_tasks": "no"}
        path.write_text(
            f"version: 1\nname: tried\nprovider: local\nproviders: {json.dumps({'local': own})}\n"
            f"{prompts(len(LOCATIONS))}",
            encoding="utf-8",
        )
        done = batchgen("run", path, "--json", cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert "defect" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert followed == set(range(len(LOCATIONS)))
        assert gateway.count("create") == len(LOCATIONS)
        assert rows_of(tmp_path / "outputs" / "tried") == []
