"""A link is followed to public addresses only, and it is the address connected to that counts."""

from __future__ import annotations

import gzip
import socket
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from batchgen.errors import ImageBroken, LinkRefused
from batchgen.http import downloads, network_policy
from batchgen.http.decompression import decompressed
from batchgen.http.downloads import Downloader, open_downloader
from batchgen.http.network_policy import GatewayResolver, PublicOnlyResolver, is_private_host, is_public

PUBLIC = ("8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8")
INSIDE = (
    "127.0.0.1",
    "127.8.8.8",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",  # a provider's own (CGNAT)
    "169.254.169.254",  # where clouds tell their machines' secrets
    "0.0.0.0",  # noqa: S104 - an address like others
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "192.0.2.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "::ffff:7f00:1",
    "::127.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "64:ff9b:1::808:808",  # a network's own NAT64 (RFC 8215)
    "3fff::1",
    "3fff:fff:ffff::1",
    "5f00::1",  # segment routing (RFC 9602)
    "100:0:0:1::1",
    "4000::1",  # given out to nobody
)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_that_anybody_reaches_is_public(address):
    assert is_public(address)
    assert not is_private_host(f"[{address}]" if ":" in address else address)


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_of_this_machine_or_a_network_of_its_own_is_not(address):
    assert not is_public(address)
    assert is_private_host(address)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1.", "[::1]"])
def test_a_name_of_this_machine_is_inside_without_being_looked_up(host):
    assert is_private_host(host)


@pytest.mark.parametrize("host", ["images.example", "10.example", "localhost.example", "xn--9ca.example", ""])
def test_other_names_are_for_the_resolver(host):
    assert not is_private_host(host)


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0177.0.0.1", "0x7f.0.0.1", "1.2.3.4.5", "a.0x7f", ":"])
def test_a_number_that_is_no_address_is_neither(host):
    with pytest.raises(ValueError, match="does not appear"):
        is_private_host(host)


def test_what_a_local_proxy_answers_in_place_of_every_address_is_no_private_one():
    assert is_public("198.18.0.5", of_name=True)
    assert is_private_host("198.18.0.5")


# --- names: the resolver is the only part that is not real ----------------------------------------------------


@pytest.fixture
def names(monkeypatch):
    """A table of names and their addresses, in place of the network's; each look-up is counted."""
    table, asked = {}, []
    real = socket.getaddrinfo

    def look_up(host, port, *_args, **_more):
        asked.append(host)
        if callable(found := table.get(host, [host])):
            found = found()
        return [each for address in found for each in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(downloads, "usable_proxy", lambda _: None)
    table["asked"] = asked
    return table


class Host:
    """An image host on loopback."""

    def __init__(self, body=b"x" * 1000, **headers):
        self.body = body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.requests = []
        self.connections = set()

    @asynccontextmanager
    async def __call__(self):
        async def answer(request):
            self.requests.append(request)
            self.connections.add(request.transport.get_extra_info("peername"))
            return web.Response(body=self.body, headers=self.headers)

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
        await runner.cleanup()


async def fetched(opened: Downloader, url, base_url):
    async with opened.image(url, base_url=base_url) as body:
        return b"".join([piece async for piece in body])


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1"])
async def test_a_name_that_resolves_to_a_private_address_is_refused_by_both(names, address):
    names["images.test"] = [address]
    host = Host()
    async with host() as port, open_downloader(4, GatewayResolver()) as opened:
        with pytest.raises(LinkRefused, match=r"images\.test \(.*\) is on this machine or in a private network"):
            await fetched(opened, f"http://images.test:{port}/x", "https://8.8.8.8/kling")
    assert host.requests == []


async def test_of_several_addresses_only_public_ones_are_connected_to(names):
    names["images.test"] = ["127.0.0.1", "8.8.8.8", "::1"]
    assert [each["host"] for each in await PublicOnlyResolver().resolve("images.test", 80)] == ["8.8.8.8"]


async def test_a_name_is_looked_up_once_for_a_connection_so_that_a_change_in_between_gains_nothing(names, monkeypatch):
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    names["images.test"] = lambda: next(answers)
    monkeypatch.setattr(network_policy, "is_public", lambda address, **_: address == "127.0.0.1")
    async with Host()() as port, open_downloader(4, GatewayResolver()) as opened:
        await fetched(opened, f"http://images.test:{port}/x", "https://8.8.8.8/kling")
    assert names["asked"].count("images.test") == 1


async def test_an_account_in_a_private_network_may_have_its_images_there(names):
    names["gateway.test"] = names["images.test"] = ["127.0.0.1"]
    async with Host()() as port, open_downloader(4, GatewayResolver()) as opened:
        assert await fetched(opened, f"http://images.test:{port}/x", "http://gateway.test/kling") == b"x" * 1000


async def test_an_account_that_was_public_once_does_not_become_private_by_its_name_alone(names):
    answers = iter([["8.8.8.8"], ["127.0.0.1"], ["127.0.0.1"]])
    names["gateway.test"] = lambda: next(answers)
    gateways = GatewayResolver()
    assert not await gateways.is_private("gateway.test")
    await gateways.resolve("gateway.test")
    assert not await gateways.is_private("gateway.test")


async def test_an_account_at_a_public_and_a_private_address_is_public(names):
    names["gateway.test"] = ["8.8.8.8", "127.0.0.1"]
    async with Host()() as port, open_downloader(4, GatewayResolver()) as opened:
        with pytest.raises(LinkRefused):
            await fetched(opened, f"http://127.0.0.1:{port}/x", "http://gateway.test/kling")


async def test_behind_a_proxy_names_are_its_own_affair_and_addresses_are_not(names, monkeypatch):
    host = Host()
    async with host() as port, open_downloader(4, GatewayResolver()) as opened:
        monkeypatch.setattr(downloads, "usable_proxy", lambda _: f"http://127.0.0.1:{port}")
        assert await fetched(opened, "http://images.test/x", "https://gateway.test/kling")
        for url in ("http://192.168.0.1/x", "http://localhost/x", "http://[::1]/x"):
            with pytest.raises(LinkRefused):
                await fetched(opened, url, "https://gateway.test/kling")
    assert len(host.requests) == 1
    assert "gateway.test" not in names["asked"]


@pytest.mark.parametrize(
    ("link", "gateway", "refused"),
    [
        (["10.0.0.1"], ["8.8.8.8"], True),
        (["10.0.0.1", "::1"], [], True),  # a gateway that only the proxy can resolve
        (["10.0.0.1", "8.8.8.8"], ["8.8.8.8"], False),
        (["198.18.0.5"], ["8.8.8.8"], False),
        (["10.0.0.1"], ["10.0.0.2"], False),
    ],
)
async def test_behind_a_proxy_a_link_is_refused_whose_name_is_private_here(names, monkeypatch, link, gateway, refused):
    names["images.test"], names["gateway.test"] = link, gateway
    host = Host()
    async with host() as port, open_downloader(4, GatewayResolver()) as opened:
        monkeypatch.setattr(downloads, "usable_proxy", lambda _: f"http://127.0.0.1:{port}")
        if refused:
            with pytest.raises(LinkRefused, match=r"images\.test is on this machine or in a private network"):
                await fetched(opened, "http://images.test/x", "https://gateway.test/kling")
        else:
            assert await fetched(opened, "http://images.test/x", "https://gateway.test/kling")
    assert len(host.requests) == (not refused)


@pytest.mark.parametrize("base_url", ["http://127.0.0.1/kling", "https://8.8.8.8/kling"])
async def test_connections_are_used_again(names, monkeypatch, base_url):
    names["images.test"] = ["127.0.0.1"]
    monkeypatch.setattr(network_policy, "is_public", lambda *_, **__: True)
    host = Host()
    async with host() as port, open_downloader(4, GatewayResolver()) as opened:
        for _ in range(20):
            await fetched(opened, f"http://images.test:{port}/x", base_url)
    assert (len(host.requests), len(host.connections)) == (20, 1)


# --- redirects and bounds ---------------------------------------------------------------------------------------


class Redirects:
    """Stands for two sessions: a host with a certificate that is trusted cannot be had on loopback."""

    def __init__(self, there):
        self.there = there
        self.asked = []

    async def get(self, link, **_more):
        self.asked.append(str(link))
        return self

    status, headers = 302, property(lambda self: {"Location": self.there})

    def release(self):
        pass


@pytest.mark.parametrize(
    ("base_url", "refused"),
    [("https://8.8.8.8/kling", "from https to plain http"), ("http://8.8.8.8/kling", "more than 5 times")],
)
async def test_a_redirect_from_https_to_http_is_refused_where_the_account_has_https_itself(base_url, refused):
    hosts = Redirects("http://9.9.9.9/x")
    opened = Downloader(GatewayResolver(), unrestricted=hosts, public=hosts)
    with pytest.raises(LinkRefused, match=refused):
        await fetched(opened, "https://9.9.9.9/x", base_url)


BOMB = gzip.compress(bytes(400_000_000), 1)


@pytest.mark.parametrize(
    "host", [Host(bytes(6_000_000)), Host(BOMB, Content_Encoding="gzip")], ids=["plain", "compressed"]
)
async def test_an_image_that_is_too_large_is_cut_off(monkeypatch, host):
    monkeypatch.setattr(downloads, "LARGEST_IMAGE", 5_000_000)
    async with host() as port, open_downloader(4, GatewayResolver()) as opened:
        with pytest.raises(ImageBroken, match="larger than 5000000 bytes"):
            await fetched(opened, f"http://127.0.0.1:{port}/x", "http://127.0.0.1")


async def test_a_few_compressed_bytes_are_decompressed_in_small_parts():
    async def pieces():
        yield BOMB[:100_000]

    parts = decompressed(pieces(), "gzip", 10**9)
    sizes = [len(await anext(parts)) for _ in range(10)]
    assert max(sizes) <= 1024 * 1024
