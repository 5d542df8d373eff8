"""The client side of a connection: conversations of bytes in, events out, and answers in, bytes out."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from proxy.core.body import NO_TRAILERS
from proxy.core.http1 import (
    CHUNKED,
    EMPTY,
    NO_BODY,
    UNTIL_CLOSE,
    BadRequestError,
    BadResponseError,
    Field,
    Framing,
    FramingKind,
    Limits,
    ResponseHead,
)
from proxy.core.serving import (
    RequestContent,
    RequestEnded,
    RequestStarted,
    ServerConnection,
    ServerEvent,
    Signal,
)

GET = b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
STREAM = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nVary: *\r\n\r\n"
GET_1_0 = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"
GET_1_0_ALIVE = b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
EXPECTING = b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
THREE = Framing(FramingKind.LENGTH, 3)


def field(name: bytes, value: bytes) -> Field:
    return (name.lower(), name, value)


def ok(*fields: Field, status: int = 200) -> ResponseHead:
    return ResponseHead(status, b"OK", list(fields))


def connected(data: bytes, limits: Limits | None = None) -> ServerConnection:
    connection = ServerConnection(limits) if limits else ServerConnection()
    connection.receive(data)
    return connection


def events_of(connection: ServerConnection) -> list[ServerEvent]:
    """Every event up to a signal, the signal included."""
    events = [connection.next_event()]
    while not isinstance(events[-1], Signal):
        events.append(connection.next_event())
    return events


def read_request(data: bytes) -> ServerConnection:
    """A connection whose one request has been read."""
    connection = connected(data)
    assert events_of(connection)[-1] is Signal.PAUSED
    return connection


def assert_refused(connection: ServerConnection, status: int) -> None:
    for _ in range(2):
        with pytest.raises(BadRequestError) as caught:
            events_of(connection)
        assert caught.value.status == status
    assert not connection.keep_alive


class TestReading:
    @pytest.mark.parametrize("step", [1, 2, 5, 10_000])
    @pytest.mark.parametrize(
        ("wire", "content", "trailers"),
        [(GET, b"", []), (POST, b"hello", []), (STREAM, b"hello", [field(b"Vary", b"*")]), (b"\r\n" + GET, b"", [])],
    )
    def test_requests_back_to_back_come_out_one_by_one_however_they_are_cut(
        self, wire: bytes, content: bytes, trailers: list[Field], step: int
    ) -> None:
        connection, got, ended = ServerConnection(), b"", 0
        stream = wire * 3
        for start in range(0, len(stream), step):
            connection.receive(stream[start : start + step])
            for event in iter(connection.next_event, Signal.NEED_DATA):
                if event is Signal.PAUSED:
                    connection.respond(ok(), EMPTY)
                    connection.end()
                    connection.start_next()
                elif isinstance(event, RequestContent):
                    got += event.data
                elif isinstance(event, RequestEnded):
                    ended += 1
                    assert list(event.trailers) == trailers
        assert (got, ended) == (content * 3, 3)
        connection.receive_eof()
        assert connection.next_event() is Signal.CONNECTION_ENDED

    def test_pipelined_request_stays_unread_until_the_answer_has_ended(self) -> None:
        connection = connected(GET + GET)
        assert len(events_of(connection)) == 3
        assert connection.next_event() is Signal.PAUSED
        assert connection.buffered == len(GET)
        connection.respond(ok(), EMPTY)
        assert connection.next_event() is Signal.PAUSED
        with pytest.raises(RuntimeError):
            connection.start_next()
        connection.end()
        connection.start_next()
        assert isinstance(connection.next_event(), RequestStarted)
        assert connection.buffered == 0

    def test_long_head_in_pieces_does_not_hide_the_end_of_a_short_one(self) -> None:
        long = GET.replace(b"one", b"one" * 100)
        connection = connected(long[:-1])
        assert connection.next_event() is Signal.NEED_DATA
        connection.receive(long[-1:] + GET)
        events_of(connection)
        connection.respond(ok(), EMPTY)
        connection.end()
        connection.start_next()
        assert isinstance(connection.next_event(), RequestStarted)

    def test_trailers_that_would_do_harm_are_dropped(self) -> None:
        wire = STREAM.replace(b"Vary: *", b"Vary: *\r\nX-Forwarded-For: b\r\nSet-Cookie: a=b")
        assert events_of(connected(wire))[-2] == RequestEnded([field(b"Vary", b"*")])

    def test_start_of_a_request_tells_framing_expectation_and_upgrade(self) -> None:
        started = connected(EXPECTING).next_event()
        assert isinstance(started, RequestStarted)
        assert (started.framing, started.expect_continue, started.upgrade) == (
            Framing(FramingKind.LENGTH, 5),
            True,
            None,
        )
        started = connected(UPGRADE).next_event()
        assert isinstance(started, RequestStarted)
        assert (started.framing, started.expect_continue, started.upgrade) == (NO_BODY, False, b"websocket")

    def test_content_comes_before_the_body_is_complete(self) -> None:
        connection = connected(POST[:-3])
        assert events_of(connection)[1:] == [RequestContent(b"he"), Signal.NEED_DATA]
        connection.receive(b"llo")
        assert events_of(connection) == [RequestContent(b"llo"), RequestEnded(NO_TRAILERS), Signal.PAUSED]

    def test_repr_of_an_event_holds_no_secret(self) -> None:
        wire = STREAM.replace(b"/p", b"/p?s3cret").replace(b"\r\nHost", b"\r\nCookie: s3cret\r\nHost")
        events = events_of(connected(wire.replace(b"3\r\nhel\r\n2\r\nlo", b"6\r\ns3cret").replace(b"*", b"s3cret")))
        assert [type(event) for event in events] == [RequestStarted, RequestContent, RequestEnded, Signal]
        assert "s3cret" not in repr(events)

    def test_client_that_half_closes_after_its_request_is_still_answered(self) -> None:
        connection = connected(GET)
        connection.receive_eof()
        assert events_of(connection)[-1] is Signal.PAUSED
        assert connection.respond(ok(), EMPTY)
        connection.end()
        connection.start_next()
        assert connection.next_event() is Signal.CONNECTION_ENDED
        assert not connection.keep_alive

    @pytest.mark.parametrize("wire", [GET[:-1], b"GET", POST[:-1], STREAM[:-1], b"\r\n\r\n" + GET[:5]])
    def test_connection_that_ends_inside_a_request_is_400(self, wire: bytes) -> None:
        connection = connected(wire)
        connection.receive_eof()
        assert_refused(connection, 400)

    @pytest.mark.parametrize("wire", [b"GET / HTTP/1.1\nHost: a\n\n", b"\x16\x03\x01\x02", b"\r\n\r\n" + GET, b"\rX"])
    def test_what_can_never_be_a_head_is_400_at_once(self, wire: bytes) -> None:
        assert_refused(connected(wire), 400)
        connection = ServerConnection()
        for byte in wire[:-1]:
            connection.receive(bytes([byte]))
            with suppress(BadRequestError):
                assert connection.next_event() is Signal.NEED_DATA
        connection.receive(wire[-1:])
        assert_refused(connection, 400)

    def test_head_without_end_is_431_and_target_without_end_414(self) -> None:
        limits = Limits(head_bytes_max=200, target_bytes_max=100)
        assert_refused(connected(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 200, limits), 431)
        assert_refused(connected(b"GET /" + b"a" * 200, limits), 414)
        assert_refused(connected(b"GET /" + b"a" * 120 + b" HTTP/1.1\r\nX: " + b"a" * 100, limits), 414)
        assert connected(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 100, limits).next_event() is Signal.NEED_DATA

    @pytest.mark.parametrize("body", [b"G\r\n", b"1\r\nab", b"0\r\nContent-Length: 9\r\n\r\n", b"0\r\nHost: b\r\n\r\n"])
    def test_broken_chunks_and_framing_trailers_are_400(self, body: bytes) -> None:
        assert_refused(connected(STREAM[: STREAM.index(b"3\r\nhel")] + body + GET), 400)

    def test_nothing_after_a_refused_request_is_read(self) -> None:
        connection = connected(GET.replace(b"Host", b"Host ") + GET)
        assert_refused(connection, 400)
        connection.receive(GET)
        assert connection.buffered == 0
        assert b"\r\nConnection: close\r\n" in connection.respond(ok(status=400), EMPTY)
        connection.end()
        with pytest.raises(RuntimeError):
            connection.start_next()


class TestAnswering:
    def test_known_length_is_kept_and_own_framing_replaces_what_the_head_brings(self) -> None:
        connection = read_request(GET)
        head = ok(
            field(b"Content-Length", b"99"),
            field(b"X-A", b"a"),
            field(b"Transfer-Encoding", b"chunked"),
            field(b"Connection", b"close"),
            field(b"Keep-Alive", b"timeout=5"),
        )
        assert connection.respond(head, THREE) == b"HTTP/1.1 200 OK\r\nX-A: a\r\nContent-Length: 3\r\n\r\n"
        assert connection.content(b"ab") + connection.content(b"c") + connection.end() == b"abc"
        assert connection.keep_alive

    @pytest.mark.parametrize("framing", [CHUNKED, UNTIL_CLOSE])
    def test_unknown_length_is_chunked_for_a_1_1_client(self, framing: Framing) -> None:
        connection = read_request(GET)
        assert connection.respond(ok(), framing) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert connection.content(b"abc") == b"3\r\nabc\r\n"
        assert connection.content(b"") == b""
        assert connection.end([field(b"X-A", b"1")]) == b"0\r\nX-A: 1\r\n\r\n"
        assert connection.keep_alive

    @pytest.mark.parametrize("wire", [GET_1_0, GET_1_0_ALIVE])
    @pytest.mark.parametrize("framing", [CHUNKED, UNTIL_CLOSE])
    def test_unknown_length_ends_with_the_connection_for_a_1_0_client(self, wire: bytes, framing: Framing) -> None:
        connection = read_request(wire)
        assert connection.respond(ok(), framing) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        assert connection.content(b"abc") + connection.end([field(b"X-A", b"1")]) == b"abc"
        assert not connection.keep_alive

    @pytest.mark.parametrize(
        ("wire", "option", "alive"),
        [
            (GET, b"", True),
            (GET[:-2] + b"Connection: close\r\n\r\n", b"Connection: close\r\n", False),
            (GET_1_0, b"Connection: close\r\n", False),
            (GET_1_0_ALIVE, b"Connection: keep-alive\r\n", True),
        ],
    )
    def test_persistence_is_told_as_the_client_understands_it(self, wire: bytes, option: bytes, alive: bool) -> None:
        connection = read_request(wire)
        assert connection.respond(ok(), EMPTY) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + option + b"\r\n"
        connection.end()
        assert connection.keep_alive is alive

    def test_answer_that_is_to_be_the_last_says_so(self) -> None:
        # RFC 9112 section 9.6.
        connection = connected(POST[:-1])
        assert events_of(connection)[-1] is Signal.NEED_DATA
        connection.make_last()
        assert connection.respond(ok(), EMPTY).endswith(b"Connection: close\r\n\r\n")
        connection.end()
        connection.receive(POST[-1:])
        assert events_of(connection)[-1] is Signal.PAUSED
        assert not connection.keep_alive

    @pytest.mark.parametrize(
        ("method", "status", "framing", "stated", "told"),
        [
            (b"HEAD", 200, NO_BODY, b"7", b"Content-Length: 7\r\n"),
            (b"HEAD", 200, THREE, None, b"Content-Length: 3\r\n"),
            (b"HEAD", 200, NO_BODY, None, b""),
            (b"GET", 304, NO_BODY, b"7", b"Content-Length: 7\r\n"),
            (b"GET", 204, NO_BODY, b"0", b""),
            (b"GET", 204, THREE, None, b""),
        ],
    )
    def test_answer_without_content_swallows_it_and_has_no_framing_of_its_own(
        self, method: bytes, status: int, framing: Framing, stated: bytes | None, told: bytes
    ) -> None:
        connection = read_request(GET.replace(b"GET", method))
        fields = [field(b"Content-Length", stated)] if stated else []
        assert connection.respond(ok(*fields, status=status), framing) == b"HTTP/1.1 %d OK\r\n%b\r\n" % (status, told)
        assert connection.content(b"abc") + connection.end() == b""
        assert connection.keep_alive

    @pytest.mark.parametrize("sent", [b"ab", b""])
    def test_answer_shorter_than_its_length_cannot_end(self, sent: bytes) -> None:
        connection = read_request(GET)
        connection.respond(ok(), THREE)
        connection.content(sent)
        with pytest.raises(BadResponseError):
            connection.end()
        assert not connection.keep_alive

    def test_content_beyond_the_length_is_refused(self) -> None:
        connection = read_request(GET)
        connection.respond(ok(), THREE)
        connection.content(b"abc")
        with pytest.raises(BadResponseError):
            connection.content(b"d")
        assert not connection.keep_alive

    def test_calls_out_of_order_are_errors_of_the_caller(self) -> None:
        connection = connected(GET)
        early: list[Callable[[], object]] = [
            lambda: connection.respond(ok(), EMPTY),
            lambda: connection.content(b""),
            connection.end,
        ]
        for call in early:
            with pytest.raises(RuntimeError):
                call()
        events_of(connection)
        with pytest.raises(RuntimeError):
            connection.respond(ok(status=103), EMPTY)
        connection.respond(ok(), EMPTY)
        late: list[Callable[[], object]] = [
            lambda: connection.respond(ok(), EMPTY),
            lambda: connection.informational(ok(status=103)),
            connection.start_next,
            connection.take_buffer,
        ]
        for call in late:
            with pytest.raises(RuntimeError):
                call()


class TestFullDuplex:
    def test_answer_may_begin_and_end_before_the_request_and_the_connection_goes_on_once_it_is_read(self) -> None:
        connection = connected(POST[:-3])
        events_of(connection)
        assert b"Connection" not in connection.respond(ok(), CHUNKED)
        assert connection.content(b"early") + connection.end()
        alive_before = connection.keep_alive
        with pytest.raises(RuntimeError):
            connection.start_next()
        connection.receive(b"llo" + GET)
        assert events_of(connection) == [RequestContent(b"llo"), RequestEnded(NO_TRAILERS), Signal.PAUSED]
        assert (alive_before, connection.keep_alive) == (False, True)
        connection.start_next()
        assert isinstance(connection.next_event(), RequestStarted)

    def test_request_that_breaks_under_way_leaves_no_second_answer(self) -> None:
        connection = connected(STREAM[: STREAM.index(b"2\r\nlo")])
        events_of(connection)
        connection.respond(ok(), CHUNKED)
        connection.receive(b"G\r\n")
        assert_refused(connection, 400)
        assert connection.response_started
        with pytest.raises(RuntimeError):
            connection.respond(ok(status=400), EMPTY)


class TestContinue:
    def test_interim_answers_reach_a_1_1_client_and_not_a_1_0_client(self) -> None:
        hints = ok(field(b"Link", b"</a>"), field(b"Content-Length", b"3"), status=103)
        assert read_request(GET).informational(hints) == b"HTTP/1.1 103 OK\r\nLink: </a>\r\n\r\n"
        assert read_request(GET_1_0).informational(hints) == b""

    @pytest.mark.parametrize("status", [101, 200, 99])
    def test_only_a_1xx_other_than_101_is_interim(self, status: int) -> None:
        with pytest.raises(RuntimeError):
            read_request(GET).informational(ok(status=status))

    def test_client_told_to_continue_sends_its_body_and_keeps_the_connection(self) -> None:
        connection = connected(EXPECTING)
        events_of(connection)
        assert connection.informational(ok(status=100)) == b"HTTP/1.1 100 OK\r\n\r\n"
        connection.receive(b"hello")
        assert events_of(connection)[0] == RequestContent(b"hello")
        assert b"Connection" not in connection.respond(ok(), EMPTY)
        connection.end()
        assert connection.keep_alive

    def test_answer_after_100_waits_for_the_body_that_must_come(self) -> None:
        connection = connected(EXPECTING)
        events_of(connection)
        connection.informational(ok(status=100))
        assert b"Connection" not in connection.respond(ok(), EMPTY)
        connection.end()
        alive_before = connection.keep_alive
        connection.receive(b"hello")
        events_of(connection)
        assert (alive_before, connection.keep_alive) == (False, True)

    def test_expectation_without_a_body_means_nothing(self) -> None:
        connection = connected(EXPECTING.replace(b"Content-Length: 5\r\n", b""))
        started = connection.next_event()
        assert isinstance(started, RequestStarted)
        assert not started.expect_continue
        assert b"Connection" not in connection.respond(ok(), EMPTY)

    def test_client_that_does_not_wait_keeps_the_connection(self) -> None:
        connection = read_request(EXPECTING + b"hello")
        assert b"Connection" not in connection.respond(ok(), EMPTY)

    def test_final_answer_instead_of_100_closes_because_the_body_may_or_may_not_come(self) -> None:
        """RFC 9110 section 10.1.1: what follows could be the body or the next request."""
        connection = connected(EXPECTING)
        events_of(connection)
        assert b"Connection: close\r\n" in connection.respond(ok(status=401), EMPTY)
        connection.end()
        connection.receive(b"hello")
        events_of(connection)
        assert not connection.keep_alive


class TestSwitch:
    def test_accepted_upgrade_leaves_raw_bytes_in_both_directions(self) -> None:
        connection = read_request(UPGRADE + b"\x81\x00")
        head = ok(field(b"Upgrade", b"websocket"), field(b"Connection", b"x"), field(b"X-A", b"a"), status=101)
        assert connection.switch_protocols(head) == (
            b"HTTP/1.1 101 OK\r\nX-A: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        connection.receive(b"\x81\x01")
        assert connection.take_buffer() == b"\x81\x00\x81\x01"
        assert connection.take_buffer() == b""
        assert not connection.keep_alive
        with pytest.raises(RuntimeError):
            connection.next_event()

    def test_refused_upgrade_is_an_ordinary_answer(self) -> None:
        connection = read_request(UPGRADE + GET)
        connection.respond(ok(status=403), EMPTY)
        connection.end()
        connection.start_next()
        assert isinstance(connection.next_event(), RequestStarted)

    @pytest.mark.parametrize("wire", [GET, POST])
    def test_request_that_offered_nothing_cannot_switch(self, wire: bytes) -> None:
        with pytest.raises(RuntimeError):
            read_request(wire).switch_protocols(ok(field(b"Upgrade", b"websocket"), status=101))


@pytest.mark.parametrize(("status", "told"), [(426, True), (400, False)])
def test_upgrade_required_names_the_protocol_as_rfc_9110_15_5_22_asks(status: int, told: bool) -> None:
    connection = read_request(GET)
    out = connection.respond(ok(field(b"Upgrade", b"websocket"), status=status), EMPTY)
    assert (b"Upgrade: websocket\r\n" in out) is told
