"""Measures `validate` and `plan` as whole processes; run it by hand: python bench_manifest.py --parti FILE

PartiPrompts (1,632 prompts, a .tsv with the column Prompt) x 8 ratios x 6 models = 78,336 jobs, with a
million jobs, with `rows`, `zip` and `sample`. Each line is compared with a bare Python loop over as many combinations
in the same run, which hashes a text for each, so that figures of different machines can be compared.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = "import hashlib, itertools\nfor i in range({jobs}): hashlib.sha256(b'%d' % i).hexdigest()\n"
PARSED = """
import time, yaml
from pathlib import Path
from batchgen.app.load import load_manifest
file = Path({file!r})
load_manifest(file)
def best(call):
    times = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
text = file.read_text()
bare, ours = best(lambda: yaml.load(text, Loader=yaml.CSafeLoader)), best(lambda: load_manifest(file))
print(f"in one process: checked in {{ours:.3f}} s, CSafeLoader's bare parse {{bare:.3f}} s, ratio {{ours / bare:.2f}}")
"""
RATIOS = "[16:9, 9:16, 1:1, 4:3, 3:4, 3:2, 2:3, 21:9]"
MODELS = "[kling-v1, kling-v1-5, kling-v2, kling-v2-new, kling-v2-1, kling-v3]"
HEAD = "version: 1\nname: bench\nprovider: kling\nmax_jobs: 9000000\n"


def measured(command, folder):
    """Wall-clock and CPU seconds and peak megabytes of one process, and its output."""
    started = os.times().elapsed
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, text=True)
    with process:
        printed = process.stdout.read().strip().split("\n")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    used = usage.ru_utime + usage.ru_stime
    return (os.times().elapsed - started, used), usage.ru_maxrss / 1024, printed


def manifests(parti):
    """Each case: its name, the number of jobs, and the manifest."""
    if parti is not None:
        source = f"{{from: {parti}, column: Prompt}}"
        whole = f"matrix: {{prompt: {source}, aspect_ratio: {RATIOS}, model: {MODELS}}}\n"
        yield "PartiPrompts x 8 x 6", 78_336, HEAD + whole
        rows = f'{{prompt: "{{{{ Prompt }}}}, {{{{ v }}}}", rows: {parti}}}'
        yield (
            "rows and zip",
            78_336,
            HEAD + f"matrix: {{prompt: {rows}, vars: {{v: [a, b]}}, model: {MODELS},\n"
            "  zip: [{aspect_ratio: 16:9, resolution: 2k}, {aspect_ratio: 1:1, resolution: 1k},\n"
            "    {aspect_ratio: 9:16, resolution: 1k}, {aspect_ratio: 4:3, resolution: 1k}]}\n",
        )
        sampled = whole.replace("}\n", ", sample: {count: 5000, seed: 7}}\n")
        yield "sample of 5,000", 78_336, HEAD + sampled
    values = ", ".join(f"v{i}" for i in range(1000))
    for count, jobs in ((100, 100_000), (1000, 1_000_000)):
        words = values if count == 1000 else ", ".join(f"v{i}" for i in range(count))
        many = f'matrix: {{prompt: "{{{{ a }}}} of {{{{ b }}}}", vars: {{a: [{values}], b: [{words}]}}}}\n'
        yield f"{jobs:,} jobs", jobs, HEAD + many
    text = "a quiet harbour at dawn, soft light, long exposure, number"
    plain = "".join(f"    - {text} {i}\n" for i in range(10_000))
    yield "10,000 inline, plain", 10_000, HEAD + "matrix:\n  prompt:\n" + plain
    entries = "".join(f'    - {{prompt: "{text} {i}", id: harbour-{i}, n: 2}}\n' for i in range(10_000))
    yield "10,000 inline, entries", 10_000, HEAD + "matrix:\n  prompt:\n" + entries


def run():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parti", type=Path, help="PartiPrompts, a .tsv; without it some cases are skipped")
    options = parser.parse_args()
    parti = options.parti and options.parti.resolve(strict=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'case':<24}{'command':<10}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}{'bare loop':>11}{'ratio':>8}")
        for number, (case, jobs, text) in enumerate(manifests(parti)):
            file = folder / f"{number}.yaml"
            file.write_text(text, encoding="utf-8")
            (_, bare), _, _ = measured([sys.executable, "-c", BARE.format(jobs=jobs)], folder)
            for command in ("validate", "plan"):
                (clock, used), peak, _ = measured([sys.executable, "-m", "batchgen", command, str(file)], folder)
                figures = f"{clock:>9.2f}{used:>9.2f}{peak:>9.0f}{bare:>11.2f}{used / bare:>8.1f}"
                print(f"{case:<24}{command:<10}{figures}", flush=True)
            if "inline" in case:
                _, _, printed = measured([sys.executable, "-c", PARSED.format(file=str(file))], folder)
                print(f"{'':<24}{printed[-1]}", flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run()
