"""The contract of every account profile with its gateway, I: what is sent, byte for byte.

The gateway is the sandbox as that account's; a recorder keeps each request as it came. A profile is added in
provider_cases.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
from io import BytesIO

import pytest
from command import prompts
from jobs_for_tests import job as made_job
from PIL import Image
from provider_cases import FACE_BASE64, ID, asked, bears_its_key, every, with_image
from recorder import Reply

from batchgen.catalog.load import builtin
from batchgen.cli.main import main
from batchgen.jobs import PARAMETER_NAMES, Reference

OURS = {"Host", "Authorization", "Content-Type", "Content-Length", "User-Agent", "Accept", "Accept-Encoding"}
ASKING = {"Cache-Control", "Pragma"}  # of questions: no cache is to answer them
ALONE = {"Connection"}  # of creates that nobody can be asked about: each has a connection of its own


def wanted(case, prompt="a fox", model=0, **parameters):
    """A job with what the account knows of these parameters."""
    fields = builtin().accounts[case.profile].fields
    own = {"aspect_ratio": "1:1"} if "image" not in fields else {}  # its own default
    parameters = own | parameters
    return made_job(
        prompt, model=case.models[model], **{name: value for name, value in parameters.items() if name in fields}
    )


@pytest.fixture
def face(tmp_path):
    path = tmp_path / "face.png"
    Image.new("RGB", (300, 300), "teal").save(path)
    return path


async def sent_for(case, recorder, job, **changes):
    """What the gateway got for this job, and took."""
    async with case.provider(recorder, **changes) as provider:
        task = await provider.create(job, ID)
    assert task.id
    assert recorder.usage()["creates_accepted"] == len(recorder.of("create"))
    return recorder.of("create")[-1]


# --- creates ---------------------------------------------------------------------------------------------------


@every
async def test_a_minimal_job_is_sent_to_the_byte(case):
    with case.recorder() as recorder:
        sent = await sent_for(case, recorder, wanted(case))
    assert f"{sent.method} {sent.target}" == case.create
    assert sent.body.decode() == case.minimal
    assert set(sent.headers) <= OURS | ALONE | case.headers.keys()
    assert ("Connection" in sent.headers) is not (case.asks_by_own_id or case.lists)
    assert case.headers.items() <= sent.headers.items()
    assert bears_its_key(case, sent.headers["Authorization"])
    assert sent.headers["Content-Type"] == "application/json"
    assert sent.headers["User-Agent"].startswith("batchgen/")


@every
async def test_every_parameter_beside_a_negative_prompt_is_sent_to_the_byte(case):
    job = wanted(
        case,
        model=1,
        negative_prompt="blur",
        resolution="2k" if case.image else "1k",
        n=9,
        aspect_ratio="21:9" if case.image else "3:2",
        watermark_info=False,
    )
    with case.recorder() as recorder:
        assert (await sent_for(case, recorder, job)).body.decode() == case.texts


@pytest.mark.parametrize("kind", ["file", "link"])
@with_image
async def test_every_parameter_beside_a_reference_is_sent_to_the_byte(case, face, kind):
    link = "https://example.org/ein%20fuchs.png?a=b&c=d"
    sha256 = hashlib.sha256(face.read_bytes()).hexdigest()
    reference = Reference(path=str(face), sha256=sha256) if kind == "file" else Reference(url=link)
    job = wanted(
        case,
        model=2,
        image=reference,
        image_reference="subject",
        image_fidelity=0.5,
        human_fidelity=0.45,
        aspect_ratio="1:1",
        watermark_info=True,
    )
    expected = base64.b64encode(face.read_bytes()).decode() if kind == "file" else link
    with case.recorder() as recorder:
        sent = await sent_for(case, recorder, job)
    assert sent.body.decode() == case.image.replace(FACE_BASE64, expected)


@with_image
async def test_a_reference_of_megabytes_arrives_whole(case, tmp_path):
    path = tmp_path / "large.bmp.png"
    file = BytesIO()
    Image.effect_noise((1800, 1800), 90).save(file, "PNG", compress_level=0)
    path.write_bytes(file.getvalue())
    assert path.stat().st_size > 2 * 1024 * 1024
    reference = Reference(path=str(path), sha256=hashlib.sha256(file.getvalue()).hexdigest())
    with case.recorder() as recorder:
        sent = await sent_for(case, recorder, made_job(model="kling-v2", image=reference))
    assert base64.b64decode(sent.data["image"], validate=True) == file.getvalue()


@pytest.mark.parametrize(
    "prompt",
    [
        'ein "Fuchs" im Schnee, 30 % \\ 狐狸 🦊',
        "e\u0301 is not \u00e9",
        "a\u200dzero\u00a0width\ttab\nline",
        " spaces  kept ",
    ],
)
@every
async def test_a_prompt_is_sent_as_it_is_written(case, prompt):
    with case.recorder() as recorder:
        sent = await sent_for(case, recorder, wanted(case, prompt, negative_prompt=prompt))
        assert sent.data["prompt"] == sent.data.get("negative_prompt", prompt) == prompt
        assert json.dumps(prompt, ensure_ascii=False).encode() in sent.body
        assert recorder.usage()["tasks"][0]["request"]["prompt"] == prompt


@every
async def test_only_fields_that_the_account_knows_are_sent_and_required_ones_always(case):
    few = {"fields": frozenset({"prompt"}), "required": frozenset({"prompt", "n"})}
    with case.recorder() as recorder:
        recorder.answers["create"] = lambda _: Reply(body=case.taken)
        async with case.provider(recorder, **few) as provider:
            await provider.create(wanted(case, watermark_info=True), ID)
        assert recorder.of("create")[0].data == {"prompt": "a fox", "n": 1}


@every
async def test_the_model_goes_by_the_accounts_own_name(case):
    with case.recorder() as recorder:
        recorder.answers["create"] = lambda _: Reply(body=case.taken)
        async with case.provider(recorder, model_field="model") as provider:
            await provider.create(wanted(case), ID)
        body = recorder.of("create")[0].body.decode()
    assert body == case.minimal.replace('"model_name"', '"model"')


@every
async def test_what_the_account_cannot_be_asked_by_is_not_sent(case):
    fields = builtin().accounts[case.profile].fields
    assert ("external_task_id" in fields) == case.asks_by_own_id == (ID in case.minimal)


# --- questions -------------------------------------------------------------------------------------------------


@asked
async def test_questions_are_a_get_without_a_body(case):
    path = case.create.removeprefix("POST ")
    with case.recorder() as recorder:
        async with case.provider(recorder) as provider:
            task = await provider.create(wanted(case), ID)
            await provider.query(task.id)
            if case.asks_by_own_id:
                assert (await provider.find(ID)).id == task.id
            if case.lists:
                assert [each.id for each in (await provider.page(1, 500)).tasks] == [task.id]
        asked_for = [task.id, *([ID] if case.asks_by_own_id else [])]
        assert [sent.target for sent in recorder.of("query")] == [f"{path}/{name}" for name in asked_for]
        assert [sent.target for sent in recorder.of("list")] == [f"{path}?pageNum=1&pageSize=500"] * case.lists
        for sent in (*recorder.of("query"), *recorder.of("list")):
            assert (sent.method, sent.body) == ("GET", b"")
            assert bears_its_key(case, sent.headers["Authorization"])
            assert set(sent.headers) == OURS - {"Content-Type", "Content-Length"} | ASKING


@asked
async def test_an_id_of_any_signs_stays_one_part_of_the_path(case):
    with case.recorder() as recorder:
        recorder.answers["query"] = lambda _: Reply(body=case.taken)
        async with case.provider(recorder) as provider:
            await provider.query("a/b?c#d %2F ü")
        (sent,) = recorder.of("query")
    assert sent.target == case.create.removeprefix("POST ") + "/a%2Fb%3Fc%23d%20%252F%20%C3%BC"


# --- a whole run -----------------------------------------------------------------------------------------------


@every
def test_no_key_goes_to_an_image_and_every_request_else_bears_it(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in case.keys.items():
        monkeypatch.setenv(name, value)
    with case.recorder() as recorder:
        accounts = json.dumps({"local": case.settings(recorder)})
        path = tmp_path / "manifest.yaml"
        path.write_text(f"version: 1\nname: tried\nprovider: local\nproviders: {accounts}\n{prompts(4)}", "utf-8")
        assert main(["run", str(path)]) == 0, capsys.readouterr().err
        assert len(recorder.of("create")) == 4
        assert len(recorder.of("image")) == (4 if case.asks else 0)  # else they came inside the answers
        for sent in recorder.sent:
            authorization = sent.headers.get("Authorization", "")
            assert bears_its_key(case, authorization) if sent.kind != "image" else not authorization
        ids = [sent.data.get("external_task_id") for sent in recorder.of("create")]
        assert len(set(ids)) == (4 if case.asks_by_own_id else 1)


@every
def test_the_case_covers_every_parameter(case):
    """A parameter that is added later is missed here."""
    known = builtin().accounts[case.profile].fields - {"callback_url"}
    bodies = json.loads(case.texts).keys() | json.loads(case.image or "{}").keys()
    names = {"model_name": "model", "size": "aspect_ratio"}
    assert {names.get(name, name) for name in bodies} == known - ({"resolution"} if "size" in bodies else set())
    if case.image:
        assert known >= set(PARAMETER_NAMES) - {"watermark_info"}
