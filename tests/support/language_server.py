"""A YAML language server, as editors run it: JSON-RPC over stdio, spoken just far enough for tests."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

PACKAGE = "yaml-language-server@1.25.0"
_CLIENT = {
    "workspace": {"configuration": True},
    "textDocument": {
        "completion": {"completionItem": {"snippetSupport": False, "documentationFormat": ["markdown"]}},
        "hover": {"contentFormat": ["markdown"]},
    },
}
_SETTINGS = {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}


def installed(folder):
    """The command that starts the server, installed into a folder; skips the test where something is missing for it."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip(f"node and npm are missing; they are needed to install {PACKAGE}")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", str(folder), PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{PACKAGE} is missing: npm could not fetch it within a minute")
    program = folder / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
    if done.returncode or not program.exists():
        pytest.skip(f"{PACKAGE} is missing: npm could not install it: {done.stderr[-200:]}")
    return [node, str(program), "--stdio"]


class LanguageServer:
    """One server and the documents that it was shown."""

    def __init__(self, command, root):
        self._root = root
        self._count = 0
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._ask("initialize", {"processId": None, "rootUri": root.as_uri(), "capabilities": _CLIENT})
        self._send({"method": "initialized", "params": {}})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def diagnose(self, text):
        """The errors that it reports in a document: (line, column, message), counted from 1."""
        _, found = self._open(text)
        return [(d["range"]["start"]["line"] + 1, d["range"]["start"]["character"] + 1, d["message"]) for d in found]

    def complete(self, text):
        """What it offers where `▮` stands: labels with their documentation."""
        found = self._at_mark("textDocument/completion", text)
        items = found["items"] if isinstance(found, dict) else found or []
        return {item["label"]: _plain(item.get("documentation")) for item in items}

    def hover(self, text):
        """What it says of what stands at `▮`."""
        return _plain((self._at_mark("textDocument/hover", text) or {}).get("contents"))

    def _at_mark(self, method, text):
        before = text[: text.index("▮")].split("\n")
        uri, _ = self._open(text.replace("▮", ""))
        position = {"line": len(before) - 1, "character": len(before[-1])}
        return self._ask(method, {"textDocument": {"uri": uri}, "position": position})

    def _open(self, text):
        self._count += 1
        uri = (self._root / f"document-{self._count}.yaml").as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        told = self._until(lambda m: m.get("method") == "textDocument/publishDiagnostics" and m["params"]["uri"] == uri)
        return uri, told["params"]["diagnostics"]

    def _ask(self, method, params):
        self._count += 1
        number = self._count
        self._send({"id": number, "method": method, "params": params})
        return self._until(lambda m: m.get("id") == number and "method" not in m)["result"]

    def _send(self, message):
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        self._process.stdin.flush()

    def _until(self, is_it):
        while True:
            message = self._receive()
            if "method" in message and "id" in message:  # the server asks for its settings
                items = message.get("params", {}).get("items", []) if "configuration" in message["method"] else []
                answer = [_SETTINGS if item.get("section") == "yaml" else None for item in items]
                self._send({"id": message["id"], "result": answer or None})
            elif is_it(message):
                return message

    def _receive(self):
        size = 0
        while line := self._process.stdout.readline().strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        assert size, "the language server ended"
        return json.loads(self._process.stdout.read(size))


def _plain(documentation):
    if isinstance(documentation, dict):
        documentation = documentation["value"]
    return (documentation or "").replace("\\", "")
