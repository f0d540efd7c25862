"""Declared APIs: templates, selectors, hosts, what a definition's faults are, and that no answer does harm."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs_for_tests import job as made_job

from batchgen.apis import selectors, values
from batchgen.apis.compiler import compiled
from batchgen.apis.hosts import Hosts
from batchgen.catalog import definitions
from batchgen.catalog.accounts import parse_account
from batchgen.errors import (
    AccountStopped,
    AttemptFailed,
    BatchgenError,
    JobRefused,
    JobRejected,
    NotSent,
    PageReceived,
    RefusedOrTaken,
    TaskNotFound,
    Throttled,
    Unclear,
)
from batchgen.http.client import Answer
from batchgen.manifest.definitions import shipped
from batchgen.providers.base import Secrets, TaskState
from batchgen.providers.declared import DeclaredProvider
from batchgen.providers.declared_answers import marks_of
from batchgen.providers.validated import ValidatedProvider
from batchgen.source import document
from batchgen.templates import TemplateInvalid

ID = "bg-1abcdefghijklmnopqrstuvwxy-1"
KEY = "a-key-of-a-vendor"
TASKS = [name for name in definitions.names() if "query" in shipped(name).settings["definition"]]


WORDS = """id status data errors code images url output taskUUID items results task next polling_url error message
    candidates content parts inlineData finishReason prompt_id queue_running queue_pending detail"""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["success", "u"]),
    lambda child: (
        st.lists(child, max_size=4)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(WORDS.split()),
            child,
            max_size=5,
        )
    ),
    max_leaves=20,
)

# --- templates --------------------------------------------------------------------------------------------------


def made(text, **given):
    return values.rendered(values.read(text), given)


def test_a_value_that_is_one_template_keeps_its_type():
    assert made("{{ n }}", n=3) == 3
    assert made("{{ n }} of {{ n }}", n=3) == "3 of 3"
    assert made("{{ 4 if resolution == '2k' else 1 }}", resolution="2k") == 4
    assert made("{{ resolution | upper }}", resolution="2k") == "2K"
    assert made("{{ attempt.seed }}", attempt_seed=7) == 7


def test_what_is_nothing_leaves_its_key_out():
    body = {"a": values.read("{{ x }}"), "b": [values.read("{{ x }}"), 1], "c": {"d": values.read("{{ x | upper }}")}}
    assert values.rendered(body, {"x": None}) == {"b": [1]}
    assert values.rendered({"a": None, "b": {}, "c": values.read("{{ 'hd' if x }}")}, {"x": None}) == {
        "a": None,
        "b": {},
    }
    assert made("{{ x | default('', true) }}", x=None) == ""


@given(st.text())
def test_inserted_text_is_never_read_as_a_template(text):
    assert made("{{ prompt }}", prompt=text) == text
    assert made("<{{ prompt }}>", prompt=text) == f"<{text}>"
    assert made("{{ prompt | trim }}", prompt=text) == text.strip()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_inserted_text_stays_within_its_step_of_an_address(text):
    address = values.addressed(values.read("/v1/{{ model }}/x", address=True), {"model": text})
    parts = urlsplit(f"https://a.example{address}")
    assert (parts.netloc, parts.query, parts.fragment) == ("a.example", "", "")
    assert parts.path.count("/") == 3
    path = values.addressed(values.read("/v1/{{ model | path }}", address=True), {"model": "a/b c?d#e"})
    assert path == "/v1/a/b%20c%3Fd%23e"


@pytest.mark.parametrize("text", ["{% for a in b %}{% endfor %}", "{{ ().__class__ }}", "{{ a() }}", "{{ a.b }}", "{{"])
def test_what_is_more_than_the_small_templates_is_refused(text):
    with pytest.raises(TemplateInvalid):
        values.read(text)


# --- selectors --------------------------------------------------------------------------------------------------


def test_our_own_functions():
    answer = {"data": {"resultJson": '{"resultUrls": ["u1", "u2"]}'}, "path": "a/b/c", "none": None}
    assert selectors.read("from_json(data.resultJson).resultUrls").of(answer) == ["u1", "u2"]
    assert selectors.read("join('/', split(path, '/')[:2])").of(answer) == "a/b"
    assert selectors.read("from_json(none)").of(answer) is selectors.read("from_json(path)").of(answer) is None


def test_an_expression_that_does_not_fit_gives_nothing():
    assert selectors.read("contains(a, 'x')").of({}) is None
    assert not selectors.read("contains(a, 'x')").holds({"a": 3})
    assert selectors.read("a.b[0].c").of([1, 2]) is None


@given(JSON, st.sampled_from(["id", "data.url", "error.data.message", "data[0].url", "true", "null"]))
def test_names_of_fields_select_what_jmespath_selects(body, text):
    selector = selectors.read(text)
    assert selector.of(body) == replace(selector, path=()).of(body)


@pytest.mark.parametrize("text", ["a[", "", "a ||", "nothing(a)", "a.b | many(c)"])
def test_what_is_no_selector_is_refused(text):
    with pytest.raises(selectors.SelectorInvalid):
        selectors.read(text)


def test_a_word_is_a_short_text_or_a_whole_number():
    word = selectors.read("a").word
    assert [word({"a": a}) for a in ("x ", 7, 7.0, True, 7.5, None, [], {}, "a\nb", "x" * 3000)] == [
        *("x", "7", "7"),
        *[""] * 7,
    ]


# --- hosts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("http://api.example.org/x", "https://api.example.org.evil.org/x", "https://evil.org/https://api.example.org"),
        *("https://api.example.org@evil.org/", "https://evil.org\\@api.example.org/", "https://api.example.org:8443/"),
        *(
            "https://user:key@api.example.org/",
            "//api.example.org/",
            "/x",
            "",
            "https://",
            "https://api.example.org/a b",
        ),
        *(
            "https://api.example.org/#x",
            "https://аpi.example.org/",
            "https://api.example.org:x/",
            "ftp://api.example.org/",
        ),
    ],
)
def test_the_key_goes_to_no_strange_host(url):
    assert not Hosts("https://api.example.org", ["api.eu.example.org"]).allow(url)


def test_the_key_goes_to_the_hosts_of_the_definition():
    hosts = Hosts("https://api.example.org/v1", ["api.eu.example.org", "other.example.org:8443"])
    assert hosts.allow("https://API.example.org:443/v1/x?y=1")
    assert hosts.allow("https://api.eu.example.org/x")
    assert hosts.allow("https://other.example.org:8443/x")


# --- definitions ------------------------------------------------------------------------------------------------

GOOD = """\
api: 1
base_url: https://api.example.org
auth: {env: A_KEY}
models: [one]
mark: "{{ attempt.seed }}"
create:
  post: /v1/tasks
  json: {prompt: "{{ prompt }}", seed: "{{ attempt.seed }}"}
  task: id
query:
  get: /v1/tasks/{{ task }}
  state: status
  states: {done: [ok]}
  images: {url: "images"}
"""


def faults_of(text):
    return [(fault.path, fault.message) for fault in compiled(document.parse(text, "x.yaml").value)[1]]


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ("api: 1", "api: 2", ("api",), "not a version"),
        ("base_url", "base_ur", ("base_ur",), "Unknown key"),
        ("task: id", "task: 'a['", ("create", "task"), "not JMESPath"),
        ("{{ prompt }}", "{{ promt }}", ("create", "json", "prompt"), "no value `promt`"),
        ("{{ prompt }}", "{{ prompt", ("create", "json", "prompt"), "cannot be read"),
        ("  states: {done: [ok]}\n", "", ("query",), "`states` is missing"),
        ("done:", "don:", ("query", "states", "don"), "Unknown key"),
        ('{url: "images"}', "{link: images}", ("query", "images"), "where the images are"),
        ("get: /v1", "get: https://evil.example/v1", ("query", "get"), "at no host"),
        ("auth: {env: A_KEY}", "", (), "where the key is"),
        ("post: /v1/tasks", "get: /v1/tasks", ("create", "json"), "a get neither"),
        ('seed: "{{ attempt.seed }}"', "seed: 1", ("mark",), "does not send this mark"),
        ("task: id", "images: {url: a}", ("query",), "is never used"),
        ("query:", "errors: [{means: refused}]\nquery:", ("errors", 0), "`status` or `when`"),
        ("query:", "errors: [{status: 200, means: refused}]\nquery:", ("errors", 0), "is a yes"),
        ("query:", "errors: [{status: 500, means: again}]\nquery:", ("errors", 0), "paid again"),
        (
            "query:",
            "errors: [{status: 404, step: quer, means: missing}]\nquery:",
            ("errors", 0, "step"),
            "no step `quer`",
        ),
        ("query:", "find: {get: '/x/{{ attempt.id }}', task: id}\nquery:", ("find",), "does not send"),
        ("env: A_KEY", "env: sk-123", (), "never the key"),
        ("  task: id", "  headers: {X-Api-Key: abc}\n  task: id", ("create", "headers", "X-Api-Key"), "never written"),
        ("  task: id", "  headers: {Host: abc}\n  task: id", ("create", "headers", "Host"), "set by batchgen"),
        ("query:", "callback: id\nquery:", ("callback",), "is a mapping"),
        ("seed: ", "u: '{{ callback_url }}', seed: ", ("create",), "where a call names its task"),
        ("  task: id", "  fine: ok\n  task: id", ("create", "fine"), "no row of `errors` reads them"),
        ("  task: id", "  fine: code == 200\n  task: id", ("create", "fine"), "written `200`, with the backticks"),
        ("query:", "callback: {tusk: id}\nquery:", ("callback", "tusk"), "Unknown key"),
        ("query:", "callback: {task: 'a['}\nquery:", ("callback", "task"), "not JMESPath"),
        ("query:", "upload: {post: /f, form: {a: '{{ file }}'}, give: id}\nquery:", ("upload",), "takes two steps"),
        ("seed: ", "i: '{{ image.uploaded }}', seed: ", ("create",), "takes two steps"),
        ("seed: ", "i: '{{ image.file }}', seed: ", ("create",), "whole value of `form`"),
        ("query:", "upload: {post: /f, form: {a: '-{{ file }}'}, give: id}\nquery:", ("upload",), "whole value"),
        ("env: A_KEY", "command: token", ("auth",), "where the key is"),
        ("env: A_KEY", "command: [token], env: A_KEY", ("auth", "env"), "Unknown key"),
        ("env: A_KEY", "sign: tencent, env: {id: sk-1}", (), "never the key"),
        ("query:", "parameters: {steps: {type: integer}}\nquery:", ("parameters", "steps"), "does not send"),
        ("{{ prompt }}", "${prompt}", ("create",), "does not send the prompt"),
        ("/{{ task }}", "", ("query",), "which task"),
        ("https:", "http:", ("base_url",), "without encryption"),
        ("{{ prompt }}", "{{ prompt }} {{ steps }}", ("create", "json", "prompt"), "no value `steps`"),
    ],
)
def test_each_fault_has_its_place_and_a_sentence(old, new, path, said):
    assert faults_of(GOOD) == []
    assert old in GOOD
    found = faults_of(GOOD.replace(old, new, 1))
    assert any(place == path and said in message for place, message in found), found


@pytest.mark.parametrize("name", definitions.names())
def test_each_shipped_definition_is_right_short_and_has_examples_of_each_step_and_row(name):
    text = definitions.text_of(name)
    assert [str(problem) for problem in shipped(name).diagnostics.problems] == []
    lines = [line for line in text.partition("\nexamples:")[0].splitlines() if line.strip() and line.lstrip()[0] != "#"]
    assert len(lines) <= 40
    assert "Source" in text
    raw = document.parse(text, name).value
    assert raw["read"]
    steps = {"create", "query", "result", "find", "list"} & set(raw)
    assert steps <= {example["step"] for example in raw["examples"]}
    rows = compiled(raw)[0].rows
    shown = [(example["step"], example.get("status", 200), example["answer"]) for example in raw["examples"]]
    decided = [next((row for row in rows if row.fits(*answer)), None) for answer in shown]
    assert [row.means for row in rows if row not in decided] == []


# --- what answers mean --------------------------------------------------------------------------------------------


class Client:
    """Answers each request with the next of these (status, body), the last one for ever."""

    def __init__(self, *answers, headers=None):
        self.answers, self.sent, self.headers = list(answers), [], headers or {"Content-Type": "application/json"}

    async def send(self, method, url, **options):
        self.sent.append((method, url, options))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Answer(status=status, headers=self.headers, body=raw)


def provider(name, *answers, **options):
    settings = shipped(name).settings
    if settings["auth"] == "command":  # the real one is not run here
        definition = {**settings["definition"], "auth": {"env": "A_KEY"}}
        settings = {**settings, "auth": "api_key", "api_key_env": "A_KEY", "definition": definition}
    account = parse_account(name, settings)
    client = Client(*answers, **options)
    return DeclaredProvider(account, client, Secrets({account.api_key_env: KEY} if account.api_key_env else {})), client


@pytest.mark.parametrize(
    ("name", "body", "task"),
    [
        ("bfl", {"task_id": "a1", "status": "SUCCESS"}, ("https://api.bfl.ai/v1/get_result?id=a1", "succeeded")),
        ("bfl", {"task_id": None, "id": ["a1"]}, None),
        ("luma", {"id": "l1", "state": "dreaming"}, ("l1", "running")),
        ("luma", {"id": "l1", "state": {"odd": []}}, ("l1", "running")),
        ("luma", {"id": ".."}, None),
        ("replicate", {"id": "p1", "status": "failed"}, ("p1", "failed")),
        ("runware", {"data": [{"taskUUID": "u"}]}, ("u", "succeeded")),
        ("runware", [], None),
        ("fal", {"request_id": "r1", "status": "OK"}, None),
    ],
)
def test_a_callback_names_the_task_as_the_create_does(name, body, task):
    called = ValidatedProvider(provider(name)[0]).parse_callback(body)
    assert (called and (called.id, called.state)) == task


def test_a_callback_names_no_task_where_the_key_may_not_go():
    settings = shipped("bfl").settings
    definition = {**settings["definition"], "callback": {"task": "polling_url"}}
    mine = DeclaredProvider(
        parse_account("bfl", {**settings, "definition": definition}), Client(), Secrets({"BFL_API_KEY": KEY})
    )
    assert mine.parse_callback({"polling_url": "https://api.eu.bfl.ai/v1/x"}).id == "https://api.eu.bfl.ai/v1/x"
    assert mine.parse_callback({"polling_url": "https://evil.example/v1/x"}) is None


def job_of(name):
    settings = shipped(name).settings
    return made_job(model=settings["models"][0], aspect_ratio="1:1")


def outcome(question):
    try:
        return asyncio.run(question)
    except BatchgenError as error:
        return error


NOT_ACCEPTED = (NotSent, Throttled, JobRefused, JobRejected, AttemptFailed, AccountStopped)


@pytest.mark.parametrize("name", definitions.names())
@settings(max_examples=60, deadline=None)
@given(body=JSON | st.binary(max_size=60), status=st.sampled_from([200, 201, 202, 204, 408, 500, 502, 503, 504, 524]))
def test_no_odd_answer_to_a_create_is_taken_for_not_accepted(name, body, status):
    asked, _ = provider(name, (status, body))
    found = outcome(ValidatedProvider(asked).create(job_of(name), ID))
    if isinstance(found, NOT_ACCEPTED):
        assert status < 300
        assert asked._api.means(asked._steps["create"], status, _parsed(body)) or asked._steps["create"].is_blocked(
            _parsed(body)
        )
    else:
        assert isinstance(found, Unclear) or found.id


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=60, deadline=None)
@given(body=JSON | st.binary(max_size=60), status=st.sampled_from([200, 301, 400, 403, 404, 429, 500]))
def test_no_odd_answer_to_a_query_ends_in_anything_but_our_errors(name, body, status):
    asked, _ = provider(name, (status, body))
    task = "https://api.bfl.ai/x" if name == "bfl" else "https://queue.fal.run/a/b/requests/1" if name == "fal" else "7"
    for question in (asked.query(task), *((asked.find(ID),) if asked.can_find else ())):
        found = outcome(question)
        assert isinstance(found, BatchgenError) or found.id
    if asked.can_list:
        asked.expect([ID])
        found = outcome(asked.page(1, 100))
        assert isinstance(found, BatchgenError) or found.tasks is not None


def _parsed(body):
    try:
        return json.loads(body) if isinstance(body, bytes) else json.loads(json.dumps(body))
    except ValueError:
        return None


@pytest.mark.parametrize("name", definitions.names())
@pytest.mark.parametrize("status", [500, 502, 503, 524, 408])
def test_no_row_of_a_shipped_definition_reads_a_failure_of_the_server_as_a_refusal(name, status):
    examples = document.parse(definitions.text_of(name), name).value["examples"]
    for body in [example["answer"] for example in examples if example["gives"].get("means")]:
        asked, _ = provider(name, (status, body))
        assert isinstance(outcome(asked.create(job_of(name), ID)), Unclear)


@pytest.mark.parametrize("name", [name for name in TASKS if provider(name, (200, {}))[0].can_find])
def test_only_the_apis_own_word_is_not_found(name):
    for answer in (
        (404, b"<html>404</html>"),
        (502, b""),
        (200, b""),
        (200, {"data": []}),
        (404, {"error": "Not Found"}),
    ):
        asked, _ = provider(name, answer)
        assert not isinstance(outcome(asked.find(ID)), TaskNotFound), answer


def test_a_task_that_the_queue_has_is_found_running():
    uuid = "8b5e0a5c"
    asked, client = provider("comfyui", (200, {"queue_running": [[0, uuid, {}]], "queue_pending": []}))
    assert isinstance(outcome(asked.find(ID)), BatchgenError)  # another's task: the history is asked, and is odd
    mine = client.sent[1][1].rpartition("/")[2]
    asked, _ = provider("comfyui", (200, {"queue_running": [], "queue_pending": [[1, mine, {}]]}))
    found = outcome(asked.find(ID))
    assert (found.id, found.state) == (mine, TaskState.RUNNING)
    asked, _ = provider("comfyui", (200, {"queue_running": [], "queue_pending": []}), (200, {}))
    assert isinstance(outcome(asked.find(ID)), TaskNotFound)


def test_a_task_of_fal_that_failed_there_has_failed_and_a_gateway_that_fails_says_nothing():
    task, done = "https://queue.fal.run/fal-ai/flux/requests/1", (200, {"status": "COMPLETED"})
    failed = {"detail": "Runner disconnected", "error_type": "runner_disconnected"}
    asked, _ = provider("fal", done, (503, failed))
    assert outcome(asked.query(task)).state is TaskState.FAILED
    for odd in (
        (503, {"detail": "Service unavailable"}),
        (503, b"<html>"),
        (200, {}),
        (202, {"status": "IN_PROGRESS"}),
    ):
        asked, _ = provider("fal", done, odd)
        found = outcome(asked.query(task))
        assert isinstance(found, Unclear) or not found.links
    asked, _ = provider("fal", (503, failed))
    assert isinstance(outcome(asked.create(job_of("fal"), ID)), Unclear)


def test_a_repeated_id_is_looked_for():
    asked, _ = provider("runware", (400, {"errors": [{"code": "conflictTaskUUID"}]}))
    assert isinstance(outcome(asked.create(job_of("runware"), ID)), RefusedOrTaken)


def test_the_answer_to_another_create_is_seen():
    asked, client = provider("runware", (200, {"data": [{"taskUUID": "another"}]}))
    task = outcome(asked.create(job_of("runware"), ID))
    assert not task.may_be(ID)
    mine = json.loads(client.sent[0][2]["body"])[0]["taskUUID"]
    asked, _ = provider("runware", (200, {"data": [{"taskUUID": mine}]}))
    assert outcome(asked.create(job_of("runware"), ID)).external_id == ID


def test_a_list_names_the_attempts_that_are_expected_and_no_others():
    items = [{"request_id": f"r{n}", "endpoint_id": "a/b/c", "json_input": {"seed": n}} for n in (5, None)]
    asked, client = provider("fal", (200, {"items": items, "next_cursor": "Mg=="}), (200, {"items": []}))

    async def pages():
        asked.expect([ID])
        return [await asked.page(number, 100) for number in (1, 2)]

    first, second = asyncio.run(pages())
    assert [task.external_id for task in first.tasks] == ["?5", None]
    assert second.tasks == ()
    assert "cursor=Mg%3D%3D" in client.sent[1][1]
    seed = asked._api.mark.text(marks_of(ID))
    items[0]["json_input"]["seed"] = int(seed)
    asked, _ = provider("fal", (200, {"items": items, "next_cursor": None}))
    asked.expect([ID])
    assert outcome(asked.page(1, 100)).tasks[0].external_id == ID


@pytest.mark.parametrize("status", [400, 404])
def test_a_page_in_place_of_the_api_makes_nothing(status):
    asked, _ = provider("bfl", (status, b"<html>a page</html>"))
    assert isinstance(outcome(asked.create(job_of("bfl"), ID)), PageReceived)


def test_the_key_is_in_its_header_and_nowhere_else():
    asked, client = provider("bfl", (200, {"id": "a", "polling_url": "https://api.eu.bfl.ai/v1/get_result?id=a"}))
    task = outcome(asked.create(job_of("bfl"), ID))
    outcome(asked.query(task.id))
    assert [options["headers"]["x-key"] for _, _, options in client.sent] == [KEY] * 2
    assert KEY not in str([(url, options["body"]) for _, url, options in client.sent])
    asked, client = provider("bfl", (200, {"id": "a", "polling_url": "https://evil.example/v1/get_result?id=a"}))
    assert isinstance(outcome(asked.create(job_of("bfl"), ID)), Unclear)
    assert isinstance(outcome(asked.query("https://evil.example/v1/get_result?id=a")), Unclear)
    assert len(client.sent) == 1
