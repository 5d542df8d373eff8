"""Heads: what is refused and with which answer, what is read, and that writing cannot be split."""

from collections.abc import Callable

import h11
import pytest

from proxy.core.http1 import (
    CHUNKED,
    DEFAULT_LIMITS,
    EMPTY,
    NO_BODY,
    UNTIL_CLOSE,
    BadRequestError,
    BadResponseError,
    Framing,
    FramingKind,
    Limits,
    RequestHead,
    ResponseHead,
    connection_options,
    expects_continue,
    find_head_end,
    flawed_so_far,
    join_lines,
    keeps_alive,
    read_request_head,
    read_response_head,
    request_framing,
    requested_upgrade,
    response_framing,
    values,
    write_block,
    write_lines,
    write_request_head,
    write_response_head,
)

HOST = b"Host: 8080-app-abc.example.com\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def request(*lines: bytes, line: bytes = b"POST /p HTTP/1.1", host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(each + b"\r\n" for each in lines) + b"\r\n"


def read(*lines: bytes, line: bytes = b"POST /p HTTP/1.1", host: bytes = HOST) -> RequestHead:
    return read_request_head(request(*lines, line=line, host=host), DEFAULT_LIMITS)


def refusal(head: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[int, str]:
    with pytest.raises(BadRequestError) as caught:
        read_request_head(head, limits)
    return caught.value.status, caught.value.code


def response(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + b"".join(each + b"\r\n" for each in lines) + b"\r\n"


class TestRequestIsRead:
    def test_fields_keep_order_case_and_repetition_and_lose_the_space_around_values(self) -> None:
        head = read(b"X-A:\t one  two \t", b"x-a:three", b"X-Empty:", line=b"GET /a%2Fb?c=%0d HTTP/1.1")
        assert (head.method, head.target, head.http_version) == (b"GET", b"/a%2Fb?c=%0d", b"1.1")
        assert head.fields[1:] == [
            (b"x-a", b"X-A", b"one  two"),
            (b"x-a", b"x-a", b"three"),
            (b"x-empty", b"X-Empty", b""),
        ]
        assert values(head.fields, b"x-a") == [b"one  two", b"three"]
        assert head.authority is None

    @pytest.mark.parametrize("target", [b"/", b"//x", b"/a/../b", b"/%zz", b'/"|{}^`\\', b"/?q=*&u=http://a/"])
    def test_origin_form_target_stays_byte_for_byte(self, target: bytes) -> None:
        assert read(line=b"GET " + target + b" HTTP/1.1").target == target

    @pytest.mark.parametrize(
        ("line", "authority", "target"),
        [
            (b"GET http://example.com/foo?q=1 HTTP/1.1", b"example.com", b"/foo?q=1"),
            (b"GET HTTPS://[::1]:8080 HTTP/1.1", b"[::1]:8080", b"/"),
            (b"GET http://example.com?q HTTP/1.0", b"example.com", b"/?q"),
            (b"OPTIONS http://example.com HTTP/1.1", b"example.com", b"*"),
            (b"OPTIONS http://example.com/ HTTP/1.1", b"example.com", b"/"),
        ],
    )
    def test_absolute_form_becomes_origin_form_and_tells_its_authority(
        self, line: bytes, authority: bytes, target: bytes
    ) -> None:
        head = read(line=line)
        assert (head.authority, head.target) == (authority, target)

    def test_asterisk_is_the_target_of_options(self) -> None:
        assert read(line=b"OPTIONS * HTTP/1.1").target == b"*"

    @pytest.mark.parametrize("method", [b"GET", b"PURGE", b"get", b"M-SEARCH", b"QUERY"])
    def test_any_other_token_is_a_method(self, method: bytes) -> None:
        assert read(line=method + b" / HTTP/1.1").method == method

    def test_bytes_beyond_ascii_are_kept_in_values(self) -> None:
        assert values(read(b"X-A: caf\xc3\xa9 \xff").fields, b"x-a") == [b"caf\xc3\xa9 \xff"]


class TestRequestIsRefused:
    @pytest.mark.parametrize(
        "line",
        [
            b"GET  /p HTTP/1.1",
            b"GET /p  HTTP/1.1",
            b"GET /p q HTTP/1.1",
            b"GET /p",
            b"GET HTTP/1.1",
            b"GET\t/p HTTP/1.1",
            b" GET /p HTTP/1.1",
            b"GET /p HTTP/1.1 ",
            b"GET /p HTTPS/1.1",
            b"GET /p http/1.1",
            b"GET /p HTTP/111",
            b"GET /p HTTP/1.10",
            b"GET: /p HTTP/1.1",
            b"GET\x00 /p HTTP/1.1",
            b"G\xc3\x89T /p HTTP/1.1",
            b"GET /\xc3\xa9 HTTP/1.1",
            b"GET /p\x00 HTTP/1.1",
            b"GET /p\x7f HTTP/1.1",
            b"GET /p#frag HTTP/1.1",
            b"GET p HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET example.com:443 HTTP/1.1",
            b"GET ftp://example.com/ HTTP/1.1",
            b"GET http:///p HTTP/1.1",
            b"GET http://u:p@example.com/p HTTP/1.1",
            b"GET http://example.com/p#frag HTTP/1.1",
            b"GET http://example.com\\@other/ HTTP/1.1",
        ],
    )
    def test_malformed_request_line_is_400(self, line: bytes) -> None:
        assert refusal(request(line=line)) == (400, "BAD_REQUEST")

    @pytest.mark.parametrize("version", [b"2.0", b"0.9", b"1.2", b"3.0"])
    def test_other_version_is_505(self, version: bytes) -> None:
        assert refusal(request(line=b"GET /p HTTP/" + version)) == (505, "VERSION_NOT_SUPPORTED")

    @pytest.mark.parametrize("line", [b"CONNECT example.com:443 HTTP/1.1", b"TRACE /p HTTP/1.1"])
    def test_method_that_we_do_not_proxy_is_405(self, line: bytes) -> None:
        assert refusal(request(line=line)) == (405, "METHOD_NOT_ALLOWED")

    @pytest.mark.parametrize(
        "line",
        [
            b"X-NoColon",
            b": v",
            b"X A: v",
            b"X-A : v",
            b"X-A\t: v",
            b" X-A: v",
            b"X-A: v\r\n folded",
            b"X-A: v\r\n\tfolded",
            b"X-A: v\r\n ",
            b"X-A: a\nb",
            b"X-A: a\nX-B: b",
            b"X-A: a\rX-B: b",
            b"X-A: a\rb",
            b"X-A: a\r",
            b"X-A: a\x00b",
            b"X-A: a\x07b",
            b"X-A: a\x0bb",
            b"X-A: a\x7fb",
            b"X\x00A: v",
            b"X\x85: v",
            b"X-\xc3\xa9: v",
            b"(X): v",
        ],
    )
    def test_malformed_field_line_is_400_in_a_request_and_in_a_response(self, line: bytes) -> None:
        assert refusal(request(line)) == (400, "BAD_REQUEST")
        assert refusal(request(host=line + b"\r\n" + HOST)) == (400, "BAD_REQUEST")
        with pytest.raises(BadResponseError):
            read_response_head(response(line, b"Content-Length: 0"))

    def test_lines_ended_by_bare_lf_are_400(self) -> None:
        assert refusal(b"GET / HTTP/1.1\nHost: a\n\r\n\r\n") == (400, "BAD_REQUEST")

    @pytest.mark.parametrize("host", [b"", HOST + HOST, HOST + b"hOST: other\r\n"])
    @pytest.mark.parametrize("version", [b"1.0", b"1.1"])
    def test_request_without_exactly_one_host_is_400(self, host: bytes, version: bytes) -> None:
        assert refusal(request(line=b"GET / HTTP/" + version, host=host)) == (400, "BAD_REQUEST")

    @pytest.mark.parametrize(
        "length",
        [
            b"",
            b"+5",
            b"-5",
            b"0x5",
            b"1_0",
            b"5abc",
            b"5.0",
            b"1e1",
            b"5, 5",
            b"5, 6",
            b"5 5",
            b"\xa05",
            b"\x855",
            b"\xef\xbc\x95",
            b"1" * 19,
            b"18446744073709551621",
        ],
    )
    def test_content_length_that_is_not_1_to_18_digits_is_refused(self, length: bytes) -> None:
        assert refusal(request(b"Content-Length: " + length)) == (400, "BAD_REQUEST")
        with pytest.raises(BadResponseError):
            read_response_head(response(b"Content-Length: " + length))

    @pytest.mark.parametrize(
        "coding",
        [
            b"",
            b"identity",
            b"gzip, chunked",
            b"chunked, chunked",
            b"chunked;a=b",
            b",chunked",
            b"chunked,",
            b"xchunked",
            b"\xa0chunked",
            b"\x0bchunked",
            b'"chunked"',
        ],
    )
    def test_transfer_coding_other_than_chunked_is_refused(self, coding: bytes) -> None:
        assert refusal(request(b"Transfer-Encoding: " + coding)) == (400, "BAD_REQUEST")
        with pytest.raises(BadResponseError):
            read_response_head(response(b"Transfer-Encoding: " + coding))

    @pytest.mark.parametrize(
        "lines",
        [
            (b"Content-Length: 5", b"Content-Length: 5"),
            (b"Content-Length: 5", b"Content-Length: 6"),
            (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked", b"content-length: 0"),
            (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
        ],
    )
    def test_body_framed_twice_is_refused(self, lines: tuple[bytes, bytes]) -> None:
        assert refusal(request(*lines)) == (400, "BAD_REQUEST")
        with pytest.raises(BadResponseError):
            read_response_head(response(*lines))

    def test_transfer_encoding_in_http_1_0_is_refused(self) -> None:
        coding = b"Transfer-Encoding: chunked"
        assert refusal(request(coding, line=b"POST /p HTTP/1.0")) == (400, "BAD_REQUEST")
        with pytest.raises(BadResponseError):
            read_response_head(response(coding, line=b"HTTP/1.0 200 OK"))

    @pytest.mark.parametrize("name", [b"Transfer_Encoding", b"Content_Length", b"content-length", b"HOST"])
    def test_field_that_can_be_taken_for_a_framing_field_is_400(self, name: bytes) -> None:
        assert refusal(request(name + b": 7", b"Content-Length: 5")) == (400, "BAD_REQUEST")

    @pytest.mark.parametrize("expectation", [b"", b"200-ok", b"100-continue, x", b"100-continue;q=1"])
    def test_other_expectation_is_417(self, expectation: bytes) -> None:
        assert refusal(request(b"Expect: " + expectation)) == (417, "EXPECTATION_FAILED")

    def test_repeated_expectation_is_400(self) -> None:
        assert refusal(request(b"Expect: 100-continue", b"Expect: 100-continue")) == (400, "BAD_REQUEST")

    def test_two_media_types_are_refused_and_one_in_an_odd_spelling_is_not(self) -> None:
        assert refusal(request(b"Content-Type: a/b", b"content-type: a/b")) == (400, "BAD_REQUEST")
        assert values(read(b"Content-Type: a/b", b"Content_Type: c/d").fields, b"content-type") == [b"a/b"]

    @pytest.mark.parametrize(
        ("method", "target", "fields"),
        [
            (b"GET", b"/p", [(b"Host", b"other")]),
            (b"GET", b"/q", [(b"Host", b"a")]),
            (b"PUT", b"/p", [(b"Host", b"a")]),
        ],
    )
    def test_head_that_h11_reads_otherwise_is_400(
        self, monkeypatch: pytest.MonkeyPatch, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]
    ) -> None:
        """No such head is known: h11 is made to read it so."""
        theirs = h11.Request(method=method, target=target, headers=fields)
        monkeypatch.setattr(h11.Connection, "next_event", lambda _: theirs)
        assert refusal(b"GET /p HTTP/1.1\r\nHost: a\r\n\r\n") == (400, "BAD_REQUEST")

    @pytest.mark.parametrize("body", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
    def test_upgrade_with_a_body_is_400(self, body: bytes) -> None:
        assert refusal(request(UPGRADE[:-2], body)) == (400, "BAD_REQUEST")
        assert requested_upgrade(read(UPGRADE[:-2], b"Content-Length: 0")) == b"websocket"

    def test_error_text_does_not_quote_the_request(self) -> None:
        with pytest.raises(BadRequestError) as caught:
            read(b"Cookie: s3cret\x01")
        assert "s3cret" not in str(caught.value)
        assert "s3cret" not in repr(caught.value)


class TestLimits:
    def test_head_of_the_largest_size_is_read_and_a_byte_more_is_431(self) -> None:
        head = request(b"X-A: " + b"a" * 100)
        assert read_request_head(head, Limits(head_bytes_max=len(head))).method == b"POST"
        assert refusal(head, Limits(head_bytes_max=len(head) - 1)) == (431, "HEAD_TOO_LARGE")
        answer = response(b"X-A: " + b"a" * 100)
        assert read_response_head(answer, Limits(head_bytes_max=len(answer))).status == 200
        with pytest.raises(BadResponseError):
            read_response_head(answer, Limits(head_bytes_max=len(answer) - 1))

    def test_a_hundred_fields_are_read_and_one_more_is_431(self) -> None:
        lines = [b"X-A: a"] * 99
        assert len(read(*lines).fields) == 100
        assert refusal(request(*lines, b"X-Z: z")) == (431, "HEAD_TOO_LARGE")
        assert len(read_response_head(response(*lines, b"X-Z: z")).fields) == 100
        with pytest.raises(BadResponseError):
            read_response_head(response(*lines, b"X-Z: z", b"X-Z: z"))

    def test_target_of_8000_bytes_is_read_and_one_of_20000_is_414(self) -> None:
        """RFC 9112 section 3: 8,000 octets at least."""
        assert len(read(line=b"GET /" + b"a" * 7999 + b" HTTP/1.1").target) == 8000
        assert refusal(request(line=b"GET /" + b"a" * 20000 + b" HTTP/1.1")) == (414, "URI_TOO_LONG")


class TestFraming:
    @pytest.mark.parametrize(
        ("line", "framing"),
        [
            (b"X-A: a", NO_BODY),
            (b"Content-Length: 0", EMPTY),
            (b"Content-Length: 007", Framing(FramingKind.LENGTH, 7)),
            (b"Transfer-Encoding: chunked", CHUNKED),
            (b"TRANSFER-ENCODING: Chunked", CHUNKED),
        ],
    )
    def test_request_framing_is_what_the_head_states_and_else_none(self, line: bytes, framing: Framing) -> None:
        assert request_framing(read(line)) == framing

    @pytest.mark.parametrize(
        ("line", "framing"),
        [
            (b"X-A: a", UNTIL_CLOSE),
            (b"Content-Length: 3", Framing(FramingKind.LENGTH, 3)),
            (b"Transfer-Encoding: chunked", CHUNKED),
        ],
    )
    def test_response_framing_is_what_the_head_states_and_else_until_close(self, line: bytes, framing: Framing) -> None:
        head = read_response_head(response(line))
        assert response_framing(head, b"GET") == framing
        assert response_framing(head, b"HEAD") == NO_BODY

    @pytest.mark.parametrize("status", [100, 103, 204, 304])
    def test_response_of_these_statuses_has_no_body_whatever_it_states(self, status: int) -> None:
        head = read_response_head(response(b"Content-Length: 3", line=b"HTTP/1.1 %d X" % status))
        assert response_framing(head, b"GET") == NO_BODY

    def test_only_framings_that_can_bring_a_byte_have_a_body(self) -> None:
        framings = [NO_BODY, EMPTY, Framing(FramingKind.LENGTH, 1), CHUNKED, UNTIL_CLOSE]
        assert [framing.has_body for framing in framings] == [False, False, True, True, True]


class TestConnectionFields:
    def test_options_are_gathered_over_lines_in_lower_case(self) -> None:
        head = read(b"Connection: Keep-Alive ,X-A", b"connection:\tTE")
        assert connection_options(head.fields) == {b"keep-alive", b"x-a", b"te"}

    @pytest.mark.parametrize(
        ("version", "line", "alive"),
        [
            (b"1.1", b"X-A: a", True),
            (b"1.1", b"Connection: keep-alive, CLOSE", False),
            (b"1.0", b"X-A: a", False),
            (b"1.0", b"Connection: Keep-Alive", True),
            (b"1.0", b"Connection: keep-alive, close", False),
        ],
    )
    def test_persistence_follows_version_and_options(self, version: bytes, line: bytes, alive: bool) -> None:
        """RFC 9112 section 9.3."""
        head = read(line, line=b"GET / HTTP/" + version)
        assert keeps_alive(head.http_version, head.fields) is alive

    @pytest.mark.parametrize(
        ("lines", "upgrade"),
        [
            ((b"Connection: Upgrade", b"Upgrade: websocket"), b"websocket"),
            ((b"Connection: keep-alive, upgrade", b"Upgrade: a/1", b"Upgrade: b"), b"a/1, b"),
            ((b"Upgrade: websocket",), None),
            ((b"Connection: Upgrade",), None),
            ((b"Connection: Upgrade", b"Upgrade: h2c"), None),
            ((b"Connection: Upgrade", b"Upgrade: TLS/1.0, HTTP/2.0"), None),
            ((b"Connection: Upgrade", b"Upgrade: H2C, websocket"), b"websocket"),
            ((b"Connection: Upgrade", b"Upgrade: , web socket"), None),
        ],
    )
    def test_upgrade_is_offered_only_when_connection_names_it_and_never_to_http2_or_tls(
        self, lines: tuple[bytes, ...], upgrade: bytes | None
    ) -> None:
        assert requested_upgrade(read(*lines, line=b"GET / HTTP/1.1")) == upgrade
        assert requested_upgrade(read(*lines, line=b"GET / HTTP/1.0")) is None

    def test_http2_upgrade_with_a_body_is_an_ordinary_request(self) -> None:
        """As curl sends it with --http2 and data."""
        head = read(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 5")
        assert request_framing(head).length == 5

    def test_expectation_of_a_1_0_client_is_ignored(self) -> None:
        """RFC 9110 section 10.1.1."""
        assert expects_continue(read(b"Expect: 100-Continue"))
        assert not expects_continue(read(b"Expect: 100-continue", line=b"POST / HTTP/1.0"))
        assert not expects_continue(read())


class TestResponseIsRead:
    @pytest.mark.parametrize(
        ("line", "status", "reason", "version"),
        [
            (b"HTTP/1.1 200 OK", 200, b"OK", b"1.1"),
            (b"HTTP/1.0 404 Not \xc3\xa0 Found", 404, b"Not \xc3\xa0 Found", b"1.0"),
            (b"HTTP/1.1 200", 200, b"", b"1.1"),
            (b"HTTP/1.1 200 ", 200, b"", b"1.1"),
            (b"HTTP/1.1 999 x", 999, b"x", b"1.1"),
            (b"HTTP/1.1 100 Continue", 100, b"Continue", b"1.1"),
        ],
    )
    def test_status_line(self, line: bytes, status: int, reason: bytes, version: bytes) -> None:
        head = read_response_head(response(b"Set-Cookie: a", b"set-cookie:b", line=line))
        assert (head.status, head.reason, head.http_version) == (status, reason, version)
        assert values(head.fields, b"set-cookie") == [b"a", b"b"]

    @pytest.mark.parametrize(
        "line",
        [
            b"HTTP/1.1 abc OK",
            b"HTTP/1.1 20 OK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 099 OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1 200OK",
            b"HTTP/2 200 OK",
            b"HTTP/1.2 200 OK",
            b"http/1.1 200 OK",
            b"ICY 200 OK",
            b" HTTP/1.1 200 OK",
            b"HTTP/1.1\t200 OK",
            b"HTTP/1.1 200 O\x00K",
            b"HTTP/1.1 200 O\x1bK",
            b"HTTP/1.1 200 OK\n",
            b"SSH-2.0-OpenSSH_9.2",
            b"",
        ],
    )
    def test_malformed_status_line_is_refused(self, line: bytes) -> None:
        with pytest.raises(BadResponseError):
            read_response_head(response(line=line))

    @pytest.mark.parametrize("cut", [1, 2, 3, 4])
    def test_head_without_its_empty_line_is_refused(self, cut: int) -> None:
        with pytest.raises(BadResponseError):
            read_response_head(response(b"X-A: a")[:-cut])
        assert refusal(request(b"X-A: a")[:-cut]) == (400, "BAD_REQUEST")

    def test_head_with_an_empty_line_inside_is_refused(self) -> None:
        with pytest.raises(BadResponseError):
            read_response_head(response(b"X-A: a") + response(b"X-A: a"))
        assert refusal(request(b"X-A: a") + request(b"X-A: a")) == (400, "BAD_REQUEST")


class TestSearch:
    def test_head_end_is_found_from_any_start_before_it(self) -> None:
        head = request()
        buffer = bytearray(head + b"body\r\n\r\n")
        assert all(find_head_end(buffer, start) == len(head) for start in range(len(head) - 3))
        assert find_head_end(buffer[: len(head) - 1], 0) == -1

    @pytest.mark.parametrize("begun", [b"GET /\n", b"GET /\r\nHost: a\n", b"a\rb", b"\x16\x03\x01", b"a\x00", b"\n"])
    def test_unfinished_head_with_a_forbidden_byte_is_noticed(self, begun: bytes) -> None:
        assert flawed_so_far(begun, 0)
        assert flawed_so_far(begun, len(begun) - 2 if len(begun) > 1 else 0)

    @pytest.mark.parametrize("begun", [b"", b"GET /\r", b"GET /\r\n", b"GET /\r\nA:\tb\xff\r\n\r"])
    def test_unfinished_head_that_may_still_become_one_is_waited_for(self, begun: bytes) -> None:
        assert not any(flawed_so_far(begun, start) for start in range(len(begun) + 1))


class TestWriting:
    def test_heads_are_written_field_by_field(self) -> None:
        head = read(b"X-A:  b", line=b"GET /p HTTP/1.1")
        assert write_request_head(head.method, head.target, head.fields) == (
            b"GET /p HTTP/1.1\r\nHost: 8080-app-abc.example.com\r\nX-A: b\r\n\r\n"
        )
        assert write_response_head(404, b"Not Found", [(b"a", b"A", b"1")]) == b"HTTP/1.1 404 Not Found\r\nA: 1\r\n\r\n"

    @pytest.mark.parametrize("bad", [b"a\r\nX: y", b"a\n", b"\r", b"a\x00"])
    def test_nothing_given_can_end_a_line(self, bad: bytes) -> None:
        attempts: list[Callable[[], bytes]] = [
            lambda: write_request_head(bad, b"/", []),
            lambda: write_request_head(b"GET", bad, []),
            lambda: write_response_head(200, bad, []),
            lambda: write_block(b"0", [(b"a", bad, b"b")]),
            lambda: write_block(b"0", [(b"a", b"A", bad)]),
            lambda: write_lines([b"GET / HTTP/1.1", b"A: " + bad], tail=b"B: 1"),
            lambda: join_lines([b"A: 1", b"B: " + bad]),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError, match=r"line end or NUL|space"):
                attempt()

    def test_tail_stands_behind_the_lines_as_it_was_joined(self) -> None:
        tail = join_lines([b"B: 2", b"C: 3"])
        assert write_lines([b"GET / HTTP/1.1", b"A: 1"], tail=tail) == b"GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n"
        assert write_lines([b"GET / HTTP/1.1"]) == b"GET / HTTP/1.1\r\n\r\n"

    @pytest.mark.parametrize(("method", "target"), [(b"GET", b"/a b"), (b"G T", b"/"), (b"", b"/"), (b"GET", b"")])
    def test_request_line_has_three_parts(self, method: bytes, target: bytes) -> None:
        with pytest.raises(ValueError, match="empty or hold a space"):
            write_request_head(method, target, [])

    @pytest.mark.parametrize("status", [99, 1000, -200])
    def test_status_has_three_digits(self, status: int) -> None:
        with pytest.raises(ValueError, match="three digits"):
            write_response_head(status, b"", [])

    def test_response_head_defaults_to_version_1_1(self) -> None:
        assert ResponseHead(200, b"OK", []).http_version == b"1.1"
