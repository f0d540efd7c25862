"""Runs the real `validate` on random and mutated YAML: `python tests/support/fuzz_manifest.py --seconds 180`.

A worker runs the command's own `main` on one text after the other; its parent sees it crash, hang (10 s) or
outgrow its memory (1 GB), keeps the text that did it, and starts another. Any exit code but 0 and 2, and
any traceback, is a finding. Ends with 1 when there is any. The same `--seed` makes the same texts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

HERE = Path(__file__).parents[1] / "cases"
TIMEOUT = 10  # seconds for one text
MEMORY = 1 << 30  # bytes
WORDS = [
    "prompt: ", "rows: ", "where: ", "zip: ", "sample: ", "count: ", "seed: ", "vars: ", "from: ", "column: ", "id: ",
    "name: ", "model: ", "n: ", "aspect_ratio: ", "matrix: ", "include: ", "exclude: ", "defaults: ", "repeat: ",
    "{", "}", "[", "]", ", ", ": ", "- ", "\n", "\n  ", "\n    - ", "~", '"', "'", "#", "|", ">", "&a ", "*a", "<<: *a",
    "!!int ", "? ", "%YAML 1.1\n", "---\n", "...\n", "\t", "\r", "\x00", "\x85", "\u2028", "\ufeff", "é", "🦊", "\x7f",
    "{{ name }}", "{{ x }}", "{% if x %}", "{% endif %}", "{{ x|upper }}", "{{ x.y }}", "{{", "}}", "{#", "16:9", "1:1",
    "0", "-1", "1e400", ".nan", ".inf", "99999999999999999999", "0o17", "0x1F", "2026-01-01", "no", "null", "true",
    "prompts/products.csv", "prompts/two.csv", "prompts/things.jsonl", "prompts/list.yaml", "refs/good.png",
    "/dev/zero", "..", "https://e.org/a.png", "kling-v1-5", "subject", "{index}{ext}", "{block}", "a*", "*" * 40,
    "a" * 300,
]  # fmt: skip


def texts(chance):
    """An endless stream of texts: mutated case files, random sequences of words, and random bytes."""
    wrong = [file.read_bytes() for file in sorted(HERE.glob("invalid/*.yaml")) if file.stat().st_size < 6000]
    right = [file.read_bytes() for file in sorted(HERE.glob("valid/*.yaml"))]
    seeds = wrong + right * (len(wrong) // len(right))
    head = b"version: 1\nname: x\nprovider: sandbox\n"
    while True:
        kind = chance.randrange(10)
        if kind < 6:
            data = chance.choice(seeds)
            for _ in range(chance.choice([1, 1, 2, 3, 8, 30])):
                data = changed(data, seeds, chance)
        elif kind < 8:
            data = head + "".join(chance.choices(WORDS, k=chance.randint(1, 60))).encode("utf-8", "surrogatepass")
        elif kind == 8:
            nested = chance.choice([b"[", b"{a: ", b"- ", b"? ", b"[{x: ", b"&a [", b"{{ x"])
            data = head + b"matrix: " + nested * chance.choice([10, 100, 5000])
        else:
            data = chance.randbytes(chance.randint(0, 400))
        yield data


def changed(data, seeds, chance):
    """One mutation of a text, of bytes, words or lines."""
    at, kind = chance.randrange(len(data) + 1), chance.randrange(6)
    if kind == 0:
        return data[:at] + chance.choice(WORDS).encode() + data[at:]
    if kind == 1:
        return data[:at] + data[at + chance.randint(1, 20) :]
    if kind == 2 and data:
        at %= len(data)
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if kind == 3:
        lines = data.split(b"\n")
        i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
        return b"\n".join(lines)
    if kind == 4:
        lines = data.split(b"\n")
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(chance.choice(seeds).split(b"\n")))
        return b"\n".join(lines)
    begin = chance.randrange(len(data) + 1)
    return data[:at] + data[begin : begin + chance.randint(1, 200)] + data[at:]


def work(folder, seed, seconds):
    """Run texts until the time is over; a line of JSON for each on stdout."""
    from batchgen.cli.main import main

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    file = folder / "manifest.yaml"
    end = time.monotonic() + seconds
    chance = random.Random(seed)
    for data in texts(chance):
        if time.monotonic() > end:
            return
        file.write_bytes(data)
        signal.alarm(TIMEOUT)
        began = time.monotonic()
        errors, output = io.StringIO(), io.StringIO()
        with redirect_stderr(errors), redirect_stdout(output):
            code = main(["validate", "--json", str(file)] if chance.random() < 0.3 else ["validate", str(file)])
        taken = time.monotonic() - began
        signal.alarm(0)
        bad = code not in {0, 2} or "Traceback" in errors.getvalue() or not (errors.getvalue() + output.getvalue())
        if bad:
            kept = folder / f"finding-{seed}-{time.monotonic_ns()}.yaml"
            shutil.copy(file, kept)
        result = {
            "code": code,
            "seconds": round(taken, 4),
            "bad": bad,
            "output": errors.getvalue()[-300:] if bad else "",
        }
        print(json.dumps(result), flush=True)


def report(folder, seed, seconds):
    """Start workers one after the other until the time is over, and say what came of it."""
    codes: Counter[int] = Counter()
    findings, slowest, number = [], 0.0, 0
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0.5:
        command = [
            sys.executable,
            __file__,
            "--worker",
            str(folder),
            "--seed",
            str(seed + number),
            "--seconds",
            f"{left}",
        ]
        environment = {**os.environ, "BATCHGEN_TRACEBACK": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
            for line in worker.stdout:
                result = json.loads(line)
                codes[result["code"]] += 1
                slowest = max(slowest, result["seconds"])
                if result["bad"]:
                    findings.append(result)
        if worker.returncode:
            kept = folder / f"ended-{number}.yaml"
            shutil.copy(folder / "manifest.yaml", kept)
            findings.append({"worker ended with": worker.returncode, "text": str(kept)})
        number += 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    total = codes.total()
    print(f"{total:,} texts in {seconds:.0f} s ({total / seconds:.0f} a second), {number} worker(s)")
    print(f"exit 0: {codes[0]:,}, exit 2: {codes[2]:,}; slowest {slowest:.2f} s; peak {peak:.0f} MB")
    print(f"findings: {len(findings)}")
    for finding in findings[:20]:
        print(" ", finding)
    return 1 if findings else 0


def run():
    """Read the arguments; 0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.seed, options.seconds)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="fuzz-manifest-"))
    for part in ("prompts", "refs"):
        shutil.copytree(HERE / "invalid" / part, folder / part)
    shutil.copytree(HERE / "valid" / "prompts", folder / "prompts", dirs_exist_ok=True)
    print(f"texts that find something are kept in {folder}")
    return report(folder, options.seed, options.seconds)


if __name__ == "__main__":
    sys.exit(run())
