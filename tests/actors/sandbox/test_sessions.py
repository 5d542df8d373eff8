"""A session is a signature over what it opens: another thing, another session."""

import hashlib
import re

from actors.sandbox.ids import Port, Seal, ShareId
from actors.sandbox.sessions import gate_session, naming_share, read_named, share_session
from actors.sandbox.state import Sharing

SEAL, OTHER = Seal(b"1" * 32), Seal(b"2" * 32)
ONE, TWO = hashlib.sha256(b"one").digest(), hashlib.sha256(b"two").digest()


def sharing(share: str = "k3v9x0q2m7t1z8aa", port: int = 8080, seal: Seal = SEAL) -> Sharing:
    return Sharing(ShareId(share), Port(port), 1, ONE, seal, 60.0)


def test_every_difference_makes_another_session() -> None:
    sessions = [
        gate_session(SEAL, Port(8080), 1, ONE),
        gate_session(OTHER, Port(8080), 1, ONE),
        gate_session(None, Port(8080), 1, ONE),
        gate_session(SEAL, Port(808), 1, ONE),
        gate_session(SEAL, Port(8080), 11, ONE),
        gate_session(SEAL, Port(8080), 1, TWO),
        share_session(sharing()),
        share_session(sharing("0000000000000000")),
        share_session(sharing(port=8081)),
        share_session(sharing(seal=OTHER)),
    ]
    assert len(set(sessions)) == len(sessions)
    # Short enough for a cookie, and nothing in it that would need quoting (RFC 6265 section 4.1.1).
    assert all(re.fullmatch(rb"[A-Za-z0-9_-]{43}", session) for session in sessions)


def test_name_of_a_share_is_read_back_and_nothing_else_has_one() -> None:
    session = share_session(sharing())
    named = naming_share("k3v9x0q2m7t1z8aa", session)
    assert read_named(named) == ("k3v9x0q2m7t1z8aa", session)
    assert len(named) == 60
    assert read_named(session) is None
    assert read_named(b"") is None
    assert read_named(b"\xff.x.y") == ("\xff", b"x.y")


def test_session_is_the_same_each_time_and_stays_the_same_from_version_to_version() -> None:
    assert gate_session(SEAL, Port(8080), 1, ONE) == b"wwrrWF8yfEKBLfMsI9h-ra8EQAihvsW4s-tHo347u8Q"
    assert share_session(sharing()) == b"Ipr_DXV8hwyQ7kzVzC-gQc37i-QQ_tARg5v905euJK0"
