"""One request and its response: what is written to the service, what is read, and what may follow."""

from collections.abc import Sequence

import pytest

from proxy.core.body import NO_TRAILERS
from proxy.core.exchange import (
    INFORMATIONAL_MAX,
    Exchange,
    ExchangeEvent,
    Informational,
    ResponseContent,
    ResponseEnded,
    ResponseStarted,
    SwitchedProtocols,
    UpstreamClosedError,
)
from proxy.core.http1 import (
    CHUNKED,
    EMPTY,
    NO_BODY,
    UNTIL_CLOSE,
    BadResponseError,
    Field,
    Framing,
    FramingKind,
    Limits,
    RequestHead,
)

FIVE = Framing(FramingKind.LENGTH, 5)
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nVary: *\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
UNTIL_EOF = b"HTTP/1.0 200 OK\r\n\r\nhello"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def field(name: bytes, value: bytes) -> Field:
    return (name.lower(), name, value)


def started(
    method: bytes = b"GET",
    framing: Framing = NO_BODY,
    *,
    upgrade: bytes | None = None,
    expect_continue: bool = False,
    limits: Limits | None = None,
) -> Exchange:
    """An exchange whose head has been sent."""
    head = RequestHead(method, b"/p", b"1.1", [field(b"Host", b"localhost:8080")])
    exchange = Exchange(head, framing, upgrade=upgrade, expect_continue=expect_continue, limits=limits or Limits())
    exchange.start()
    return exchange


def summary(events: Sequence[ExchangeEvent]) -> tuple[list[int], bytes, int]:
    """Statuses in order, the content in one piece, how often the response ended."""
    statuses = [event.head.status for event in events if isinstance(event, Informational | ResponseStarted)]
    content = b"".join(event.data for event in events if isinstance(event, ResponseContent))
    return statuses, content, sum(isinstance(event, ResponseEnded) for event in events)


class TestRequest:
    @pytest.mark.parametrize(
        ("framing", "line"),
        [
            (NO_BODY, b""),
            (EMPTY, b"Content-Length: 0\r\n"),
            (FIVE, b"Content-Length: 5\r\n"),
            (CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        ],
    )
    def test_head_is_written_with_a_framing_of_our_own(self, framing: Framing, line: bytes) -> None:
        names = (b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect", b"Keep-Alive")
        fields = [field(b"Host", b"localhost"), *(field(name, b"x") for name in names), field(b"X-A", b"a")]
        exchange = Exchange(RequestHead(b"POST", b"/p?q", b"1.0", fields), framing)
        assert exchange.start() == b"POST /p?q HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n" + line + b"\r\n"
        with pytest.raises(RuntimeError):
            exchange.start()

    def test_upgrade_and_expectation_are_written_when_asked_for(self) -> None:
        head = RequestHead(b"GET", b"/", b"1.1", [])
        assert Exchange(head, NO_BODY, upgrade=b"websocket").start() == (
            b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert b"Expect: 100-continue\r\n" in Exchange(head, FIVE, expect_continue=True).start()
        assert b"Expect" not in Exchange(head, EMPTY, expect_continue=True).start()

    def test_content_of_known_length_passes_uncopied_and_must_be_exact(self) -> None:
        exchange, data = started(b"POST", FIVE), b"hell"
        assert exchange.request_content(data) is data
        with pytest.raises(RuntimeError):
            exchange.request_end()
        with pytest.raises(RuntimeError):
            exchange.request_content(b"oo")
        ended_before = exchange.request_ended
        exchange.request_content(b"o")
        assert exchange.request_end() == b""
        assert (ended_before, exchange.request_ended) == (False, True)
        with pytest.raises(RuntimeError):
            exchange.request_content(b"")

    def test_content_of_unknown_length_is_chunked_with_its_trailers(self) -> None:
        exchange = started(b"POST", CHUNKED)
        assert exchange.request_content(b"hello") == b"5\r\nhello\r\n"
        assert exchange.request_content(b"") == b""
        assert exchange.request_end([field(b"X-A", b"1")]) == b"0\r\nX-A: 1\r\n\r\n"
        assert exchange.request_ended
        assert exchange.request_end() == b""

    @pytest.mark.parametrize("framing", [NO_BODY, EMPTY])
    def test_request_without_content_has_ended_with_its_head(self, framing: Framing) -> None:
        exchange = started(framing=framing)
        assert exchange.request_ended
        assert exchange.request_end() == b""

    def test_request_is_never_framed_by_close(self) -> None:
        with pytest.raises(ValueError, match="end of the connection"):
            started(framing=UNTIL_CLOSE)

    def test_nothing_passes_before_the_start(self) -> None:
        exchange = Exchange(RequestHead(b"POST", b"/", b"1.1", []), CHUNKED)
        for call in (lambda: exchange.request_content(b"a"), exchange.request_end, lambda: exchange.receive(LENGTH)):
            with pytest.raises(RuntimeError):
                call()


class TestResponse:
    @pytest.mark.parametrize("step", [1, 2, 5, 10_000])
    @pytest.mark.parametrize("before", [b"", HINTS, CONTINUE + HINTS])
    @pytest.mark.parametrize(
        ("wire", "status", "content"), [(LENGTH, 200, b"hello"), (STREAM, 200, b"hello"), (NO_CONTENT, 204, b"")]
    )
    def test_response_is_the_same_however_it_is_cut_and_leaves_the_connection_reusable(
        self, wire: bytes, status: int, content: bytes, before: bytes, step: int
    ) -> None:
        exchange, events, stream = started(), [], before + wire
        for start in range(0, len(stream), step):
            assert not exchange.reusable
            events += exchange.receive(stream[start : start + step])
        interim = [100, 103][2 - before.count(b"HTTP/") :]
        assert summary(events) == ([*interim, status], content, 1)
        assert exchange.response_ended
        assert exchange.reusable

    def test_long_head_in_pieces_does_not_hide_the_end_of_a_short_one(self) -> None:
        exchange, long = started(), HINTS.replace(b"</a>", b"</a>" * 100)
        events = exchange.receive(long[:-1]) + exchange.receive(long[-1:] + LENGTH)
        assert summary(events) == ([103, 200], b"hello", 1)

    def test_small_response_in_one_read_is_three_events(self) -> None:
        events = started().receive(LENGTH)
        assert isinstance(events[0], ResponseStarted)
        assert (events[0].head.status, events[0].framing) == (200, FIVE)
        assert events[1:] == [ResponseContent(b"hello"), ResponseEnded(NO_TRAILERS)]

    def test_repr_of_an_event_holds_no_secret(self) -> None:
        wire = STREAM.replace(b"hel", b"s3c").replace(b"2\r\nlo", b"3\r\nret").replace(b"*", b"s3cret")
        events = started().receive(wire.replace(b"OK\r\n", b"OK\r\nSet-Cookie: s3cret\r\n"))
        assert [type(event) for event in events] == [ResponseStarted, ResponseContent, ResponseEnded]
        switched = started(upgrade=b"websocket").receive(SWITCH + b"s3cret")
        assert "s3cret" not in repr([*events, *switched])

    def test_trailers_are_given_less_those_that_would_do_harm(self) -> None:
        wire = STREAM.replace(b"Vary: *", b"Vary: *\r\nContent-Length: 9\r\nSet-Cookie: a=b")
        assert started().receive(wire)[-1] == ResponseEnded([field(b"Vary", b"*")])

    def test_head_response_has_no_content_whatever_it_states(self) -> None:
        exchange = started(b"HEAD")
        assert summary(exchange.receive(LENGTH[:-5])) == ([200], b"", 1)
        assert exchange.reusable

    @pytest.mark.parametrize("wire", [UNTIL_EOF, UNTIL_EOF.replace(b"/1.0", b"/1.1")])
    def test_response_without_length_lasts_until_the_connection_ends(self, wire: bytes) -> None:
        exchange = started()
        events = exchange.receive(wire) + exchange.receive(b" world")
        assert summary(events) == ([200], b"hello world", 0)
        assert exchange.receive_eof() == [ResponseEnded(NO_TRAILERS)]
        assert exchange.response_ended
        assert not exchange.reusable

    @pytest.mark.parametrize(
        ("wire", "reusable"),
        [
            (LENGTH.replace(b"\r\nC", b"\r\nConnection: close\r\nC"), False),
            (LENGTH.replace(b"/1.1", b"/1.0"), False),
            (LENGTH.replace(b"/1.1 200 OK", b"/1.0 200 OK\r\nConnection: keep-alive"), True),
        ],
    )
    def test_connection_is_reusable_only_if_the_service_keeps_it(self, wire: bytes, reusable: bool) -> None:
        exchange = started()
        exchange.receive(wire)
        assert exchange.response_ended
        assert exchange.reusable is reusable


class TestOutOfStep:
    @pytest.mark.parametrize("wire", [LENGTH, STREAM, NO_CONTENT])
    @pytest.mark.parametrize("leftover", [b"\n", b"HTTP/1.1 200 OK\r\n\r\n"])
    def test_bytes_after_the_end_are_dropped_and_the_connection_is_not_reused(
        self, wire: bytes, leftover: bytes
    ) -> None:
        together, apart = started(), started()
        events = together.receive(wire + leftover)
        assert events == apart.receive(wire)
        assert apart.reusable
        assert apart.receive(leftover) == []
        assert not together.reusable
        assert not apart.reusable

    def test_connection_that_the_service_closes_after_the_end_is_not_reused(self) -> None:
        exchange = started()
        exchange.receive(LENGTH)
        assert exchange.receive_eof() == []
        assert not exchange.reusable

    def test_connection_is_not_reused_before_the_request_has_ended_and_is_after(self) -> None:
        exchange = started(b"POST", FIVE)
        assert summary(exchange.receive(LENGTH)) == ([200], b"hello", 1)
        assert not exchange.reusable
        exchange.request_content(b"hello")
        exchange.request_end()
        assert exchange.reusable

    @pytest.mark.parametrize(
        "wire",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x00",
            b"HTTP/2 200\r\n",
            b"HTTP/1.1 200 OK\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nG\r\n",
            CONTINUE + b"\r\n" + LENGTH,
        ],
    )
    def test_service_that_breaks_the_protocol_can_be_answered_for_with_502(self, wire: bytes) -> None:
        exchange = started()
        with pytest.raises(BadResponseError):
            exchange.receive(wire)
        assert not exchange.response_started
        assert not exchange.response_ended
        assert not exchange.reusable
        assert not exchange.retryable
        assert exchange.receive(LENGTH) == []

    def test_service_that_breaks_the_protocol_under_way_leaves_the_response_started(self) -> None:
        exchange = started()
        exchange.receive(STREAM[: STREAM.index(b"2\r\nlo")])
        with pytest.raises(BadResponseError):
            exchange.receive(b"G\r\n")
        assert exchange.response_started
        assert not exchange.response_ended

    @pytest.mark.parametrize("wire", [b"", b"HTTP/1.1 200", LENGTH[:-6], HINTS])
    def test_connection_that_ends_before_a_head_is_an_upstream_closed(self, wire: bytes) -> None:
        exchange = started()
        exchange.receive(wire)
        with pytest.raises(UpstreamClosedError) as caught:
            exchange.receive_eof()
        assert not caught.value.mid_response
        assert not exchange.reusable

    @pytest.mark.parametrize("wire", [LENGTH, STREAM])
    def test_connection_that_ends_inside_a_body_says_so(self, wire: bytes) -> None:
        exchange = started()
        exchange.receive(wire[:-1])
        with pytest.raises(UpstreamClosedError) as caught:
            exchange.receive_eof()
        assert caught.value.mid_response
        assert not exchange.response_ended

    def test_response_head_is_bounded_whole_and_unfinished(self) -> None:
        limits = Limits(head_bytes_max=200)
        for end in (b"", b"\r\n\r\n"):
            with pytest.raises(BadResponseError):
                started(limits=limits).receive(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200 + end)


class TestRetry:
    @pytest.mark.parametrize(
        ("method", "retryable"),
        [(b"GET", True), (b"PUT", True), (b"DELETE", True), (b"POST", False), (b"PATCH", False)],
    )
    def test_only_idempotent_methods_are_retryable(self, method: bytes, retryable: bool) -> None:
        """RFC 9110 section 9.2.2."""
        assert started(method).retryable is retryable

    def test_first_byte_of_a_response_ends_it(self) -> None:
        exchange = started()
        exchange.receive(b"H")
        assert not exchange.retryable

    @pytest.mark.parametrize("framing", [FIVE, CHUNKED])
    def test_first_byte_of_content_ends_it(self, framing: Framing) -> None:
        exchange = started(b"PUT", framing)
        exchange.request_content(b"")
        assert exchange.retryable
        exchange.request_content(b"h")
        assert not exchange.retryable

    def test_end_of_a_chunked_body_ends_it(self) -> None:
        exchange = started(b"PUT", CHUNKED)
        exchange.request_end()
        assert not exchange.retryable

    def test_closed_connection_leaves_it(self) -> None:
        exchange = started()
        with pytest.raises(UpstreamClosedError):
            exchange.receive_eof()
        assert exchange.retryable


class TestContinue:
    def test_content_is_held_until_the_service_says_100(self) -> None:
        exchange = started(b"POST", FIVE, expect_continue=True)
        with pytest.raises(RuntimeError):
            exchange.request_content(b"hello")
        assert exchange.receive(HINTS)
        awaiting_before = exchange.awaiting_continue
        assert summary(exchange.receive(CONTINUE)) == ([100], b"", 0)
        assert (awaiting_before, exchange.awaiting_continue) == (True, False)
        assert exchange.request_content(b"hello") == b"hello"

    def test_final_response_ends_the_wait_and_the_connection_is_not_reused(self) -> None:
        exchange = started(b"POST", FIVE, expect_continue=True)
        exchange.receive(LENGTH)
        assert not exchange.awaiting_continue
        assert not exchange.reusable

    def test_wait_can_be_given_up(self) -> None:
        exchange = started(b"POST", CHUNKED, expect_continue=True)
        with pytest.raises(RuntimeError):
            exchange.request_end()
        exchange.stop_awaiting_continue()
        assert exchange.request_content(b"a") == b"1\r\na\r\n"

    def test_interim_responses_are_bounded(self) -> None:
        assert len(started().receive(HINTS * INFORMATIONAL_MAX)) == INFORMATIONAL_MAX
        with pytest.raises(BadResponseError):
            started().receive(HINTS * (INFORMATIONAL_MAX + 1))


class TestSwitch:
    @pytest.mark.parametrize("step", [1, 10_000])
    def test_accepted_offer_ends_the_exchange_and_gives_what_followed(self, step: int) -> None:
        exchange, events = started(upgrade=b"websocket, x"), []
        for start in range(0, len(SWITCH), step):
            events += exchange.receive(SWITCH[start : start + step])
        assert isinstance(events[0], SwitchedProtocols)
        assert events[0].leftover == b""
        assert exchange.switched
        assert not exchange.reusable
        assert exchange.receive_eof() == []
        with pytest.raises(RuntimeError):
            exchange.receive(b"\x81")
        together = started(upgrade=b"websocket").receive(HINTS + SWITCH + b"\x81\x00")
        assert isinstance(together[1], SwitchedProtocols)
        assert together[1].leftover == b"\x81\x00"

    @pytest.mark.parametrize(
        ("upgrade", "wire"),
        [
            (None, SWITCH),
            (b"x", SWITCH),
            (b"websocket", SWITCH.replace(b"Upgrade: websocket\r\n", b"")),
            (b"websocket", SWITCH.replace(b"Upgrade: websocket", b"Upgrade: websocket, x")),
            (b"websocket", SWITCH.replace(b"Connection: Upgrade\r\n", b"")),
        ],
    )
    def test_switch_to_what_was_not_offered_is_refused(self, upgrade: bytes | None, wire: bytes) -> None:
        exchange = started(upgrade=upgrade)
        with pytest.raises(BadResponseError):
            exchange.receive(wire)
        assert not exchange.switched

    def test_refused_offer_is_an_ordinary_response(self) -> None:
        exchange = started(upgrade=b"websocket")
        assert summary(exchange.receive(LENGTH.replace(b"200", b"403"))) == ([403], b"hello", 1)
        assert exchange.reusable


def test_read_full_of_tiny_chunks_is_told_a_part_at_a_time_and_whole() -> None:
    exchange = started()
    events = list(exchange.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000))
    turns = 0
    while exchange.pending:
        events += exchange.receive(b"")
        turns += 1
    assert turns == 3
    events += exchange.receive(b"0\r\n\r\n")
    assert b"".join(event.data for event in events if isinstance(event, ResponseContent)) == b"x" * 1000
    assert exchange.response_ended
    assert exchange.reusable


def test_content_is_complete_when_its_length_is_used_up_and_until_its_end_is_written() -> None:
    exchange = started(b"POST", FIVE)
    seen = [exchange.content_complete]
    for piece in (b"hell", b"o"):
        exchange.request_content(piece)
        seen.append(exchange.content_complete)
    exchange.request_end()
    assert [*seen, exchange.content_complete] == [False, False, True, False]


def test_content_is_never_complete_before_its_end_without_a_length() -> None:
    chunked = started(b"POST", CHUNKED)
    chunked.request_content(b"hello")
    assert not chunked.content_complete
    assert not started().content_complete
