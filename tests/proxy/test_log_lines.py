"""Nobody outside writes into the log: no line of theirs, no control character, and no token of anybody's."""

import json
import re
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

import pytest
import structlog
from trio.testing import MockClock

from proxy.logging import configure_logging
from proxy.testing.engine import PreviewEngine, preview_engine
from proxy.testing.services import garbage, mirror
from tests.corpora.one_in_one_out import converse

Style = Literal["console", "json"]
STYLES = ("console", "json")

SECRET = "s3cr3t-of-a-client"
FORGED = "2026-01-01T00:00:00.000000Z [error    ] forged"
# What a terminal, a line reader, or a person would take for something else.
NASTY = f"a\n{FORGED}\r\n{FORGED}\x1b[2J\x85{FORGED}\u2028{FORGED}\u202e\x00\x7f"

# The beginning of every event for people: time, level, event, and then fields.
_FOR_PEOPLE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[[a-z]+ *\] [a-z]")


@pytest.fixture(autouse=True)
def default_again() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines_of(printed: str, style: Style) -> list[str]:
    """Return the lines, each checked to be one event, or part of the traceback of the one before it."""
    assert printed.endswith("\n") or not printed
    lines = printed.split("\n")[:-1]
    for line in lines:
        assert line.isprintable(), f"{line!r} has a control character"
        if style == "json":
            assert isinstance(json.loads(line), dict)
        else:
            assert line.startswith("    ") or _FOR_PEOPLE.match(line), f"{line!r} is no event"
            assert not line.startswith(FORGED)
    return lines


@pytest.mark.parametrize("style", STYLES)
def test_whatever_an_event_holds_it_is_one_line(style: Style, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", style)
    log = structlog.get_logger("portico.test")
    log.warning("container did not start", error=NASTY, code=NASTY.encode("utf-8", "surrogatepass"), many=[NASTY])
    log.warning(NASTY)
    log.warning("named", **{NASTY: 1})
    log.info("undecodable", text="\udc80")
    # Without a space or a line end, which are what structlog looks for.
    log.info("for the terminal", text="\x1b[2J")
    assert len(lines_of(capsys.readouterr().err, style)) == 5


@pytest.mark.parametrize("style", STYLES)
def test_text_of_an_exception_cannot_pass_for_an_event(style: Style, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", style)
    try:
        int(NASTY)
    except ValueError as error:
        error.args = (NASTY,)
        structlog.get_logger("portico.test").exception("failed")
    lines = lines_of(capsys.readouterr().err, style)
    events = [line for line in lines if not line.startswith("    ")]
    assert len(events) == 1
    assert any("in test_text_of_an_exception" in line for line in lines)


def hostile_requests(host: str) -> list[bytes]:
    """Return requests that hold what should not get into a log, in every place there is."""
    nasty = NASTY.encode("utf-8")
    clean = f"%0a%1b {FORGED} \x85".replace(" ", "+").encode("latin-1")
    raw_host = host.encode("ascii")
    secret = SECRET.encode("ascii")
    return [
        b"GET /%b?token=%b HTTP/1.1\r\nHost: %b\r\nCookie: a=%b\r\n\r\n" % (clean[:-1], secret, raw_host, secret),
        b"GET / HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\nX-A: %b\x85\r\n\r\n" % (raw_host, secret, clean),
        b"GET / HTTP/1.1\r\nHost: %b\r\nX-OC-Preview-Token: %b\r\nReferer: https://%b/\r\n\r\n"
        % (raw_host, secret, raw_host),
        b"GET / HTTP/1.1\r\nHost: %b\r\nX-A: %b\r\n\r\n" % (raw_host, nasty),
        b"%b / HTTP/1.1\r\nHost: %b\r\n\r\n" % (nasty, raw_host),
        b"GET /%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (nasty, raw_host),
        b"GET / HTTP/1.1\r\nHost: %b.%b\r\n\r\n" % (secret, nasty),
        b"GET / HTTP/1.1\r\nHost: 8080-my-app-%b.example.com\r\n\r\n" % secret[:16].replace(b"-", b"_"),
        b"GET http://%b/ HTTP/1.1\r\nHost: %b.b\r\n\r\n" % (raw_host, secret),
        b"GET / HTTP/1.1\r\nHost: example.com\r\nPortico-Preview: %b\r\n\r\n" % raw_host.partition(b".")[0],
        b"POST / HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n5;%b\r\n" % (raw_host, nasty),
        secret + nasty,
    ]


async def hear_everything(engine: PreviewEngine) -> tuple[str, str]:
    """Let clients, services and containers do their worst; return the token of the preview, and its neighbour's."""
    url = await engine.expose(mirror())
    other = await engine.expose(garbage(NASTY.encode("utf-8") + SECRET.encode("ascii")), port=8081)
    failing = await engine.expose(mirror(), sandbox="failing")
    engine.container("failing").start_error = NASTY
    for place in (url, other, failing):
        host = urlsplit(place).netloc
        for raw in hostile_requests(host):
            await converse(engine, [raw])
    tokens = [urlsplit(place).netloc.partition(".")[0].rpartition("-")[2] for place in (url, other)]
    return tokens[0], tokens[1]


@pytest.mark.parametrize("style", STYLES)
async def test_no_client_service_or_container_writes_into_the_log(
    style: Style, capsys: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    configure_logging("debug", style)
    async with preview_engine() as engine:
        tokens = await hear_everything(engine)
    printed = capsys.readouterr().err
    assert lines_of(printed, style), "nothing was logged, so nothing was tested"
    assert "container did not start" in printed
    for secret in (SECRET, SECRET[:16].replace("-", "_"), *tokens):
        assert secret not in printed
