"""A ledger that knows less than the output beside it: nothing is sent, and what is there can be adopted, unpaid."""

from __future__ import annotations

import json
import shutil

import pytest
from command import batchgen, prompts
from output_checks import check_invariant, rows_of
from scripted_gateway import ScriptedGateway

from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.reconcile.unrecorded import check_index_is_known


class Gateway(ScriptedGateway):
    """One that may be sent no id of ours, as AnyAPI is."""

    def accept(self, body):
        return super().accept({"external_task_id": f"bg-{len(self.tasks)}-1"} | body)


ANY = pytest.mark.parametrize("use", ["anyapi", "kapon"])


def written(folder, gateway, number, use, more=""):
    path = folder / "manifest.yaml"
    path.write_text(
        f'version: 1\nname: tried\nprovider: local\nproviders: {{local: {{use: {use}, base_url: "{gateway.base_url}",'
        f" api_key_env: SANDBOX_KEY, visibility_delay: 2, limits: {{concurrency: 9}}}}}}\n{more}{prompts(number)}",
        encoding="utf-8",
    )
    return path


def output(folder):
    return folder / "outputs" / "tried"


def run(path, cwd, *words):
    return batchgen("run", path, *words, cwd=cwd)


def audited(path, cwd, *words):
    done = batchgen("audit", path, "--json", *words, cwd=cwd)
    return done.returncode, json.loads(done.stdout)


def grown_and_set_back(tmp_path, gateway, use, first=2, then=5):
    """The ledger is that of before the last run; all the rest is as that run left it."""
    assert run(written(tmp_path, gateway, first, use), tmp_path).returncode == 0
    shutil.copy(output(tmp_path) / FILE_NAME, tmp_path / "backup")
    path = written(tmp_path, gateway, then, use)
    assert run(path, tmp_path).returncode == 0
    shutil.copy(tmp_path / "backup", output(tmp_path) / FILE_NAME)
    return path


def stopped_with_nothing_sent(done, gateway, creates):
    assert done.returncode == 2, done.stdout + done.stderr
    assert "audit" in done.stderr
    assert "--adopt" in done.stderr
    assert gateway.count("create") == creates


@ANY
@pytest.mark.parametrize("offline", [True, False], ids=["offline", "asking"])
def test_a_ledger_older_than_its_index_stops_the_run_and_is_brought_up_to_date(tmp_path, use, offline):
    with Gateway() as gateway:
        path = grown_and_set_back(tmp_path, gateway, use)
        before = (output(tmp_path) / "index.csv").read_bytes()
        stopped_with_nothing_sent(run(path, tmp_path), gateway, 5)
        assert (output(tmp_path) / "index.csv").read_bytes() == before
        code, data = audited(path, tmp_path, "--adopt", *(["--offline"] if offline else []))
        assert (code, data["restored"]["images"], data["images"]["paid"]) == (0, 3, 5)
        images = gateway.count("image")
        done = run(path, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Nothing to do" in done.stdout
        assert (gateway.count("create"), gateway.count("image")) == (5, images)
        assert (output(tmp_path) / "index.csv").read_bytes() == before
        check_invariant(output(tmp_path))


@ANY
def test_a_ledger_that_is_lost_is_made_anew_from_the_index_and_the_files(tmp_path, use):
    with Gateway() as gateway:
        path = written(tmp_path, gateway, 3, use)
        path.write_text(path.read_text(encoding="utf-8") + "  n: [2]\n", encoding="utf-8")
        assert run(path, tmp_path).returncode == 0
        before = (output(tmp_path) / "index.csv").read_bytes()
        (output(tmp_path) / FILE_NAME).unlink()
        stopped_with_nothing_sent(run(path, tmp_path), gateway, 3)
        assert audited(path, tmp_path, "--adopt", "--offline")[0] == 0
        assert run(path, tmp_path).returncode == 0
        assert gateway.count("create") == 3
        assert (output(tmp_path) / "index.csv").read_bytes() == before


@ANY
def test_a_file_of_the_index_that_is_not_what_its_row_says_is_fetched_again_unpaid(tmp_path, use):
    with Gateway() as gateway:
        path = grown_and_set_back(tmp_path, gateway, use)
        gone, changed = (output(tmp_path) / row["file_name"] for row in rows_of(output(tmp_path))[-2:])
        gone.unlink()
        changed.write_bytes(b"another picture")
        code, data = audited(path, tmp_path, "--adopt", "--offline")
        assert (code, data["images"]["delivered"]) == (1, 3)
        done = run(path, tmp_path)
        assert done.returncode == 0, done.stderr
        assert gateway.count("create") == 5
        assert len(check_invariant(output(tmp_path))) == 5
        assert any(file.read_bytes() == b"another picture" for file in (output(tmp_path) / "retired").rglob("*.png"))


@ANY
def test_an_index_as_old_as_the_ledger_leaves_files_at_the_names_of_jobs_to_be_made(tmp_path, use):
    with Gateway() as gateway:
        assert run(written(tmp_path, gateway, 2, use), tmp_path).returncode == 0
        for name in (FILE_NAME, "index.csv"):
            shutil.copy2(output(tmp_path) / name, tmp_path / name)
        path = written(tmp_path, gateway, 5, use)
        assert run(path, tmp_path).returncode == 0
        for name in (FILE_NAME, "index.csv"):
            shutil.copy2(tmp_path / name, output(tmp_path) / name)
        stopped_with_nothing_sent(run(path, tmp_path), gateway, 5)
        code, data = audited(path, tmp_path, "--adopt")
        assert code == 0, data
        assert data["restored"]["files"] == (3 if use == "anyapi" else 0)
        done = run(path, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert gateway.count("create") == 5
        assert len(check_invariant(output(tmp_path))) == 5


def test_tasks_that_ended_otherwise_in_the_old_ledger_are_placed_too(tmp_path):
    """Failed, held and submitted then; made since."""
    with Gateway() as gateway:
        path = written(tmp_path, gateway, 4, "anyapi", "run: {max_attempts: 3, task_timeout: 1s, grace: 1s}\n")

        def create(call):
            prompt = call.body["prompt"]
            if prompt.endswith("0"):
                return gateway.no(400, 1201)
            return call.cut() if prompt.endswith("1") and call.store() else None

        def query(call):
            if call.task.prompt.endswith("2"):
                return gateway.yes(gateway.view(call.task, links=False) | {"task_status": "processing"})
            return None

        gateway.answers |= {"create": create, "query": query}
        assert run(path, tmp_path).returncode == 1
        shutil.copy(output(tmp_path) / FILE_NAME, tmp_path / "backup")
        gateway.answers.clear()
        assert run(path, tmp_path, "--retry-failed", "--retry-unknown").returncode == 0
        creates = gateway.count("create")
        before = (output(tmp_path) / "index.csv").read_bytes()
        shutil.copy(tmp_path / "backup", output(tmp_path) / FILE_NAME)
        stopped_with_nothing_sent(run(path, tmp_path), gateway, creates)
        code, data = audited(path, tmp_path, "--adopt", "--offline")
        assert (code, data["not_restored"], len(data["unknown"])) == (
            1,
            [],
            1,
        )  # the first send of the one that was held
        assert run(path, tmp_path).returncode == 0
        assert gateway.count("create") == creates
        assert [row["sha256"] for row in rows_of(output(tmp_path))] == [
            line.split(",")[1] for line in before.decode().splitlines()[1:]
        ]


def test_rows_that_nobody_can_place_are_named_with_a_way_to_go_on(tmp_path):
    with Gateway() as gateway:
        path = written(tmp_path, gateway, 2, "anyapi")
        assert run(path, tmp_path).returncode == 0
        index = output(tmp_path) / "index.csv"
        lines = index.read_text(encoding="utf-8").splitlines(keepends=True)
        strange = lines[1].replace(rows_of(output(tmp_path))[0]["job_id"], "1" + "a" * 25)
        index.write_text("".join([*lines, strange]), encoding="utf-8", newline="")
        stopped_with_nothing_sent(run(path, tmp_path), gateway, 2)
        code, data = audited(path, tmp_path, "--adopt", "--offline")
        assert (code, len(data["not_restored"])) == (1, 1)
        index.unlink()
        assert run(path, tmp_path).returncode == 0
        assert gateway.count("create") == 2


def test_an_index_of_the_ledger_s_own_is_not_read(tmp_path, monkeypatch):
    with Gateway() as gateway:
        assert run(written(tmp_path, gateway, 2, "anyapi"), tmp_path).returncode == 0
    monkeypatch.setattr("batchgen.reconcile.unrecorded.unknown_rows", lambda *_: pytest.fail("it was read"))
    ledger = Ledger.open(output(tmp_path) / FILE_NAME)
    check_index_is_known(ledger, output(tmp_path))
    ledger.close()


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_a_ledger_of_a_rehearsal_takes_no_real_image_for_a_painted_one(tmp_path, index):
    """The images of the real run have the names that the rehearsal's had."""
    with Gateway() as gateway:
        path = written(tmp_path, gateway, 3, "kapon")
        rehearsal = ("--provider", "sandbox", "--output", output(tmp_path))
        assert run(path, tmp_path, *rehearsal).returncode == 0
        shutil.copy(output(tmp_path) / FILE_NAME, tmp_path / "backup")
        assert run(path, tmp_path).returncode == 0
        shutil.copy(tmp_path / "backup", output(tmp_path) / FILE_NAME)
        if index == "lost":
            (output(tmp_path) / "index.csv").unlink()
        for _ in range(2):
            stopped_with_nothing_sent(run(path, tmp_path), gateway, 3)
        assert audited(path, tmp_path, "--adopt")[0] == 0
        assert run(path, tmp_path).returncode == 0
        assert gateway.count("create") == 3
        assert {row["provider"] for row in check_invariant(output(tmp_path))} == {"local"}
