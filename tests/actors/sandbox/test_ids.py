"""Names and secrets: what is taken, what is refused and why, and that secrets do not show."""

import copy
import hashlib
import pickle
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InvalidNameError
from actors.sandbox.ids import (
    PORT_TOKEN_BYTES,
    RESERVED_SANDBOX_IDS,
    Port,
    PortToken,
    PreviewToken,
    SandboxId,
)
from actors.testing.strategies import port_tokens, ports, preview_tokens, sandbox_ids

# Sandbox ids.


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("myproject", "myproject"),
        ("my-app", "my-app"),
        ("a", "a"),
        ("A", "a"),
        ("0", "0"),
        ("1234", "1234"),
        ("My-APP-7", "my-app-7"),
        ("a--b", "a--b"),
        ("xn--abc", "xn--abc"),
        ("sb-1a2b3c4d", "sb-1a2b3c4d"),
        ("x" * 40, "x" * 40),
        ("www2", "www2"),
        ("api-v1", "api-v1"),
    ],
)
def test_sandbox_id_is_taken_and_folded(text: str, canonical: str) -> None:
    assert SandboxId(text) == canonical
    assert SandboxId(SandboxId(text)) is not None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "1 to 40 characters"),
        ("x" * 41, "1 to 40 characters"),
        # The reference takes up to 63, and builds labels that the DNS cannot carry.
        ("a" * 63, "1 to 40 characters"),
        ("-", "hyphens"),
        ("--", "hyphens"),
        ("-app", "hyphens"),
        ("myproject-", "hyphens"),
        # The reference lets these through.
        ("my_sb", "only a-z"),
        ("has space", "only a-z"),
        ("a.b", "only a-z"),
        ("a\n", "only a-z"),
        ("\ta", "only a-z"),
        ("a\0", "only a-z"),
        ("a/../b", "only a-z"),
        ("café", "only a-z"),
        # KELVIN SIGN: str.lower() makes a "k" of it.
        ("\u212a", "only a-z"),
        ("\uff41", "only a-z"),
        ("\u0661", "only a-z"),
        *((name, "reserved") for name in sorted(RESERVED_SANDBOX_IDS)),
        ("API", "reserved"),
        ("Cloudflare", "reserved"),
    ],
)
def test_sandbox_id_is_refused_with_its_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidNameError, match=rule):
        SandboxId(text)


def test_reserved_ids_are_the_published_ones() -> None:
    assert {"www", "api", "admin", "root", "system", "cloudflare", "workers"} == RESERVED_SANDBOX_IDS


@given(sandbox_ids(), st.data())
def test_sandbox_id_means_the_same_in_any_case(sandbox: SandboxId, data: st.DataObject) -> None:
    text = "".join(data.draw(st.sampled_from([letter, letter.upper()])) for letter in sandbox)
    assert SandboxId(text) == sandbox


@given(st.text(max_size=50))
def test_sandbox_id_is_canonical_or_refused(text: str) -> None:
    try:
        sandbox = SandboxId(text)
    except InvalidNameError:
        return
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", sandbox)
    assert SandboxId(str(sandbox)) == sandbox == text.lower()


def test_minted_sandbox_id_is_sb_and_eight_hex_digits() -> None:
    assert SandboxId.mint(b"\x01\x23\xab\xcd and more") == "sb-0123abcd"
    with pytest.raises(ValueError, match="four bytes"):
        SandboxId.mint(b"\x01\x23\xab")


# Ports.


@pytest.mark.parametrize("number", [1, 80, 1023, 1024, 2999, 3000, 8080, 65535])
def test_port_is_taken(number: int) -> None:
    assert Port(number) == number
    assert Port.parse(str(number)) == number


@pytest.mark.parametrize("number", [0, -1, 65536, 2**32 + 8080])
def test_port_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(InvalidNameError, match="between 1 and 65535"):
        Port(number)


def test_number_that_python_does_not_print_is_refused_like_any_other() -> None:
    with pytest.raises(InvalidNameError, match="of many digits is not between 1 and 65535"):
        Port(10**5000)


@pytest.mark.parametrize("thing", [True, False, 8080.0, 3000.5, float("inf"), "8080", b"8080", None])
def test_port_of_another_type_is_refused(thing: object) -> None:
    # What arrives as JSON is of any type, whatever the annotation says.
    with pytest.raises(InvalidNameError, match="a port is a number"):
        Port(thing)  # type: ignore[arg-type] # the point of the test


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "08080",
        "00",
        "+8080",
        "-1",
        " 8080",
        "8080 ",
        "8080\n",
        "8_080",
        "8080.0",
        "1e3",
        "0x50",
        "65536",
        "99999",
        "123456",
        "٨٠٨٠",
        "\uff18\uff10\uff18\uff10",
        "²",
        "9" * 5000,
    ],
)
def test_port_is_read_in_canonical_decimal_only(text: str) -> None:
    with pytest.raises(InvalidNameError):
        Port.parse(text)


@given(ports())
def test_port_is_read_as_it_is_written(port: Port) -> None:
    assert Port.parse(f"{port:d}") == port


# Port tokens.


@pytest.mark.parametrize("text", ["abc_123_xyz", "_", "my_token_v1", "stable", "a" * 16, "0", "________________"])
def test_port_token_is_taken_as_it_is(text: str) -> None:
    assert PortToken(text).reveal() == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "1 to 16 characters"),
        ("a1234567890123456", "not 17"),
        ("a" * 17, "not 17"),
        ("ABC123", "only a-z"),
        ("my-api-v1", "only a-z"),
        ("a b", "only a-z"),
        ("tok.en", "only a-z"),
        # `re.match` with `$` would take the first of these.
        ("tok\n", "only a-z"),
        ("\ntok", "only a-z"),
        ("\uff41", "only a-z"),
        ("\u0661", "only a-z"),
        ("tök", "only a-z"),
        ("tok\0", "only a-z"),
    ],
)
def test_port_token_is_refused_with_its_rule_and_without_its_text(text: str, rule: str) -> None:
    with pytest.raises(InvalidNameError, match=rule) as refused:
        PortToken(text)
    assert len(text) < 3 or text not in str(refused.value)


@pytest.mark.parametrize("thing", [None, 7, b"stable", True])
def test_port_token_of_another_type_is_refused(thing: object) -> None:
    with pytest.raises(InvalidNameError, match="a token is text"):
        PortToken(thing)  # type: ignore[arg-type] # the point of the test


def test_minted_port_token_is_made_of_its_entropy_alone() -> None:
    # Written out: another way to draw it would be another amount of secrecy, and should be seen in review.
    assert PortToken.mint(bytes(range(20))).reveal() == PortToken.mint(bytes(range(20)) + b"more").reveal()
    assert PortToken.mint(bytes(20)).reveal() == "0" * 16
    assert PortToken.mint((35).to_bytes(20, "big")).reveal() == "z" + "0" * 15
    assert PortToken.mint((36).to_bytes(20, "big")).reveal() == "01" + "0" * 14


def test_minted_port_token_wants_its_entropy() -> None:
    with pytest.raises(ValueError, match="20 bytes"):
        PortToken.mint(b"x" * (PORT_TOKEN_BYTES - 1))


@given(st.binary(min_size=PORT_TOKEN_BYTES, max_size=PORT_TOKEN_BYTES))
def test_minted_port_token_is_sixteen_characters_of_a_hostname(entropy: bytes) -> None:
    assert re.fullmatch("[a-z0-9]{16}", PortToken.mint(entropy).reveal())


def test_minted_port_tokens_use_every_character_about_as_often() -> None:
    """A hash of 0, 1, 2, ... stands for randomness."""
    counts = dict.fromkeys(string.digits + string.ascii_lowercase, 0)
    for number in range(2000):
        for character in PortToken.mint(hashlib.shake_128(bytes([number >> 8, number & 255])).digest(20)).reveal():
            counts[character] += 1
    expected = 2000 * 16 / 36
    assert all(0.85 * expected < count < 1.15 * expected for count in counts.values()), counts


# Preview tokens.


@pytest.mark.parametrize("text", ["x" * 16, "x" * 512, "".join(map(chr, range(0x21, 0x7F))), "sixteen-letters!"])
def test_preview_token_is_taken_as_it_is(text: str) -> None:
    assert PreviewToken(text).reveal() == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "at least 16"),
        ("x" * 15, "at least 16"),
        ("x" * 513, "at most 512"),
        ("sixteen letters!", "visible ASCII"),
        ("tab\tis-not-visible", "visible ASCII"),
        ("line-end-at-the-end\n", "visible ASCII"),
        ("größer-als-ascii-ist", "visible ASCII"),
        ("delete-is-not-one\x7f", "visible ASCII"),
    ],
)
def test_preview_token_is_refused_with_its_rule_and_without_its_text(text: str, rule: str) -> None:
    with pytest.raises(InvalidNameError, match=rule) as refused:
        PreviewToken(text)
    assert not text or text not in str(refused.value)


def test_preview_token_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="a preview token is text"):
        PreviewToken(b"x" * 32)  # type: ignore[arg-type] # the point of the test


def test_minted_preview_token_is_43_characters_of_base64url() -> None:
    assert PreviewToken.mint(b"\xff" * 32).reveal() == "_" * 42 + "8"
    assert re.fullmatch("[A-Za-z0-9_-]{43}", PreviewToken.mint(bytes(range(32))).reveal())
    for length in (31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            PreviewToken.mint(b"x" * length)


def test_digest_is_the_sha_256_of_the_text() -> None:
    # From `printf sixteen-letters! | sha256sum`.
    digest = PreviewToken("sixteen-letters!").digest()
    assert len(digest) == 32
    assert digest.hex() == "e178cfa9fadaf72ddef299ee2db3c05d7be0a6a6049afb2b153b5fbf136c472d"


# Secrets.

secrets = port_tokens() | preview_tokens()


@given(secrets)
def test_secret_shows_nowhere(secret: PortToken | PreviewToken) -> None:
    shown = {repr(secret), str(secret), f"{secret}", f"{[secret]}"}
    assert shown == {f"{type(secret).__name__}(****)", "****", f"[{type(secret).__name__}(****)]"}
    with pytest.raises(AttributeError):
        secret.__dict__  # noqa: B018  # the point of the test


@given(secrets, secrets)
def test_secrets_are_equal_if_their_texts_and_kinds_are(
    one: PortToken | PreviewToken, other: PortToken | PreviewToken
) -> None:
    same = type(one) is type(other) and one.reveal() == other.reveal()
    assert (one == other) is same
    assert not same or hash(one) == hash(other)
    assert one.matches(other.reveal()) is (one.reveal() == other.reveal())


def test_secret_equals_no_text() -> None:
    assert PortToken("stable") != "stable"
    assert len({PortToken("stable"), PortToken("stable"), "stable"}) == 2


@pytest.mark.parametrize("candidate", ["tök", "\ud800", "", "stable ", "Stable", b"", b"\xff", b"stable\0"])
def test_any_text_or_bytes_may_be_compared(candidate: str | bytes) -> None:
    # `hmac.compare_digest` raises TypeError on text that is not ASCII.
    assert not PortToken("stable").matches(candidate)


def test_secret_matches_its_text_and_its_bytes() -> None:
    assert PortToken("stable").matches("stable")
    assert PortToken("stable").matches(b"stable")


@given(secrets)
def test_secret_can_be_copied(secret: PortToken | PreviewToken) -> None:
    assert copy.deepcopy(secret) == secret
    assert pickle.loads(pickle.dumps(secret)) == secret
