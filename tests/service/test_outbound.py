"""Which hosts the server may connect to: names, addresses, and tricks with both."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from service.outbound import AllowedHosts, ForbiddenHostError, Target, parse_hosts, parse_target

HTTP = ("http", "https")


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses; literals stay what they are."""
    real = socket.getaddrinfo

    def fake(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        found = []
        for address in addresses:
            found += real(address, port, *args, **options)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", fake)


def addresses(hosts: str, url: str) -> list[str]:
    allowed = AllowedHosts(parse_hosts(hosts))
    return asyncio.run(allowed.addresses(parse_target(url, HTTP)))


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a.example", Target("http", "a.example", 80)),
        ("https://A.Example.:8443/x?y=1#z", Target("https", "a.example", 8443, "/x?y=1")),
        ("http://[::1]:80/", Target("http", "::1", 80)),
        ("http://u%40:p%3A@h/", Target("http", "h", 80, "/", "u@", "p:")),
        ("http://a.example?x", Target("http", "a.example", 80, "/?x")),
    ],
)
def test_urls_are_read(url: str, target: Target) -> None:
    assert parse_target(url, HTTP) == target


def test_what_is_shown_holds_no_secret() -> None:
    target = parse_target("http://user:hush@cam.example:81/live/1?token=hush", HTTP)
    assert target.shown == "http://cam.example:81/live/1"
    assert "hush" not in repr(target).replace(target.path, "")
    assert "hush" not in target.at("192.0.2.1").partition("?")[0]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example/x",
        "file:///etc/passwd",
        "ftp://a.example/",
        "gopher://a.example/",
        "http://",
        "http:///x",
        "http://a.example:99999/",
        "http://a.example:0/",
        "http://good.example@evil.example@good.example/",
        "http://evil.example\\@good.example/",
        "http://good.example\t.evil.example/",
        "http://good.example/\r\nHost: evil",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://127.0.0.1.:80.1/",
        "http://[::1%25lo]/",
        "http://[::1/",
        "http://ⓛocalhost/",
        "http://a..example/",
        "http://-a.example/",
        "http://a.example/" + "x" * 3000,
    ],
)
def test_odd_urls_are_refused(url: str) -> None:
    with pytest.raises(ForbiddenHostError, match="expected"):
        parse_target(url, HTTP)


@pytest.mark.parametrize(
    "url",
    ["http://good.example@evil.example/", "http://good.example:80@evil.example/"],
)
def test_userinfo_is_no_host(url: str) -> None:
    with pytest.raises(ForbiddenHostError, match=r"evil\.example"):
        AllowedHosts(("good.example",)).check(parse_target(url, HTTP).host)


def test_nothing_is_allowed_by_default() -> None:
    for host in ("a.example", "93.184.216.34", "127.0.0.1", "localhost", "::1"):
        with pytest.raises(ForbiddenHostError, match="RESQ_ALLOWED_HOSTS"):
            AllowedHosts(()).check(host)


@pytest.mark.parametrize(
    ("hosts", "good", "bad"),
    [
        ("cam.example", "cam.example", "x.cam.example"),
        ("*.cam.example", "a.b.cam.example", "cam.example"),
        ("*.cam.example", "a.cam.example", "evilcam.example"),
        ("192.168.1.7", "192.168.1.7", "192.168.1.8"),
        ("10.0.0.0/8, fd00::/8", "fd12::1", "11.0.0.1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"),
        ("127.0.0.0/8", "127.0.0.1", "::1"),
        ("169.254.0.0/16", "169.254.169.254", "169.253.0.1"),
        ("0.0.0.0/0", "10.0.0.1", "169.254.169.254"),
        ("0.0.0.0/0", "93.184.216.34", "127.0.0.1"),
        ("0.0.0.0/0", "1.1.1.1", "0.0.0.0"),
        ("0.0.0.0/0", "1.1.1.1", "64:ff9b::a9fe:a9fe"),
        ("::/0", "fd12::1", "::1"),
        ("::/0", "fd12::1", "fe80::1"),
        ("::/0", "2606:4700::1111", "ff02::1"),
    ],
)
def test_hosts_are_listed_one_by_one(hosts: str, good: str, bad: str) -> None:
    allowed = AllowedHosts(parse_hosts(hosts))
    allowed.check(good)
    with pytest.raises(ForbiddenHostError):
        allowed.check(bad)


@pytest.mark.parametrize("entry", ["http://a.example", "a b", "*", "*.*.x", "10.0.0.1/8", "*.1"])
def test_settings_that_mean_nothing_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        parse_hosts(entry)


INNER = """127.0.0.1 10.0.0.5 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 ::1 fe80::1 fd00::1
::ffff:127.0.0.1 64:ff9b::7f00:1"""


@pytest.mark.parametrize("address", INNER.split())
def test_a_listed_name_leads_to_no_inner_address(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    resolve(monkeypatch, "93.184.216.34", address)
    with pytest.raises(ForbiddenHostError, match="is not allowed"):
        addresses("cam.example", "http://cam.example/")


def test_a_name_and_its_network_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "10.0.0.5")
    assert addresses("cam.example,10.0.0.0/24", "http://cam.example/") == ["10.0.0.5"]
    with pytest.raises(ForbiddenHostError):
        addresses("10.0.0.0/24", "http://cam.example/")


def test_redirects_are_checked_like_urls() -> None:
    start = parse_target("https://u:p@cam.example/a/b", HTTP)
    assert start.follow("c?x").path == "/a/c?x"
    assert start.follow("/c").password == "p"
    for elsewhere in ("https://other.example/", "https://cam.example:444/", "//other.example/"):
        assert start.follow(elsewhere).password is None
    for bad in ("http://cam.example/", "file:///etc/passwd", "rtsp://cam.example/", "https://[::"):
        with pytest.raises(ForbiddenHostError):
            start.follow(bad)
