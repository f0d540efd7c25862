"""An account that is reached at another address than its definition says: where its requests and its key go."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from batchgen.apis.hosts import Hosts, MovedHosts

HERE = "http://127.0.0.1:8080"
FAL = Hosts("https://queue.fal.run", ["api.fal.ai"])
ADDRESSES = (
    "https://queue.fal.run/fal-ai/flux/requests/1/status",
    "https://api.fal.ai/v1/models/requests/by-endpoint?limit=1&cursor=a%2Fb",
    "HTTPS://API.FAL.AI:443/v1?x=https://api.fal.ai",
    f"{HERE}/fal-ai/flux/requests/1",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_at_a_server_of_this_machine_nothing_leaves_it(address):
    hosts = MovedHosts(FAL, HERE)
    assert hosts.allow(address)
    there, before = urlsplit(hosts.reached(address)), urlsplit(address)
    assert (there.scheme, there.netloc) == ("http", "127.0.0.1:8080")
    assert (there.path, there.query) == (before.path, before.query)


STRANGE = (
    *("https://evil.example/", "http://127.0.0.1:8080@evil.example/", "http://127.0.0.1:80800/", "http://localhost:1/"),
    *("https://queue.fal.run@evil.example/", "https://queue.fal.run.evil.example/", "file:///etc/passwd", "1763800000"),
)


@pytest.mark.parametrize("base_url", [HERE, "https://queue.fal.run", "https://mirror.example/fal"])
@pytest.mark.parametrize("address", STRANGE)
def test_a_strange_address_is_not_allowed(base_url, address):
    assert not MovedHosts(FAL, base_url).allow(address)


def test_a_task_has_the_same_name_wherever_it_is_reached():
    hosts = MovedHosts(FAL, HERE)
    assert hosts.named(f"{HERE}/fal-ai/flux/requests/1") == "https://queue.fal.run/fal-ai/flux/requests/1"
    assert hosts.named("https://queue.fal.run/fal-ai/flux/requests/1") == "https://queue.fal.run/fal-ai/flux/requests/1"
    assert hosts.named("a-plain-id") == "a-plain-id"


def test_another_address_elsewhere_stands_for_the_own_one_alone():
    hosts = MovedHosts(Hosts("https://x.example/api", ["files.x.example"]), "https://mirror.example/x")
    assert hosts.reached("https://x.example/api/v1/task") == "https://mirror.example/x/v1/task"
    assert hosts.reached("https://files.x.example/1") == "https://files.x.example/1"
    assert hosts.named("https://mirror.example/x/v1/task") == "https://x.example/api/v1/task"


def test_an_account_at_its_own_address_is_as_it_was():
    hosts = MovedHosts(FAL, "https://queue.fal.run")
    for address in ADDRESSES[:2]:
        assert hosts.reached(address) == hosts.named(address) == address
