"""The address filter: which addresses are refused, and that nothing is connected before it has spoken."""

from ipaddress import IPv4Network, ip_network

import pytest
from pg_durable.http import HttpRunner
from pg_durable.http.addresses import RESTRICTED, SystemResolver, restricted

from tests.worker.http_requests import FixedResolver, request
from tests.worker.http_server import HttpServer


@pytest.mark.parametrize("network", RESTRICTED, ids=str)
def test_both_ends_of_every_range_are_refused(network: IPv4Network) -> None:
    assert restricted(str(network[0]))
    assert restricted(str(network[-1]))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
     "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
     "2606:4700::1", "2001:200::1", "2003::1", "fbff::1", "64:ff9b:2::1"],
)  # fmt: skip
def test_public_neighbours_pass(address: str) -> None:
    assert not restricted(address)


@pytest.mark.parametrize(
    "address",
    ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "2002:7f00:1::", "fe80::1%lo", "::"],
)
def test_addresses_in_disguise_are_refused(address: str) -> None:
    assert restricted(address)


# The metadata services, the loopback and private networks of clouds, and IPv6 addresses that carry an IPv4 one.
SPELLINGS = """
0.0.0.0 0.0.0.1 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.0.1.1
127.127.127.127 127.255.255.254 168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 169.254.169.253
169.254.169.123 172.16.0.1 172.17.0.1 172.31.255.254 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1
192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1
255.255.255.255 :: ::1 0:0:0:0:0:0:0:1 ::7f00:1 ::127.0.0.1 ::10.0.0.1 ::a9fe:a9fe ::ffff:127.0.0.1
::ffff:7f00:1 ::FFFF:10.0.0.1 0:0:0:0:0:ffff:a9fe:a9fe ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
::ffff:0:a9fe:a9fe 64:ff9b::7f00:1 64:ff9b::169.254.169.254 64:ff9b:1::a9fe:a9fe 100::1 2001::1
2001:0:7f00:1:: 2001:db8::1 2001:10::1 2002:7f00:1:: 2002:a9fe:a9fe:: 2002:a00:1::1 fc00::1 fd00:ec2::254
fd00::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff05::2
""".split()  # noqa: SIM905 - to be read


@pytest.mark.parametrize("address", SPELLINGS)
async def test_no_spelling_of_a_restricted_address_passes(address: str) -> None:
    """Nothing is connected to: the resolver of the test gives the address, and the filter decides."""
    assert restricted(address)
    runner = HttpRunner(FixedResolver(**{"inner.test": [address]}))
    outcome = await runner.run(request("http://inner.test/", allow_private=False))
    assert (outcome["class"], "Blocked:" in outcome["error"]) == ("refused", True)


async def test_the_address_of_a_refused_name_is_told_to_administrators_only(caplog: pytest.LogCaptureFixture) -> None:
    runner = HttpRunner(FixedResolver(**{"inner.test": ["10.1.2.3"]}))
    outcome = await runner.run(request("http://inner.test/", allow_private=False))
    assert "10.1.2.3" not in str(outcome)
    assert [record.fields for record in caplog.records] == [{"host": "inner.test", "addresses": "10.1.2.3"}]  # type: ignore[attr-defined]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["10.1.2.3", "::1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"]])
async def test_a_name_with_only_restricted_addresses_connects_to_nothing(web: HttpServer, addresses: list[str]) -> None:
    before = web.connections
    runner = HttpRunner(FixedResolver(**{"inner.test": addresses}))
    outcome = await runner.run(request(web.url("/ok", "inner.test"), allow_private=False))
    assert outcome["class"] == "refused"
    assert "Blocked:" in outcome["error"] and "restricted" in outcome["error"]
    assert web.connections == before


async def test_restricted_addresses_of_a_name_with_several_are_dropped(web: HttpServer) -> None:
    before = web.connections
    runner = HttpRunner(FixedResolver(**{"mixed.test": ["127.0.0.1", "192.0.3.1"]}))
    outcome = await runner.run(request(web.url("/ok", "mixed.test"), allow_private=False, timeout_seconds=0.5))
    assert outcome["class"] in ("timeout", "connection")
    assert web.connections == before


async def test_the_next_address_is_tried_when_one_does_not_answer(web: HttpServer) -> None:
    runner = HttpRunner(FixedResolver(**{"two.test": ["127.0.0.9", "127.0.0.1"]}))
    assert (await runner.run(request(web.url("/ok", "two.test"))))["value"]["status"] == 200


async def test_a_name_is_resolved_once_so_rebinding_gains_nothing(web: HttpServer) -> None:
    class Rebinding(FixedResolver):
        async def resolve(self, host: str, port: int) -> list[str]:
            self.asked.append(host)
            return ["192.0.3.1"] if len(self.asked) == 1 else ["127.0.0.1"]

    before = web.connections
    resolver = Rebinding()
    url = web.url("/ok", "rebind.test")
    await HttpRunner(resolver).run(request(url, allow_private=False, timeout_seconds=0.3))
    assert (resolver.asked, web.connections) == (["rebind.test"], before)


async def test_a_second_request_is_checked_again(web: HttpServer) -> None:
    resolver = FixedResolver(**{"name.test": ["127.0.0.1"]})
    runner = HttpRunner(resolver)
    assert (await runner.run(request(web.url("/ok", "name.test"))))["value"]["ok"]
    outcome = await runner.run(request(web.url("/ok", "name.test"), allow_private=False))
    assert outcome["class"] == "refused"


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "127.0.0.1", "localhost"])
async def test_odd_spellings_of_loopback_are_resolved_before_they_are_judged(web: HttpServer, host: str) -> None:
    before = web.connections
    outcome = await HttpRunner().run(request(web.url("/ok", host), allow_private=False))
    assert outcome["class"] == "refused"
    assert web.connections == before


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://evil.test/", "good.test", 80),
        ("http://good.test:81/", "good.test", 80),
        ("http://good.test\\@evil.test/", "good.test", 80),
        ("http://good.test@evil.test/", "good.test", 80),
        ("http://good.test#@evil.test:81/", "evil.test", 81),
        ("ftp://good.test/", "good.test", 80),
        ("http://ⓖood.test/", "good.test", 80),
        ("http://good.test/\r\nX: y", "good.test", 80),
        ("http://g%6fod.test/", "good.test", 80),
        ("http://good.test./", "good.test", 80),
    ],
)
async def test_a_url_that_is_read_otherwise_than_it_was_approved_is_refused(url: str, host: str, port: int) -> None:
    resolver = FixedResolver()
    outcome = await HttpRunner(resolver).run(request(url, host=host, port=port))
    assert outcome["class"] == "refused"
    assert not resolver.asked


async def test_the_system_resolver_says_no_politely() -> None:
    resolver = SystemResolver()
    with pytest.raises(OSError, match=r".+"):
        await resolver.resolve("no-such-name.invalid", 80)
    assert await resolver.resolve("127.0.0.1", 80) == ["127.0.0.1"]
    resolver.close()


def test_no_range_is_missing_from_the_standard_ones() -> None:
    for text in ("169.254.169.254/32", "fd00:ec2::254/128", "255.255.255.255/32", "168.63.129.16/32",
                 "::7f00:1/128", "::ffff:0:10.0.0.1/128"):  # fmt: skip
        assert restricted(str(ip_network(text)[0]))
