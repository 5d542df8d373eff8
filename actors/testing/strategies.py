"""Hypothesis strategies for the state model: names, secrets, commands, histories, states, visits.

Commands and histories draw from a *small world*: a few ports, a few tokens. What makes a state model interesting is
that things meet: the same port exposed again, another port's token asked for, an old secret tried once more. Out of
65535 ports no two would ever be the same.

    strategy                what it draws
    ``sandbox_ids``         any legal id
    ``ports``               any TCP port
    ``exposable_ports``     any port that may be exposed under the given rules
    ``port_tokens``         any legal token, with underscores too
    ``preview_tokens``      any legal bearer token
    ``container_specs``     any kind and options that a log can hold
    ``commands``            well-formed commands of the small world; in a given state they may be refused all the same
    ``creations``           those of them that create
    ``changes``             those that neither create nor end a sandbox
    ``hostile_commands``    commands that no state may obey
    ``histories``           lists of events that fold
    ``states``              what they fold to; None for a sandbox that was never created
    ``visit_requests``      visits with right, wrong and missing credentials; right ones for a given state

All shrink towards short names, few commands and no secrets.
"""

import math
import string
from collections.abc import Sequence
from functools import cache
from typing import Final

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.sandbox.admission import VisitRequest
from actors.sandbox.decide import (
    DEFAULT_RULES,
    NAME_LENGTH_MAX,
    SLEEP_AFTER_S,
    BeginRun,
    Command,
    CreateSandbox,
    CreateShare,
    DestroySandbox,
    EndRun,
    ExposePort,
    FireAlarm,
    Hibernate,
    NoteExit,
    RedeemShare,
    Refusal,
    RevokeShare,
    RotatePreviewAuth,
    Rules,
    SetPreviewAuth,
    SetSleepAfter,
    StopSandbox,
    UnexposePort,
    decide,
)
from actors.sandbox.events import AsleepPolicy, ContainerSpec, Event, HostHeader, RunEnd
from actors.sandbox.ids import (
    EXPOSABLE_PORT_MIN,
    PORT_MAX,
    PORT_TOKEN_BYTES,
    PORT_TOKEN_LENGTH_MAX,
    PREVIEW_TOKEN_LENGTH_MIN,
    RESERVED_SANDBOX_IDS,
    SANDBOX_ID_LENGTH_MAX,
    SEAL_BYTES,
    Port,
    PortToken,
    PreviewToken,
    SandboxId,
    Seal,
    ShareId,
)
from actors.sandbox.state import SandboxState, evolve, fold

# The small world.

SANDBOX: Final = SandboxId("my-app")
PORTS: Final = (Port(8080), Port(5173), Port(1024), Port(65535))
PORT_TOKENS: Final = tuple(PortToken(text) for text in ("stable", "my_token_v1", "k3v9x0q2m7t1z8aa"))
PREVIEW_TOKENS: Final = tuple(PreviewToken(f"preview-token-number-{number}") for number in (1, 2, 3))
SHARES: Final = tuple(ShareId(f"share{number:011d}") for number in (1, 2, 3, 4))
SHARE_SECRETS: Final = tuple(PreviewToken(f"share-secret-number-{number}") for number in (1, 2))
NOW: Final = 1_700_000_000.0
"""When histories begin, in seconds since 1970."""

_LABEL_CHARACTERS: Final = string.ascii_lowercase + string.digits


# Names and secrets.


def sandbox_ids() -> st.SearchStrategy[SandboxId]:
    """Draw any legal sandbox id."""
    inner = SANDBOX_ID_LENGTH_MAX - 2
    return (
        st.from_regex(rf"[a-z0-9](?:[a-z0-9-]{{0,{inner}}}[a-z0-9])?", fullmatch=True)
        .filter(lambda text: text not in RESERVED_SANDBOX_IDS)
        .map(SandboxId)
    )


def ports() -> st.SearchStrategy[Port]:
    """Draw any TCP port, 1 to 65535."""
    return st.integers(1, PORT_MAX).map(Port)


def exposable_ports(rules: Rules = DEFAULT_RULES) -> st.SearchStrategy[Port]:
    """Draw any port that may be exposed under `rules`."""
    allowed = st.integers(EXPOSABLE_PORT_MIN, PORT_MAX)
    return allowed.filter(lambda port: port not in rules.reserved_ports).map(Port)


def port_tokens() -> st.SearchStrategy[PortToken]:
    """Draw any legal port token, one character long or sixteen."""
    return st.text(_LABEL_CHARACTERS + "_", min_size=1, max_size=PORT_TOKEN_LENGTH_MAX).map(PortToken)


def minted_tokens() -> st.SearchStrategy[PortToken]:
    """Draw port tokens as `PortToken.mint` makes them."""
    return st.binary(min_size=PORT_TOKEN_BYTES, max_size=PORT_TOKEN_BYTES).map(PortToken.mint)


def preview_tokens() -> st.SearchStrategy[PreviewToken]:
    """Draw any legal bearer token of moderate length."""
    visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
    return st.text(visible, min_size=PREVIEW_TOKEN_LENGTH_MIN, max_size=64).map(PreviewToken)


def container_specs() -> st.SearchStrategy[ContainerSpec]:
    """Draw container kinds and options of every type that a log can hold."""
    words = st.text(string.ascii_lowercase, min_size=1, max_size=8)
    values = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(codec="utf-8"), max_size=20)
    return st.builds(ContainerSpec, words, st.dictionaries(words, values, max_size=3))


# Commands.


def names() -> st.SearchStrategy[str]:
    """Draw names of ports, as people give them."""
    return st.sampled_from(["web", "api", "Vite dev server", "日本語", "x" * NAME_LENGTH_MAX])


def graces() -> st.SearchStrategy[float]:
    """Draw graces of a rotation in seconds: none, short ones, a long one."""
    return st.sampled_from([0.0, 0.5, 30.0, 3600.0])


def sleeps() -> st.SearchStrategy[float | None]:
    """Draw times without use after which a sandbox sleeps: never, soon, the default."""
    return st.sampled_from([None, 1.0, 60.0, SLEEP_AFTER_S])


def creations() -> st.SearchStrategy[CreateSandbox]:
    """Draw the creation of the small world's sandbox, in all its variants."""
    return st.builds(
        CreateSandbox,
        st.just(SANDBOX),
        st.none() | st.sampled_from([ContainerSpec(), ContainerSpec("address", {"host": "127.0.0.1"})]),
        st.none() | st.booleans(),
        st.none() | st.sampled_from(AsleepPolicy),
        st.none() | _digests(),
        st.none() | seals(),
        st.just(msgspec.UNSET) | sleeps(),
    )


def seals() -> st.SearchStrategy[Seal]:
    """Draw any seal."""
    return st.binary(min_size=SEAL_BYTES, max_size=SEAL_BYTES).map(Seal)


def lifetimes() -> st.SearchStrategy[float]:
    """Draw how long a share may last, in seconds: short ones, a long one."""
    return st.sampled_from([0.5, 30.0, 3600.0])


def share_creations() -> st.SearchStrategy[CreateShare]:
    """Draw the making of a share, of a few names."""
    return st.builds(
        CreateShare,
        st.sampled_from(PORTS),
        st.sampled_from(SHARES),
        st.sampled_from(SHARE_SECRETS).map(PreviewToken.digest),
        seals(),
        lifetimes(),
        st.booleans(),
    )


def hostname_share_creations() -> st.SearchStrategy[CreateShare]:
    """Draw the making of a share for a custom hostname, one of two."""
    # Not among those of `share_creations`: whether a hostname leads anywhere is for its table to say, not for a state.
    return st.builds(
        lambda command, binding: replace(command, hostname=f"n{binding}.my-app.com", binding=binding),
        share_creations(),
        st.integers(1, 2),
    )


def share_redemptions() -> st.SearchStrategy[RedeemShare]:
    """Draw somebody with a link: often the right one."""
    secrets = st.sampled_from(SHARE_SECRETS).map(PreviewToken.digest)
    return st.builds(RedeemShare, st.sampled_from(SHARES), st.sampled_from(PORTS), secrets)


def changes() -> st.SearchStrategy[Command]:
    """Draw well-formed commands to a sandbox that goes on living."""
    run_id = st.sampled_from(["run-1", "run-2"])
    exposures = st.builds(
        ExposePort,
        st.sampled_from(PORTS),
        minted=minted_tokens(),
        token=st.none() | st.sampled_from(PORT_TOKENS),
        name=st.none() | names(),
        host_header=st.none() | st.sampled_from(HostHeader),
        wake_on_websocket=st.none() | st.booleans(),
    )
    return st.one_of(
        exposures,
        st.builds(UnexposePort, st.sampled_from(PORTS)),
        st.builds(SetPreviewAuth, _digests()),
        st.builds(RotatePreviewAuth, _digests(), graces()),
        share_creations(),
        hostname_share_creations(),
        share_redemptions(),
        st.builds(RevokeShare, st.sampled_from(SHARES)),
        st.builds(BeginRun, run_id),
        st.builds(EndRun, run_id, st.sampled_from(RunEnd)),
        st.builds(NoteExit, run_id, st.sampled_from(["web", "worker"]), st.integers(-64, 255)),
        st.sampled_from([FireAlarm(), Hibernate()]),
        st.builds(SetSleepAfter, sleeps()),
    )


def commands() -> st.SearchStrategy[Command]:
    """Draw well-formed commands of the small world."""
    return changes() | creations() | st.sampled_from([StopSandbox(), DestroySandbox()])


def _digests() -> st.SearchStrategy[bytes]:
    return st.sampled_from(PREVIEW_TOKENS).map(PreviewToken.digest)


@cache
def hostile_commands(rules: Rules = DEFAULT_RULES) -> st.SearchStrategy[Command]:
    """Draw commands that are of the right type and that no state may obey: refused, whatever came before."""
    minted = minted_tokens()
    numbers = [-1, 0, 1, 80, EXPOSABLE_PORT_MIN - 1, PORT_MAX + 1, 2**64, True, *sorted(rules.reserved_ports)]
    bad_port = st.sampled_from(numbers)
    bad_name = st.sampled_from(["", "x" * (NAME_LENGTH_MAX + 1), "two\nlines", "\x1b[31mred", "\ud800", "\u202eflip"])
    bad_grace = st.sampled_from([-1.0, -math.inf, math.inf, math.nan])
    return st.one_of(
        st.builds(ExposePort, bad_port, minted=minted, token=st.none() | st.sampled_from(PORT_TOKENS)),
        st.builds(ExposePort, st.sampled_from(PORTS), minted=minted, name=bad_name),
        st.builds(RotatePreviewAuth, _digests(), bad_grace),
        st.builds(
            CreateShare,
            st.sampled_from(PORTS),
            st.just(ShareId("share00000000099")),
            _digests(),
            seals(),
            st.sampled_from([0.0, -1.0, math.inf, math.nan]),
        ),
        st.builds(SetSleepAfter, st.sampled_from([-1.0, 0.0, 0.5, math.inf, math.nan, True])),
    )


# Histories.


# What comes first: a sandbox without ports has no door to be at.
_OPENINGS: Final[Sequence[Sequence[Command]]] = ((), (ExposePort(PORTS[0], minted=PORT_TOKENS[0]),))

# What comes last: half of the sandboxes are up in the end, as visits are to be made to them, and some are asleep; of a
# stopped one, what is left can still be taken back.
_ENDINGS: Final[Sequence[Sequence[Command]]] = (
    *[(BeginRun("run-1"),)] * 5,
    *[(BeginRun("run-1"), Hibernate())] * 2,
    (Hibernate(),),
    (StopSandbox(),),
    (StopSandbox(), UnexposePort(PORTS[0])),
    (DestroySandbox(),),
    (StopSandbox(), DestroySandbox()),
)


@st.composite
def histories(draw: st.DrawFn, *, max_size: int = 30) -> list[Event]:
    """Draw the events of one log: they fold, and `decide` would give them, in that order.

    Empty for a sandbox that was never created; otherwise it begins with the creation and may end with the
    destruction. Run ids are never used twice, as in the real world.
    """
    if not draw(st.booleans()):
        return []
    ending = draw(st.sampled_from(_ENDINGS))
    opening = draw(st.sampled_from(_OPENINGS))
    wanted = [draw(creations()), *opening, *draw(st.lists(changes() | creations(), max_size=max_size)), *ending]
    state: SandboxState | None = None
    events: list[Event] = []
    now = NOW
    for number, command in enumerate(wanted):
        now += draw(st.sampled_from([0.0, 0.5, 60.0]))
        decided = decide(state, _meeting(command, state, number), now)
        if isinstance(decided, Refusal):
            continue
        for event in decided:
            state = evolve(state, event)
            events.append(event)
    return events


def _meeting(command: Command, state: SandboxState | None, number: int) -> Command:
    """Give each run a name of its own; let an end meet the current one, and a link its share."""
    if isinstance(command, BeginRun):
        return BeginRun(f"run-{number}")
    if isinstance(command, EndRun) and state is not None and state.run_id is not None:
        return EndRun(state.run_id, command.reason)
    if isinstance(command, RedeemShare) and state is not None and state.shares:
        sharing = state.shares.get(command.share, next(iter(state.shares.values())))
        return RedeemShare(sharing.share, sharing.port, command.digest, sharing.binding)
    if isinstance(command, NoteExit) and state is not None and state.run_id is not None:
        return NoteExit(state.run_id, command.process, command.exit_code)
    return command


def states() -> st.SearchStrategy[SandboxState | None]:
    """Draw states that can come about; None for a sandbox that was never created."""
    return histories().map(fold)


# Visits.

# Made once: they are drawn from at every visit.
_ANY_TOKEN: Final = port_tokens()
_ANY_BYTES: Final = st.binary(max_size=40)


@st.composite
def visit_requests(draw: st.DrawFn, state: SandboxState | None = None, sessions: Sequence[bytes] = ()) -> VisitRequest:
    """Draw somebody at the door of a small-world sandbox.

    Args:
        draw: Hypothesis's own; not passed by callers.
        state: Every other credential is right for it: a token of its ports, and its bearer token if that is one of
            the small world.
        sessions: What browsers may show.
    """
    exposed = list(state.ports.values()) if state is not None else []
    # Mostly what nearly fits: a visit that is wrong in every respect says little.
    port = draw(st.sampled_from([exposure.port for exposure in exposed] or PORTS) | st.sampled_from(PORTS))
    right = [exposure.token for exposure in exposed if exposure.port == port]
    others = [exposure.token for exposure in exposed if exposure.port != port]
    shared = [PortToken(share) for share in (state.shares if state is not None else SHARES)]
    near = st.sampled_from([None, *others, *PORT_TOKENS, *shared])
    token = draw(st.one_of(st.sampled_from(right or PORT_TOKENS), near, near | _ANY_TOKEN))
    secrets = [token.reveal().encode() for token in PREVIEW_TOKENS]
    digest = state.auth.digest if state is not None and state.auth is not None else None
    opening = [token.reveal().encode() for token in PREVIEW_TOKENS if token.digest() == digest]
    near_secret = st.sampled_from([None, b"", *secrets])
    preview_token = draw(st.one_of(st.sampled_from(opening or secrets), near_secret, near_secret | _ANY_BYTES))
    kind = draw(st.sampled_from(["plain", "plain", "preflight", "websocket"]))
    shown = draw(st.lists(st.sampled_from([*sessions, b"forged"]), max_size=2)) if sessions else []
    links = [None, b"", *(secret.reveal().encode() for secret in SHARE_SECRETS)]
    link = draw(st.sampled_from(links))
    return VisitRequest(
        port, token, preview_token, kind == "preflight", tuple(shown), link, websocket=kind == "websocket"
    )
