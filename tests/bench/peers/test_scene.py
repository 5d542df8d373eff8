"""The previews and the heads: what is the same, what varies, what was never sent before."""

import re
from collections import Counter

import h11
import pytest

from bench.peers import scene
from proxy.core.http1 import read_request_head

PREVIEWS = scene.previews([8001, 8002])


def test_every_sandbox_has_every_port_with_a_token_of_its_own() -> None:
    assert len(PREVIEWS) == 200
    assert len({preview.token for preview in PREVIEWS}) == 200
    assert Counter(preview.port for preview in PREVIEWS) == {8001: 100, 8002: 100}
    match = scene.LABEL.fullmatch(PREVIEWS[0].label)
    assert match is not None
    assert match.groups() == (str(PREVIEWS[0].port), PREVIEWS[0].sandbox, PREVIEWS[0].token)
    assert scene.previews([8001, 8002]) == PREVIEWS


def test_wrong_token_differs_in_one_character() -> None:
    for preview in PREVIEWS:
        other = scene.wrong(preview)
        assert other.token != preview.token
        assert other.token[:-1] == preview.token[:-1]


@pytest.mark.parametrize(
    "heads",
    [
        scene.same_heads,
        scene.varied_heads,
        scene.new_heads,
        scene.closing_heads,
        scene.handshakes,
        scene.one_each,
        lambda served: scene.downloads(served, 5),
        lambda served: scene.uploads(served, 5),
    ],
)
def test_every_head_is_one_that_portico_accepts(heads: scene.Heads) -> None:
    for text in heads(PREVIEWS):
        assert text.endswith(b"\r\n\r\n")
        assert text.count(b"\r\n\r\n") == 1
        # Request line, Host, ten fields, the empty line.
        assert text.count(b"\r\n") >= 1 + 1 + 10 + 1
        read_request_head(text)


def test_varied_traffic_has_the_variety_it_is_named_for() -> None:
    heads = [text.decode() for text in scene.varied_heads(PREVIEWS)]
    assert len({head.split(" ")[1] for head in heads}) == scene.PATHS
    assert len(set(re.findall(r"session=(\w+)", "".join(heads)))) == scene.COOKIES
    fresh = sum(scene.FRESH in head for head in heads)
    assert fresh / len(heads) == pytest.approx(1 / scene.FRESH_EVERY, rel=0.05)


def test_connection_stays_with_one_preview_on_varied_traffic() -> None:
    heads = list(scene.varied_heads(PREVIEWS))
    for connection in range(scene.CONNECTIONS):
        own = heads[connection :: scene.CONNECTIONS]
        assert len({re.search(rb"Host: (\S+)", head)[1] for head in own}) == 1  # type: ignore[index]  # it has one
        assert len({head.split(b" ")[1] for head in own}) > 20
    # Round and round, each connection sends the same heads again only if their number is a multiple of connections.
    assert len(heads) % scene.CONNECTIONS == 0


def test_every_new_head_has_lines_never_seen() -> None:
    for head in scene.new_heads(PREVIEWS):
        lines = [line for line in head.decode().splitlines() if scene.FRESH in line]
        assert [line.partition(":")[0].partition(" ")[0] for line in lines] == [
            "GET",
            "Cookie",
            "Traceparent",
            "X-Request-Id",
        ]


def test_upload_announces_its_body() -> None:
    (head,) = scene.uploads(PREVIEWS, 12)
    assert head.startswith(b"POST ")
    assert b"\r\nContent-Length: 12\r\n" in head


def test_h11_reads_a_handshake_as_one() -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(scene.websocket_head(PREVIEWS[0].host))
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (b"upgrade", b"websocket") in list(event.headers)
