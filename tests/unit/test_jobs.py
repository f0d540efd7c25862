from __future__ import annotations

import pytest
from jobs_for_tests import job

from batchgen.jobs import ID_LENGTH, Job, Parameters, Reference, external_id, job_id

KEPT = {
    "a fox": "1crjmjzrnjbxgbmpy5mwp64woj",
    "a fox, second": "1of7gvar7g3cknrq3ps73i7fjd",
    "a fox, 4 of v2-1 at 2k": "1j2eo4ji6xp7cxioqqk3g2m3ia",
    "狐": "1bqhhtj6voolfqueajwb3muri6",
    "me": "1xbnk6nlmdmzcbqv5i7aeusgex",
}


def test_ids_never_change():
    """This table is a promise: a change here makes every user pay again."""
    face = Reference(path="/anywhere/face.jpg", sha256="ab" * 32)
    table = {
        job("a fox").id: KEPT["a fox"],
        job("a fox", repeat=1).id: KEPT["a fox, second"],
        job("a fox", n=4, model="kling-v2-1", resolution="2k").id: KEPT["a fox, 4 of v2-1 at 2k"],
        job("狐", aspect_ratio="1:1", negative_prompt="blurry").id: KEPT["狐"],
        job("me", model="kling-v1-5", image=face, image_reference="face", human_fidelity=0.9).id: KEPT["me"],
    }
    assert {made: kept for made, kept in table.items() if made != kept} == {}


def test_an_id_is_version_and_125_bits_in_letters_that_no_file_system_folds():
    made = job("a fox").id
    assert len(made) == ID_LENGTH
    assert made[0] == "1"
    assert made == made.lower()


@pytest.mark.parametrize(
    "other",
    [
        {"n": 2},
        {"resolution": "2k"},
        {"aspect_ratio": "1:1"},
        {"model": "kling-v2"},
        {"negative_prompt": "x"},
        {"watermark_info": False},
        {"image": Reference(url="https://example.org/a.png")},
    ],
)
def test_every_parameter_is_part_of_the_id(other):
    assert job("a fox", **other).id != job("a fox").id


def test_a_default_written_out_changes_no_id():
    assert job("a fox", model="kling-v1", n=1, resolution="1k", aspect_ratio="16:9").id == job("a fox").id


def test_a_whole_number_is_the_same_number_as_a_float():
    image = Reference(url="https://example.org/a.png")
    assert job(image=image, image_fidelity=1.0).id == job(image=image, image_fidelity=1).id


def test_a_reference_image_counts_by_its_content_not_by_its_place():
    here = Reference(path="/a/face.jpg", sha256="00" * 32)
    there = Reference(path="/b/other.jpg", sha256="00" * 32)
    assert job(image=here).id == job(image=there).id
    assert job(image=here).id != job(image=Reference(path="/a/face.jpg", sha256="11" * 32)).id


def test_a_job_survives_the_ledger_as_it_was():
    asked = job("a fox", n=4, image=Reference(path="/a/f.jpg", sha256="00" * 32), image_fidelity=0.5)
    assert Job.from_json(asked.id, asked.to_json()) == asked


def test_an_external_id_follows_from_job_and_attempt():
    assert external_id(job("a fox").id, 2) == f"bg-{job('a fox').id}-2"


def test_the_digest_of_parameters_and_the_prompt_make_the_id():
    assert job("a fox").id == job_id("a fox", Parameters().digest(), 0)
