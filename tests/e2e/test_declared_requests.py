"""What definitions can do besides templates and selectors: tokens that a command prints, signatures, uploads."""

from __future__ import annotations

import hmac
import os
import stat
import sys
from hashlib import sha256

import pytest
from command import batchgen, batchgen_process, killed_at
from installed_plugin import plugin_installed
from output_checks import check_invariant, rows_of
from studio import Studio

from batchgen.catalog.definitions import text_of
from batchgen.sandbox.painter import blank

PROMPTS = ("a fox", "a cat", "a dog", "an owl", "an elk", "a hen")
TOKEN = "token-of-the-vendor-{}"  # by its number


def written(folder, definition, *prompts, more=""):
    (folder / "my.yaml").write_text(definition, encoding="utf-8")
    path = folder / "manifest.yaml"
    path.write_text(
        "version: 1\nname: tried\nprovider: mine\nproviders: {mine: {use: ./my.yaml, limits: {concurrency: 3}}}\n"
        f"{more}matrix: {{prompt: [{', '.join(prompts or PROMPTS)}]}}\n",
        encoding="utf-8",
    )
    return path


def output(folder):
    return folder / "outputs" / "tried"


def holds(folder, text):
    found = [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
    return [path.name for path in found if path.name not in {"token", "count"}]


# --- a command ------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    """A command that prints a new token each time; it counts how often it is run, and its output ends in `end`."""
    script = tmp_path / "token"
    script.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        "runs = pathlib.Path(__file__).with_name('count')\n"
        "count = len(runs.read_text()) if runs.exists() else 0\n"
        "runs.write_text('x' * (count + 1))\n"
        f"print('{TOKEN.format('')}' + str(count))\n"
        "print('a secret of the command', file=sys.stderr)\n"
        "sys.exit(pathlib.Path(__file__).with_name('fails').exists())\n",
        encoding="utf-8",
    )
    script.chmod(0o700)
    return script


def runs(command):
    count = command.with_name("count")
    return len(count.read_text(encoding="utf-8")) if count.exists() else 0


def with_token(*numbers):
    good = [f"Bearer {TOKEN.format(number)}" for number in numbers]
    return lambda headers, *_: headers["Authorization"] in good


def test_a_command_prints_the_token_once_for_many_requests_and_again_when_it_is_refused(tmp_path, command):
    """The first token is refused to the create, whose second try is cut: it is found and billed once."""
    with Studio("cut", allows=with_token(1)) as studio:
        path = written(tmp_path, studio.definition("{command: [./token], for: 50m}"))
        assert batchgen("validate", path, cwd=tmp_path).returncode == 0
        assert batchgen("plan", path, cwd=tmp_path).returncode == 0
        assert runs(command) == 0
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert runs(command) == 2
        assert studio.billed == dict.fromkeys(PROMPTS, 1)
        assert len(check_invariant(output(tmp_path))) == len(PROMPTS)
        assert not holds(tmp_path, TOKEN.format(""))


@pytest.mark.usefixtures("command")
def test_a_token_that_is_refused_again_stops_the_account_and_is_shown_nowhere(tmp_path):
    with Studio(allows=with_token(99)) as studio:
        path = written(tmp_path, studio.definition("{command: [./token], for: 50m}"))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 6, done.stdout + done.stderr
        assert not studio.creates
        assert len(studio.requests) <= 3 * 2 * 2  # of three slots, each twice, and its look-up
        assert TOKEN.format("") not in done.stdout + done.stderr
        assert not holds(tmp_path, TOKEN.format(""))


def test_a_command_that_fails_stops_the_account_before_anything_is_sent(tmp_path, command):
    command.with_name("fails").touch()
    with Studio() as studio:
        path = written(tmp_path, studio.definition("{command: [./token]}"))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 6
        assert "ended with exit code 1" in done.stderr
        assert "secret" not in done.stdout + done.stderr
        assert not studio.requests
        found = batchgen("doctor", path, cwd=tmp_path)
        assert "ended with exit code 1" in found.stdout + found.stderr
        command.with_name("fails").unlink()
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
        assert studio.billed == dict.fromkeys(PROMPTS, 1)


def test_a_command_that_is_not_there_is_said_before_the_run(tmp_path):
    with Studio() as studio:
        path = written(tmp_path, studio.definition("{command: [no-such-program]}"))
        done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "'no-such-program', which is not found" in done.stderr


@pytest.mark.usefixtures("command")
def test_no_shell_reads_the_command(tmp_path):
    with Studio(allows=with_token(0)) as studio:
        path = written(tmp_path, studio.definition("{command: [./token, '; touch shelled', $(touch shelled)]}"))
        assert batchgen("run", path, cwd=tmp_path).returncode == 0
    assert not (tmp_path / "shelled").exists()


def test_a_command_in_a_file_that_others_can_change_is_not_run(tmp_path, command):
    with Studio() as studio:
        path = written(tmp_path, studio.definition("{command: [./token]}"))
        (tmp_path / "my.yaml").chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IWOTH)
        done = batchgen("run", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "can change this file, so the command in it is not run" in done.stderr
    assert runs(command) == 0


@pytest.mark.usefixtures("command")
def test_not_found_proves_nothing_of_what_was_sent_by_an_earlier_run(tmp_path):
    """The command may print another account's token by now: what that one does not have is not sent again."""
    with Studio("cut", allows=lambda _headers, path, _body: "/refs/" not in path) as studio:
        path = written(tmp_path, studio.definition("{command: [./token]}"), "a fox")
        assert batchgen("run", path, cwd=tmp_path).returncode == 6
        assert studio.billed == {"a fox": 1}
        studio.tasks, studio.allows = {}, lambda *_: True
        path = written(tmp_path, studio.definition("{command: [./token]}"))
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        assert studio.billed == dict.fromkeys(PROMPTS[1:], 1)
        assert [row["status"] for row in rows_of(output(tmp_path), "failures.csv")] == ["unknown"]


def test_a_rehearsal_does_not_run_the_command(tmp_path, command):
    text = text_of("runware").replace("auth: {env: RUNWARE_API_KEY}", "auth: {command: [./token]}")
    path = written(tmp_path, text)
    for word in ("run", "doctor", "audit"):
        done = batchgen(word, path, "--provider", "sandbox", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(check_invariant(tmp_path / "outputs" / "tried-sandbox")) == len(PROMPTS)
    assert runs(command) == 0


# --- a signature ----------------------------------------------------------------------------------------------


def is_signed(headers, _path, body):
    """Tencent's own steps, written anew."""
    said = dict(part.split("=", 1) for part in headers["Authorization"].removeprefix("TC3-HMAC-SHA256 ").split(", "))
    key_id, date, service, end = said["Credential"].split("/")
    canonical = f"POST\n/\n\ncontent-type:{headers['Content-Type']}\nhost:{headers['Host']}\n\ncontent-type;host\n"
    hashed = sha256((canonical + sha256(body).hexdigest()).encode()).hexdigest()
    text = f"TC3-HMAC-SHA256\n{headers['X-TC-Timestamp']}\n{date}/{service}/{end}\n{hashed}"
    key = b"TC3a-secret-key"
    for part in (date, service, end):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return key_id == "an-id-of-a-key" and said["Signature"] == hmac.new(key, text.encode(), "sha256").hexdigest()


SIGNED = "{sign: tencent, env: {secret_id: TC_ID, secret_key: TC_KEY}}"


def test_a_package_signs_each_request(tmp_path, monkeypatch):
    plugin_installed(tmp_path, monkeypatch)
    monkeypatch.setenv("TC_ID", "an-id-of-a-key")
    with Studio("cut", allows=is_signed) as studio:
        path = written(tmp_path, studio.definition(SIGNED, **{"get: ": "json: {}\n  post: "}))
        missing = batchgen_process("run", path, cwd=tmp_path)
        assert missing.returncode == 2
        assert "set TC_KEY" in missing.stderr
        assert batchgen_process("validate", path, cwd=tmp_path).returncode == 0
        monkeypatch.setenv("TC_KEY", "another-secret")
        assert batchgen_process("run", path, cwd=tmp_path).returncode == 6
        assert not studio.creates
        monkeypatch.setenv("TC_KEY", "a-secret-key")
        done = batchgen_process("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert studio.billed == dict.fromkeys(PROMPTS, 1)
        assert not holds(tmp_path, "a-secret-key")


def test_a_signer_that_is_not_installed_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TC_ID", "an-id-of-a-key")
    monkeypatch.setenv("TC_KEY", "a-secret-key")
    with Studio() as studio:
        path = written(tmp_path, studio.definition(SIGNED))
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 2
        assert "No installed package provides the signer 'tencent'" in done.stderr
        assert not studio.requests


# --- uploads --------------------------------------------------------------------------------------------------

UPLOAD = """  json: {prompt: "{{ prompt }}", ref: "{{ attempt.id }}", image: "{{ image.uploaded }}"}
  task: id
upload:
  post: /files
  form: {kind: image, file: "{{ file }}"}
  give: url
query:"""
PLAIN = """  json: {prompt: "{{ prompt }}", ref: "{{ attempt.id }}"}
  task: id
query:"""


def with_images(folder, studio, new, *names):
    for side, name in enumerate(names, 320):
        (folder / f"{name}.png").write_bytes(blank((side, 320)))
    images = ", ".join(f"./{name}.png" for name in names)
    text = studio.definition("{env: VENDOR_KEY}", **{PLAIN: new})
    assert new in text
    return written(folder, text, "a fox], image: [" + images)


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", "a-key-of-a-vendor")


@pytest.mark.usefixtures("key")
def test_an_image_is_uploaded_once_and_no_failure_of_an_upload_is_that_of_a_create(tmp_path):
    """The first uploads are cut, refused for now, and failed by the server; then two creates are cut."""
    with Studio("cut", 0, "cut", allows=lambda headers, *_: "a-key" in headers["Authorization"]) as studio:
        studio.upload_troubles = ["cut", 429, 503]
        path = with_images(tmp_path, studio, UPLOAD, "red", "blue")
        path.write_text(path.read_text("utf-8").replace("[a fox]", f"[{', '.join(PROMPTS)}]"), "utf-8")
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(check_invariant(output(tmp_path))) == 2 * len(PROMPTS)
        assert studio.billed == dict.fromkeys(PROMPTS, 2)
        assert len(studio.creates) == 2 * len(PROMPTS)
        contents = [(tmp_path / f"{name}.png").read_bytes() for name in ("red", "blue")]
        assert sorted(data for _, _, data in studio.uploads) == sorted(contents)
        assert {(name.rpartition(".")[2], kind) for name, kind, _ in studio.uploads} == {("png", "image/png")}
        given = {f"stored-{n}": data for n, (_, _, data) in enumerate(studio.uploads, 1)}
        assert {body["image"] for body in studio.creates} == set(given)


@pytest.mark.usefixtures("key")
def test_an_image_that_the_api_does_not_take_ends_its_job_alone(tmp_path):
    with Studio() as studio:
        studio.upload_troubles = [413]
        path = with_images(tmp_path, studio, UPLOAD, "red", "blue")
        path.write_text(path.read_text("utf-8").replace("concurrency: 3", "concurrency: 1"), "utf-8")
        assert batchgen("run", path, cwd=tmp_path).returncode == 1
        (row,) = rows_of(output(tmp_path), "failures.csv")
        assert "does not take this reference image (413)" in row["message"]
        assert len(studio.creates) == 1


@pytest.mark.usefixtures("key")
def test_a_form_of_a_create_holds_the_file(tmp_path):
    new = PLAIN.replace("json:", "form:").replace(' ref: "', ' image: "{{ image.file }}", ref: "')
    with Studio("cut") as studio:
        done = batchgen("run", with_images(tmp_path, studio, new, "red"), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        (body,) = studio.creates
        name, kind, data = body["image"]
        assert (name[-4:], kind, data) == (".png", "image/png", (tmp_path / "red.png").read_bytes())
        assert studio.billed == {"a fox": 1}


@pytest.mark.usefixtures("key")
def test_a_run_that_is_killed_between_uploads_and_creates_pays_once(tmp_path):
    """At two of its steps; with BATCHGEN_ALL_POINTS=9 at each ninth."""

    def made(name):
        (folder := tmp_path / str(name)).mkdir()
        path = with_images(folder, studio, UPLOAD, "red", "blue")
        path.write_text(path.read_text("utf-8").replace("[a fox]", f"[fox {name}, cat {name}]"), "utf-8")
        return path

    stride = int(os.environ.get("BATCHGEN_ALL_POINTS") or 0)
    with Studio("cut") as studio:
        points = len(killed_at(0, made("clean")))
        for point in range(1, points + 1, stride) if stride else (points // 3, points // 2):
            path = made(point)
            killed_at(point, path)
            done = batchgen("run", path, cwd=path.parent)
            assert done.returncode == 0, done.stdout + done.stderr
            assert len(check_invariant(output(path.parent))) == 4
        assert set(studio.billed.values()) == {2}  # of two images each


# --- what costs nothing, and what is left ---------------------------------------------------------------------


def test_what_costs_nothing_is_sent_again_where_nobody_can_be_asked_unless_the_manifest_holds_it(tmp_path):
    for number, more in enumerate(("", "run: {on_unknown: hold}\n")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Studio("cut") as studio:
            text = studio.definition().partition("find:")[0] + "free: true\n"
            path = written(folder, text, more=more)
            planned = batchgen("plan", path, cwd=folder).stdout
            assert ("sent again: its images cost nothing" in planned) is not bool(more)
            assert batchgen("run", path, cwd=folder).returncode == (1 if more else 0)
            assert len(studio.creates) == len(PROMPTS) + (0 if more else 1)
            assert len(check_invariant(output(folder))) == len(PROMPTS) - (1 if more else 0)


def test_the_probe_says_what_is_left(tmp_path):
    with Studio() as studio:
        text = studio.definition() + "probe: {get: /balance/mine, balance: credits}\nprices: {unit: credits}\n"
        done = batchgen("doctor", written(tmp_path, text), cwd=tmp_path)
        assert "ok       balance  12.5 credits" in done.stdout, done.stdout + done.stderr


# --- a list by model and time -----------------------------------------------------------------------------------

LISTED = """\
mark: "{{ attempt.id }}"
list:
  get: /list/{{ model }}
  query: {since: "{{ sent_at }}"}
  items: items
  mark: ref
  task: id
  state: state
  created: at
  next: {query: cursor, from: next}
errors: """


def listed(folder, studio):
    text = studio.definition().replace("  json: {prompt", '  json: {model: "{{ model }}", prompt')
    text = text.replace("models: [one]", "models: [one, two]").replace("[query, find]", "query")
    text = text.partition("find:")[0] + LISTED + text.partition("errors: ")[2]
    path = written(folder, text)
    path.write_text(path.read_text("utf-8").replace("matrix: {", "matrix: {model: [one, two], "), "utf-8")
    return path


def test_a_list_of_one_model_since_the_sending_finds_what_was_lost_and_shows_what_was_not(tmp_path):
    """Of each model one create is taken and cut, and one is lost before."""
    with Studio(0, 0, 0, 0, "cut", "lost", 0, 0, "cut", "lost") as studio:
        path = listed(tmp_path, studio)
        done = batchgen("run", path, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert studio.billed == dict.fromkeys(PROMPTS, 2)
        assert len(studio.creates) == 2 * len(PROMPTS) + 2
        assert len(check_invariant(output(tmp_path))) == 2 * len(PROMPTS)
        assert {model for model, _ in studio.listed} <= {"one", "two"}
        assert all(since for _, since in studio.listed)
        report = batchgen("audit", path, cwd=tmp_path)
        assert report.returncode == 0, report.stdout + report.stderr
        assert {("one", ""), ("two", "")} <= set(studio.listed)


def test_a_list_since_a_time_by_a_clock_that_is_behind_proves_nothing(tmp_path):
    with Studio(0, 0, 0, 0, "cut", "lost") as studio:
        studio.clock_ahead = -7200.0
        assert batchgen("run", listed(tmp_path, studio), cwd=tmp_path).returncode == 1
        assert max(studio.billed.values()) == 2
        assert [row["status"] for row in rows_of(output(tmp_path), "failures.csv")] == ["unknown"] * 2


@pytest.mark.parametrize("name", ["../secret.json", "link.json", "/ABSOLUTE"])
def test_a_definition_sends_no_file_of_another_folder(tmp_path, name):
    (tmp_path / "secret.json").write_text('{"refresh_token": "of-the-user"}', encoding="utf-8")
    (folder := tmp_path / "downloaded").mkdir()
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    name = name.replace("/ABSOLUTE", str(tmp_path / "secret.json"))
    with Studio() as studio:
        text = studio.definition().replace("  json: {prompt", f"  json: {{more: {{from: {name}}}, prompt")
        done = batchgen("run", written(folder, text), cwd=folder)
        assert done.returncode == 2
        assert "in another folder than the definition" in done.stderr
        assert not studio.requests
