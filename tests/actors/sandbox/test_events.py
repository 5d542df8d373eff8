"""What has happened: written to a log and read back it is the same, and nothing unknown is guessed at."""

from typing import get_args

import msgpack  # type: ignore[import-untyped]  # published without type information
import pytest
from hypothesis import given

from actors.errors import UnknownRecordError
from actors.sandbox.events import (
    EVENT_NAMES,
    AsleepPolicy,
    ContainerSpec,
    Event,
    HostHeader,
    HostnameShared,
    PortExposed,
    PortUnexposed,
    PreviewAuthGraceEnded,
    PreviewAuthRotated,
    PreviewAuthSet,
    RunEnd,
    RunEnded,
    RunStarted,
    SandboxCreated,
    SandboxDestroyed,
    SandboxStopped,
    ServiceExited,
    ShareCreated,
    ShareExpired,
    ShareRedeemed,
    ShareRevoked,
    SleepAfterSet,
    dated,
    decode,
    encode,
)
from actors.sandbox.ids import Port, PortToken, SandboxId, Seal, ShareId
from actors.testing.strategies import container_specs, histories

DIGEST = bytes(range(32))

# One of each, with the fields as logs hold them. These rows are what logs are made of: fields may be added to them,
# never changed; `OLD` has what logs were made of before.
LOGGED: list[tuple[Event, tuple[str, int, dict[str, object]]]] = [
    (
        SandboxCreated(
            SandboxId("my-app"),
            ContainerSpec("process", {"shell": True}),
            True,
            AsleepPolicy.STALE,
            Seal(bytes(32)),
            60.0,
            1.5,
        ),
        (
            "sandbox_created",
            1,
            {
                "sandbox": "my-app",
                "container": {"kind": "process", "options": {"shell": True}},
                "open_ports": True,
                "when_asleep": "stale",
                "seal": bytes(32),
                "sleep_after": 60.0,
                "created_at": 1.5,
            },
        ),
    ),
    (
        PortExposed(Port(8080), PortToken("stable"), "web", HostHeader.PRESERVE, True),
        (
            "port_exposed",
            1,
            {"port": 8080, "token": "stable", "name": "web", "host_header": "preserve", "wake_on_websocket": True},
        ),
    ),
    (PortUnexposed(Port(8080)), ("port_unexposed", 1, {"port": 8080})),
    (RunStarted("run-1"), ("run_started", 1, {"run_id": "run-1", "by_policy": False})),
    (RunEnded("run-1", RunEnd.LOST), ("run_ended", 1, {"run_id": "run-1", "reason": "lost"})),
    (
        ServiceExited("run-1", "web", -9),
        ("service_exited", 1, {"run_id": "run-1", "process": "web", "exit_code": -9}),
    ),
    (SleepAfterSet(60.0), ("sleep_after_set", 1, {"seconds": 60.0})),
    (PreviewAuthSet(DIGEST), ("preview_auth_set", 1, {"digest": DIGEST})),
    (
        PreviewAuthRotated(DIGEST, 1.5),
        ("preview_auth_rotated", 1, {"digest": DIGEST, "previous_until": 1.5}),
    ),
    (PreviewAuthGraceEnded(), ("preview_auth_grace_ended", 1, {})),
    (
        ShareCreated(ShareId("k3v9x0q2m7t1z8aa"), Port(8080), DIGEST, Seal(bytes(32)), 1.5, once=True),
        (
            "share_created",
            1,
            {
                "share": "k3v9x0q2m7t1z8aa",
                "port": 8080,
                "digest": DIGEST,
                "seal": bytes(32),
                "expires_at": 1.5,
                "once": True,
            },
        ),
    ),
    (
        HostnameShared(
            ShareId("k3v9x0q2m7t1z8aa"),
            Port(8080),
            DIGEST,
            Seal(bytes(32)),
            1.5,
            hostname="preview.my-app.com",
            binding=7,
        ),
        (
            "hostname_shared",
            1,
            {
                "share": "k3v9x0q2m7t1z8aa",
                "port": 8080,
                "digest": DIGEST,
                "seal": bytes(32),
                "expires_at": 1.5,
                "once": False,
                "hostname": "preview.my-app.com",
                "binding": 7,
            },
        ),
    ),
    (ShareRedeemed(ShareId("k3v9x0q2m7t1z8aa")), ("share_redeemed", 1, {"share": "k3v9x0q2m7t1z8aa"})),
    (ShareRevoked(ShareId("k3v9x0q2m7t1z8aa")), ("share_revoked", 1, {"share": "k3v9x0q2m7t1z8aa"})),
    (ShareExpired(ShareId("k3v9x0q2m7t1z8aa")), ("share_expired", 1, {"share": "k3v9x0q2m7t1z8aa"})),
    (SandboxStopped(), ("sandbox_stopped", 1, {})),
    (SandboxDestroyed(), ("sandbox_destroyed", 1, {})),
]


# As they were written before they had all their fields, and what they meant then.
OLD: list[tuple[Event, tuple[str, int, dict[str, object]]]] = [
    (
        SandboxCreated(SandboxId("my-app"), ContainerSpec(), True, AsleepPolicy.STALE, None, None),
        (
            "sandbox_created",
            1,
            {
                "sandbox": "my-app",
                "container": {"kind": "process", "options": {}},
                "open_ports": True,
                "when_asleep": "stale",
            },
        ),
    ),
    (
        SandboxCreated(SandboxId("my-app"), ContainerSpec(), False, AsleepPolicy.WAKE, Seal(bytes(32)), 60.0),
        (
            "sandbox_created",
            1,
            {
                "sandbox": "my-app",
                "container": {"kind": "process", "options": {}},
                "open_ports": False,
                "when_asleep": "wake",
                "seal": bytes(32),
                "sleep_after": 60.0,
            },
        ),
    ),
    (
        PortExposed(Port(8080), PortToken("stable"), "web", HostHeader.PRESERVE, False),
        ("port_exposed", 1, {"port": 8080, "token": "stable", "name": "web", "host_header": "preserve"}),
    ),
]


@pytest.mark.parametrize(("event", "logged"), OLD, ids=lambda item: type(item).__name__)
def test_event_of_an_older_log_means_what_it_meant(event: Event, logged: tuple[str, int, dict[str, object]]) -> None:
    assert decode(*logged) == event


@pytest.mark.parametrize(("event", "logged"), LOGGED, ids=lambda item: type(item).__name__)
def test_event_is_logged_as_ever(event: Event, logged: tuple[str, int, dict[str, object]]) -> None:
    assert encode(event) == logged
    assert decode(*logged) == event


def test_creation_that_says_when_it_was_keeps_that_and_another_takes_its_records_time() -> None:
    old = SandboxCreated(SandboxId("my-app"), ContainerSpec())
    new = SandboxCreated(SandboxId("my-app"), ContainerSpec(), created_at=1.5)
    assert (dated(old, 1.5), dated(new, 9.0)) == (new, new)
    other = PortUnexposed(Port(8080))
    assert dated(other, 9.0) is other


def test_creation_from_before_there_were_seals_is_read() -> None:
    name, version, fields = LOGGED[0][1]
    old = {key: value for key, value in fields.items() if key != "seal"}
    created = decode(name, version, old)
    assert isinstance(created, SandboxCreated)
    assert created.seal is None


def test_every_event_has_its_row_and_its_name() -> None:
    kinds = set(get_args(Event))
    assert {type(event) for event, _ in LOGGED} == kinds
    assert set(EVENT_NAMES) == kinds
    assert len(set(EVENT_NAMES.values())) == len(kinds)


@given(histories())
def test_events_come_out_of_a_log_as_they_went_in(events: list[Event]) -> None:
    for event in events:
        name, version, fields = encode(event)
        assert decode(name, version, msgpack.unpackb(msgpack.packb(fields))) == event


@given(container_specs())
def test_every_container_spec_that_can_be_made_can_be_read_back(spec: ContainerSpec) -> None:
    event = SandboxCreated(SandboxId("my-app"), spec)
    name, version, fields = encode(event)
    assert decode(name, version, msgpack.unpackb(msgpack.packb(fields))) == event


@pytest.mark.parametrize(
    "options",
    [{"a": 1.5}, {"a": None}, {"a": [1]}, {"a": {}}, {"a": b"x"}, {1: "a"}, {"a": 2**64}, {"a": -(2**63) - 1}],
)
def test_container_option_that_could_not_be_read_back_is_refused(options: dict[str, str]) -> None:
    # Stored, it would make the sandbox's log unreadable at the next start.
    with pytest.raises(ValueError, match="container option"):
        ContainerSpec("process", options)


def test_field_with_a_default_may_be_missing() -> None:
    old = {"sandbox": "my-app", "container": {}}
    assert decode("sandbox_created", 1, old) == SandboxCreated(SandboxId("my-app"), ContainerSpec())
    assert decode("port_exposed", 1, {"port": 8080, "token": "t"}) == PortExposed(Port(8080), PortToken("t"))


@pytest.mark.parametrize(
    ("name", "version"),
    [("port_exposed", 2), ("port_exposed", 0), ("PortExposed", 1), ("", 1), ("snapshot", 1), ("run_paused", 1)],
)
def test_unknown_event_or_version_is_an_error(name: str, version: int) -> None:
    with pytest.raises(UnknownRecordError, match="not known to this version"):
        decode(name, version, {"port": 8080, "token": "stable"})


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("port_exposed", {}),
        ("port_exposed", {"port": 8080}),
        ("port_exposed", {"port": "8080", "token": "stable"}),
        ("port_exposed", {"port": True, "token": "stable"}),
        ("port_exposed", {"port": 0, "token": "stable"}),
        ("port_exposed", {"port": 65536, "token": "stable"}),
        ("port_exposed", {"port": 8080, "token": "Not-A-Token"}),
        ("port_exposed", {"port": 8080, "token": None}),
        ("port_exposed", {"port": 8080, "token": "stable", "host_header": "none"}),
        ("port_exposed", {"port": 8080, "token": "stable", "name": 7}),
        ("sandbox_created", {"sandbox": "-", "container": {}}),
        ("sandbox_created", {"sandbox": "my-app", "container": {"options": {"a": 1.5}}}),
        ("sandbox_created", {"sandbox": "my-app", "container": {}, "when_asleep": "never"}),
        ("run_ended", {"run_id": "run-1", "reason": "because"}),
        ("preview_auth_set", {"digest": b"short"}),
        ("preview_auth_set", {"digest": bytes(33)}),
        ("preview_auth_set", {"digest": "text"}),
        ("preview_auth_rotated", {"digest": DIGEST, "previous_until": "soon"}),
    ],
)
def test_fields_that_do_not_fit_are_an_error_without_their_values(name: str, fields: dict[str, object]) -> None:
    with pytest.raises(UnknownRecordError, match="does not have its fields") as refused:
        decode(name, 1, fields)
    assert "Not-A-Token" not in str(refused.value)


def test_leaf_of_no_known_kind_has_no_plain_form() -> None:
    with pytest.raises(TypeError, match="no plain form"):
        encode(RunStarted(object()))  # type: ignore[arg-type] # misuse by our own code is a bug, not a record
