import asyncio

import pytest

from gateway.egress import Egress, EgressFailed, EgressRefused


def resolving(*addresses):
    calls = []

    async def lookup(host, port):
        calls.append((host, port))
        return list(addresses)

    return lookup, calls


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/jwks",
        "http://8.8.8.8/jwks",
        "http://127.0.0.1:8000/jwks",
        "http://localhost:8000/jwks",
        "ftp://id.example/jwks",
        "file:///etc/passwd",
        "//id.example/jwks",
        "id.example",
        "",
        "https://",
        "https://user@id.example/",
        "https://user:pass@id.example/",
        "https://id.example:0/",
        "https://id.example:99999/",
        "https://[::1/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[2002:7f00:1::]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[ff02::1]/",
        "https://[::]/",
        "https://[::7f00:1]/",
        "https://[fec0::1]/",
        "https://[64:ff9b:1::1]/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.0.1/",
        "https://169.254.169.254/",
        "https://168.63.129.16/",
        "https://100.64.0.1/",
        "https://224.0.0.1/",
        "https://0.0.0.0/",
        "https://255.255.255.255/",
    ],
)
def test_urls_that_are_not_for_us_are_refused_before_anything_is_resolved(url):
    with pytest.raises(EgressRefused):
        Egress().check_url(url)


@pytest.mark.parametrize(
    "url", ["https://id.example/jwks", "https://id.example:8443/", "https://8.8.8.8/", "https://[2606:4700::1111]/"]
)  # fmt: skip
def test_negative_control_public_https_is_allowed(url):
    assert Egress().check_url(url).scheme == "https"


def test_what_the_operator_listed_is_allowed_and_nothing_beside_it():
    egress = Egress(["127.0.0.1/32", "10.1.0.0/16", "fd12::/16"])
    for url in ("http://127.0.0.1:8000/", "https://10.1.2.3/", "https://[fd12::1]/"):
        assert egress.check_url(url)
    for url in ("http://127.0.0.2/", "http://10.1.2.3/", "https://10.2.0.1/", "https://[fd13::1]/"):
        with pytest.raises(EgressRefused):
            egress.check_url(url)
    with pytest.raises(ValueError, match="does not appear"):
        Egress(["localhost"])


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("169.254.169.254",),
        ("8.8.8.8", "10.0.0.1"),
        ("::ffff:10.0.0.1",),
        ("2606:4700::1111", "fe80::1"),
    ],
)
async def test_a_name_with_any_private_address_is_refused_after_resolution(addresses):
    lookup, calls = resolving(*addresses)
    egress = Egress(lookup=lookup)
    with pytest.raises(EgressRefused):
        await egress.get("https://id.example/jwks")
    assert calls == [("id.example", 443)]
    await egress.close()


async def test_hosts_that_only_a_resolver_reads_as_addresses_never_connect():
    lookup, _ = resolving("127.0.0.1")
    egress = Egress(lookup=lookup)
    for host in ("2130706433", "127.1", "0x7f000001", "0177.0.0.1", "localhost", "localhost."):
        with pytest.raises((EgressRefused, EgressFailed)):
            await egress.get(f"https://{host}/")
    await egress.close()


async def test_the_checked_addresses_are_those_connected_to(monkeypatch):
    lookup, calls = resolving("93.184.216.34")
    egress = Egress(lookup=lookup)
    connected = []

    async def start_connection(addr_infos, **_):
        connected.extend(info[4][:2] for info in addr_infos)
        raise OSError("no network here")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", start_connection)
    with pytest.raises(EgressFailed):
        await egress.get("https://id.example/jwks")
    assert calls == [("id.example", 443)]
    assert connected == [("93.184.216.34", 443)]
    await egress.close()


async def test_a_name_that_does_not_resolve_or_resolves_slowly_fails():
    async def nothing(_host, _port):
        return []

    async def slow(_host, _port):
        await asyncio.sleep(60)

    for lookup in (nothing, slow):
        egress = Egress(lookup=lookup, timeout_s=0.05)
        with pytest.raises(EgressFailed):
            await egress.get("https://id.example/jwks")
        await egress.close()
