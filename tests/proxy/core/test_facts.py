"""What the log adds: which of two causes it was, and since when."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from actors import ContainerSpec, HostHeader, Moment, SandboxId, SandboxState
from actors.sandbox.events import Event, PortUnexposed, SandboxDestroyed, ShareExpired, ShareRevoked
from actors.sandbox.ids import Port, Seal, ShareId
from actors.sandbox.state import Sharing
from proxy.core.diagnosis import Finding, Outcome, Reply, Step, Target, failed, ok
from proxy.core.facts import Facts, facts_of, judge_record, listening_addresses, sharpen, shown_time

TOKEN = "k3v9x0q2m7t1z8aa"
TARGET = Target.read(f"https://8080-my-app-{TOKEN}.example.com/")
NOON = 1_800_000_000.0

SOUND = Facts(
    status="active",
    status_since=NOON,
    exposed=True,
    exposed_since=NOON + 1,
    token_fits=True,
    gated_since=None,
    up=True,
    run_since=NOON + 2,
    run_end=None,
    container="process",
    host_header=HostHeader.LOCALHOST,
)


def changed(**changes: object) -> Facts:
    return Facts(**({name: getattr(SOUND, name) for name in Facts.__slots__} | changes))


def test_moments_are_read_for_what_matters() -> None:
    """A log that begins with a snapshot, as after a compaction."""
    state = SandboxState(SandboxId("my-app"), ContainerSpec("address", {"host": "10.0.0.5"}))
    facts = facts_of([Moment(1, 1, NOON, None, state)], TARGET)
    assert facts is not None
    assert (facts.status, facts.exposed, facts.exposed_since, facts.up) == ("active", False, None, False)
    assert (facts.run_since, facts.container, facts.token_fits) == (None, "address", False)


def test_no_past_is_no_facts() -> None:
    assert facts_of([], TARGET) is None
    assert judge_record(None, TARGET, "portico-data").outcome is Outcome.SKIPPED
    assert judge_record(None, Target.read("http://localhost/"), "portico-data").outcome is Outcome.SKIPPED


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (SOUND, "the token fits; up since 2027-01-15 08:00:02Z"),
        (changed(token_fits=False), "the token is another one"),
        (changed(exposed=False, token_fits=False), "port 8080 was taken back at 2027-01-15 08:00:01Z"),
        (changed(exposed=False, exposed_since=None), "port 8080 was never exposed"),
        (changed(gated_since=NOON + 3), "preview token in force since 2027-01-15 08:00:03Z"),
        (changed(up=False, run_end="exited"), "asleep since 2027-01-15 08:00:02Z (exited)"),
        (changed(up=False, run_since=None), "never run"),
        (changed(status="stopped"), "stopped since 2027-01-15 08:00:00Z"),
    ],
)
def test_record_is_told_and_fails_nothing(facts: Facts, words: str) -> None:
    found = judge_record(facts, TARGET, "portico-data")
    assert found.outcome is Outcome.OK
    assert words in found.text


NOT_FOUND = Reply(404, ())
REFUSED = failed(Step.TOKEN, "wrong token, or not exposed", "mend")


@pytest.mark.parametrize(
    ("found", "facts", "said", "listening", "words"),
    [
        (REFUSED, changed(status="destroyed", exposed=False), NOT_FOUND, (), "was destroyed at 2027-01-15 08:00:00Z"),
        (REFUSED, changed(exposed=False), NOT_FOUND, (), "port 8080 was taken back at 2027-01-15 08:00:01Z"),
        (REFUSED, changed(exposed=False, exposed_since=None), NOT_FOUND, (), "port 8080 was never exposed"),
        (REFUSED, changed(token_fits=False), NOT_FOUND, (), "it has had another since 2027-01-15 08:00:01Z"),
        (
            failed(Step.TOKEN, "wrong one", "mend"),
            changed(gated_since=NOON + 3),
            Reply(401, ()),
            (),
            "wrong one; the present one is in force since 2027-01-15 08:00:03Z",
        ),
        (
            failed(Step.RUN, "does not start", "mend"),
            changed(up=False, run_end="failed"),
            Reply(503, ()),
            (),
            "its last run ended at 2027-01-15 08:00:02Z: failed",
        ),
        (
            failed(Step.PORT, "nothing listens", "mend"),
            SOUND,
            Reply(502, ()),
            ("172.17.0.2",),
            "listens on port 8080 at 172.17.0.2 only",
        ),
        (
            failed(Step.SERVICE, "refuses", "mend"),
            changed(host_header=HostHeader.PRESERVE),
            Reply(403, (), b"Invalid Host header"),
            (),
            "let the service see localhost",
        ),
    ],
)
def test_cause_is_told_where_the_log_knows_it(
    found: Finding, facts: Facts, said: Reply, listening: Sequence[str], words: str
) -> None:
    sharper = sharpen(found, facts, TARGET, said, listening)
    assert (sharper.step, sharper.outcome) == (found.step, Outcome.FAILED)
    assert words in f"{sharper.text} {sharper.mend}"


@pytest.mark.parametrize(
    ("found", "facts", "said"),
    [
        (ok(Step.TOKEN, "opens"), changed(exposed=False), Reply(200, ())),
        (REFUSED, None, NOT_FOUND),
        # The log sees nothing wrong: then whoever answered knows better.
        (REFUSED, SOUND, NOT_FOUND),
        (failed(Step.PORT, "hangs up", "mend"), SOUND, None),
        (failed(Step.SERVICE, "answers 500", "mend"), SOUND, Reply(500, ())),
    ],
)
def test_what_the_log_knows_nothing_of_stays_as_it_is(found: Finding, facts: Facts | None, said: Reply | None) -> None:
    assert sharpen(found, facts, TARGET, said, ()) == found


# /proc/net/tcp.

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 020011AC:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 100 0 0 10 0
   2: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 100 0 0 10 0
   3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4 1 0 100 0 0 10 0
   4: nonsense
   5: zz:1F90 x 0A
"""
TCP6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A
   1: B80D0120000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A
"""


def test_listening_addresses_are_read_from_proc() -> None:
    """proc(5); the words are those of a little-endian machine, as on x86 and on ARM."""
    assert listening_addresses(TCP, 8080) == ["127.0.0.1", "172.17.0.2"]
    assert listening_addresses(TCP6, 8080) == ["::1", "2001:db8::1"]
    assert listening_addresses("", 8080) == []


def test_time_is_shown_in_utc() -> None:
    assert shown_time(NOON) == "2027-01-15 08:00:00Z"


# Links.

LINK = Target.read("https://8080-my-app-share00000000001.example.com/.portico/share/secret-of-a-link")
SHARE = Sharing(ShareId("share00000000001"), Port(8080), 2, bytes(32), Seal(bytes(32)), NOON + 600, once=True)
BARE = SandboxState(SandboxId("my-app"), ContainerSpec())
STANDING = replace(BARE, shares={SHARE.share: SHARE})
SPENT = replace(BARE, shares={SHARE.share: replace(SHARE, redeemed=True)})
OVER = failed(Step.TOKEN, "the server knows no such link", "make another")


def lived(*states: tuple[Event | None, SandboxState]) -> Facts:
    facts = facts_of([Moment(n, 1, NOON + n, event, state) for n, (event, state) in enumerate(states)], LINK)
    assert facts is not None
    return facts


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (ShareRevoked(SHARE.share), "link share00000000001 was revoked at 2027-01-15 08:00:02Z"),
        (ShareExpired(SHARE.share), "had come to its time"),
        (PortUnexposed(Port(8080)), "went with its port, which was taken back"),
        (SandboxDestroyed(), "went with its sandbox"),
    ],
)
def test_log_says_what_has_ended_a_link(end: Event, words: str) -> None:
    facts = lived((None, BARE), (None, STANDING), (end, BARE))
    assert words in sharpen(OVER, facts, LINK, Reply(404, ()), ()).text
    assert words in judge_record(facts, LINK, "portico-data").text


def test_log_says_when_a_link_was_opened_and_whether_there_ever_was_one() -> None:
    spent = lived((None, BARE), (None, STANDING), (None, SPENT), (None, SPENT))
    assert sharpen(OVER, spent, LINK, Reply(410, ()), ()).text == f"{OVER.text}, at 2027-01-15 08:00:02Z"
    assert "opened its one session at 2027-01-15 08:00:02Z" in judge_record(spent, LINK, "portico-data").text
    never = lived((None, BARE))
    assert "never had a link of that name" in sharpen(OVER, never, LINK, Reply(404, ()), ()).text
    standing = lived((None, STANDING))
    assert "not of that secret, or its time was over" in sharpen(OVER, standing, LINK, Reply(404, ()), ()).text
    assert "link share00000000001 opens until 2027-01-15 08:10:00Z" in judge_record(standing, LINK, "data").text


def test_host_of_a_link_without_its_secret_is_told_from_a_wrong_token() -> None:
    target = Target.read("https://8080-my-app-share00000000001.example.com/")
    facts = facts_of([Moment(1, 1, NOON, None, STANDING)], target)
    found = sharpen(OVER, facts, target, Reply(404, ()), ())
    assert "has not its secret" in found.text
    assert "whole link" in found.mend
