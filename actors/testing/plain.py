"""The state model once more, as plainly as it can be told: dictionaries, and no events.

`SandboxMachine` holds the real model against this one. It shares no code with it beyond the words for what is
asked (commands, requests), takes no thought for speed or for timing attacks, and forgets nothing it can count.
Whoever changes a rule on purpose changes it here too: two tellings that agree are worth more than one.
"""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from actors.sandbox.admission import VisitRequest
from actors.sandbox.decide import (
    NAME_LENGTH_MAX,
    PORTS_MAX,
    SHARE_SECONDS_MAX,
    SHARES_MAX,
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
    RevokeShare,
    RotatePreviewAuth,
    Rules,
    SetPreviewAuth,
    SetSleepAfter,
    StopSandbox,
    UnexposePort,
)
from actors.sandbox.events import RunEnd


class PlainPort(NamedTuple):
    """An exposed port."""

    token: str
    serial: int
    """Another one whenever the port has another URL or was exposed anew."""
    name: str | None
    host_header: str
    wakes: bool
    """By a WebSocket handshake, too."""


class PlainSecret(NamedTuple):
    """A bearer token that opens the gate."""

    digest: bytes
    serial: int
    until: float
    """When it stops; infinity for the current one."""


class PlainShare(NamedTuple):
    """A share that stands."""

    port: int
    digest: bytes
    serial: int
    until: float
    once: bool
    binding: int | None = None
    """Of the custom hostname that it is for."""
    redeemed: bool = False


class Leaning(NamedTuple):
    """What a visit leaned on when it entered."""

    port: int
    port_serial: int | None
    """None in the built-in form."""
    secret_serial: int | None
    """None if there was no gate."""
    run_id: str
    share_serial: int | None = None
    """None if it came by no share."""


IN: Final = "in"
WAKE: Final = "wake"


@dataclass
class PlainSandbox:
    """One sandbox, from its creation until it is created again."""

    rules: Rules = field(default_factory=Rules)
    exists: bool = False
    destroyed: bool = False
    stopped: bool = False
    container: tuple[str, dict[str, str | int | bool]] = ("process", {})
    open_ports: bool = False
    when_asleep: str = "wake"
    sleep_after: float | None = None
    ports: dict[int, PlainPort] = field(default_factory=dict)
    secrets: list[PlainSecret] = field(default_factory=list)
    """The current one first, then one in its grace. Empty: no gate."""
    shares: dict[str, PlainShare] = field(default_factory=dict)
    sessions: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """What browsers were given, and the port and the serial of the secret or share that it stands for."""
    run_id: str | None = None
    slept: bool = False
    serials: int = 0
    """How many were given out, to ports, secrets and shares alike."""

    # Commands.

    def obey(self, command: Command, now: float) -> bool:
        """Do it, or return False and leave all as it is."""
        if isinstance(command, CreateSandbox):
            return self._create(command)
        if not self.exists or self.destroyed:
            return isinstance(command, UnexposePort | RevokeShare | DestroySandbox | EndRun | NoteExit | FireAlarm)
        match command:
            case ExposePort():
                return not self.stopped and self._expose(command)
            case UnexposePort():
                if self.ports.pop(command.port, None) is not None:
                    self.shares = {key: share for key, share in self.shares.items() if share.port != command.port}
            case SetPreviewAuth():
                return not self.stopped and self._set_secret(command.digest, None)
            case RotatePreviewAuth():
                sane = bool(self.secrets) and 0 <= command.grace < math.inf
                return not self.stopped and sane and self._set_secret(command.digest, now + command.grace, now)
            case CreateShare():
                return not self.stopped and self._share(command, now)
            case RedeemShare():
                return self._redeem(command, now)
            case RevokeShare():
                self.shares.pop(command.share, None)
            case BeginRun():
                if self.stopped:
                    return False
                self.slept = False
                self.run_id = self.run_id or command.run_id
            case EndRun():
                if self.run_id == command.run_id:
                    self.run_id, self.slept = None, command.reason is RunEnd.SLEPT
            case Hibernate():
                if self.stopped:
                    return False
                self.slept = self.slept or self.run_id is not None
                self.run_id = None
            case SetSleepAfter():
                if self.stopped or not _is_sane_sleep(command.seconds):
                    return False
                self.sleep_after = command.seconds
            case FireAlarm():
                self.secrets = [secret for secret in self.secrets if now < secret.until]
                self._drop_expired(now)
            case StopSandbox():
                self.stopped, self.run_id = True, None
            case DestroySandbox():
                self.destroyed, self.run_id = True, None
                self.ports, self.secrets, self.shares = {}, [], {}
        return True

    def _create(self, command: CreateSandbox) -> bool:
        if self.destroyed:
            return False
        wanted = None if command.container is None else (command.container.kind, dict(command.container.options))
        digest = command.preview_auth_digest
        if self.exists:
            return (
                wanted in (None, self.container)
                and command.open_ports in (None, self.open_ports)
                and command.when_asleep in (None, self.when_asleep)
                and command.sleep_after in (msgspec.UNSET, self.sleep_after)
                and (digest is None or (bool(self.secrets) and self.secrets[0].digest == digest))
            )
        sleep_after = self.rules.sleep_after if command.sleep_after is msgspec.UNSET else command.sleep_after
        if not _is_sane_sleep(sleep_after):
            return False
        self.exists = True
        self.sleep_after = sleep_after
        self.container = wanted or self.container
        self.open_ports = command.open_ports or False
        self.when_asleep = command.when_asleep or "wake"
        if digest is not None:
            self._set_secret(digest, None)
        return True

    def _expose(self, command: ExposePort) -> bool:
        port, name = command.port, command.name
        if isinstance(port, bool) or not 1024 <= port <= 65535 or port in self.rules.reserved_ports:
            return False
        if name is not None and not (0 < len(name) <= NAME_LENGTH_MAX and name.isprintable()):
            return False
        old = self.ports.get(port)
        if old is None and len(self.ports) == PORTS_MAX:
            return False
        wanted = command.token.reveal() if command.token is not None else None
        token = wanted or (old.token if old is not None else command.minted.reveal())
        if token in self.shares or any(other.token == token for number, other in self.ports.items() if number != port):
            return False
        serial = old.serial if old is not None and old.token == token else self._serial()
        host_header = command.host_header or (old.host_header if old is not None else "localhost")
        wakes = command.wake_on_websocket
        if wakes is None:
            wakes = old is not None and old.wakes
        self.ports[port] = PlainPort(token, serial, name or (old.name if old is not None else None), host_header, wakes)
        return True

    def _set_secret(self, digest: bytes, until: float | None, now: float = 0.0) -> bool:
        """Let `digest` be the current secret, and the one before it open until then; None: not at all."""
        in_grace = [] if until is None or until <= now else [self.secrets[0]._replace(until=until)]
        if self.secrets and self.secrets[0].digest == digest:
            # It is the current one already: nothing, but that without grace no other opens.
            self.secrets = self.secrets if in_grace else self.secrets[:1]
        else:
            self.secrets = [PlainSecret(digest, self._serial(), math.inf), *in_grace]
        return True

    def _share(self, command: CreateShare, now: float) -> bool:
        port = command.port
        if isinstance(port, bool) or (port not in self.ports and not (self.open_ports and 0 < port < 2**16)):
            return False
        if not 0 < command.expires_in <= SHARE_SECONDS_MAX:
            return False
        # A link to where everybody may go, or nobody, is no use.
        if command.hostname is not None and not (self.secrets and port in self.ports):
            return False
        same = self.shares.get(command.minted)
        if same is not None:
            return (same.port, same.digest, same.binding) == (port, command.digest, command.binding)
        standing = [share for share in self.shares.values() if now < share.until]
        if len(standing) >= SHARES_MAX or any(other.token == command.minted for other in self.ports.values()):
            return False
        self._drop_expired(now)
        self.shares[command.minted] = PlainShare(
            port, command.digest, self._serial(), now + command.expires_in, command.once, command.binding
        )
        return True

    def _drop_expired(self, now: float) -> None:
        self.shares = {key: share for key, share in self.shares.items() if now < share.until}

    def _redeem(self, command: RedeemShare, now: float) -> bool:
        share = self.shares.get(command.share)
        if share is None or now >= share.until or (share.port, share.digest) != (command.port, command.digest):
            return False
        if share.binding != command.binding:
            return False
        if share.once and share.redeemed:
            return False
        self.shares[command.share] = share._replace(redeemed=share.once)
        return True

    def _serial(self) -> int:
        self.serials += 1
        return self.serials

    # Visits.

    def judge(self, request: VisitRequest, now: float) -> str:
        """Return ``"in"``, ``"wake"`` or the code of a refusal."""
        credential = self._judge_credential(request, now)
        if credential is not None:
            return credential
        if self.stopped:
            return "SANDBOX_STOPPED"
        if self.run_id is None:
            if self.secrets and self._is_bare_preflight(request) and self._share_opener(request, now) is None:
                return "AUTH_REQUIRED"
            if self.when_asleep != "wake":
                return "STALE_PREVIEW_URL"
            by_name = request.token is not None or request.binding is not None
            exposed = self.ports.get(request.port) if by_name else None
            wakes = exposed is not None and exposed.wakes
            return "ASLEEP" if request.websocket and self.slept and not wakes else WAKE
        return IN

    def _judge_credential(self, request: VisitRequest, now: float) -> str | None:
        if request.binding is not None:
            if request.port not in self.ports:
                return "INVALID_TOKEN"
        elif request.token is None:
            if not self.exists or self.destroyed:
                return "SANDBOX_NOT_FOUND"
            if not self.open_ports:
                return "INVALID_TOKEN"
        else:
            exposed = self.ports.get(request.port)
            if exposed is None or exposed.token != request.token.reveal():
                return "INVALID_TOKEN" if self._share_opener(request, now) is None else None
        if self.secrets and self._opener(request, now) is None and self._share_opener(request, now) is None:
            shown = request.preview_token or request.sessions or (request.binding is not None and request.share_secret)
            return "AUTH_INVALID" if shown else "AUTH_REQUIRED"
        return None

    def _is_bare_preflight(self, request: VisitRequest) -> bool:
        return request.preflight and request.token is not None and not request.preview_token and not request.sessions

    def _share_opener(self, request: VisitRequest, now: float) -> PlainShare | None:
        """Return the share whose name stands where a port's token would, if the visitor has what opens it.

        At a custom hostname, that of which the visitor has a session; links are not shown there, in this telling.
        """
        if request.binding is not None:
            known = [self.sessions.get(session) for session in request.sessions]
            here = [
                share
                for share in self.shares.values()
                if (share.port, share.binding) == (request.port, request.binding)
            ]
            opening = (share for share in here if now < share.until and (share.port, share.serial) in known)
            # Where there is no gate, or another way past it, nobody comes by a share.
            by_other = not self.secrets or self._opener(request, now) is not None
            return None if by_other else next(opening, None)
        if request.token is None or self._is_exposed(request):
            return None
        share = self.shares.get(request.token.reveal())
        if share is None or share.port != request.port or share.binding is not None or now >= share.until:
            return None
        if not share.once and hashlib.sha256(request.share_secret or b"").digest() == share.digest:
            return share
        known = [self.sessions.get(session) for session in request.sessions]
        return share if (share.port, share.serial) in known else None

    def _is_exposed(self, request: VisitRequest) -> bool:
        exposed = self.ports.get(request.port)
        return exposed is not None and request.token is not None and exposed.token == request.token.reveal()

    def _opener(self, request: VisitRequest, now: float) -> PlainSecret | None:
        if self._is_bare_preflight(request):
            return self.secrets[0] if self.secrets else None
        digest = hashlib.sha256(request.preview_token or b"").digest()
        opening = [secret for secret in self.secrets if now < secret.until]
        by_token = next((secret for secret in opening if secret.digest == digest), None)
        known = [self.sessions.get(session) for session in request.sessions]
        by_session = next((secret for secret in opening if (request.port, secret.serial) in known), None)
        return by_token or by_session

    def note_session(self, session: bytes, request: VisitRequest, now: float) -> None:
        """Remember what a session stands for that was given for `request`, which is let in."""
        opener = self._share_opener(request, now) or self._opener(request, now)
        assert opener is not None
        self.sessions[session] = (request.port, opener.serial)

    def note_share_session(self, session: bytes, share: str) -> None:
        """Remember that a session stands for a share that was redeemed."""
        self.sessions[session] = (self.shares[share].port, self.shares[share].serial)

    def leaning(self, request: VisitRequest, now: float) -> Leaning:
        """Return what a visit leans on that was let in."""
        assert self.run_id is not None
        share = self._share_opener(request, now)
        if share is not None:
            exposed = self.ports.get(request.port)
            port_serial = exposed.serial if exposed is not None else None
            return Leaning(request.port, port_serial, None, self.run_id, share.serial)
        opener = self._opener(request, now) if self.secrets else None
        return Leaning(
            request.port,
            self.ports[request.port].serial if request.token is not None or request.binding is not None else None,
            opener.serial if opener is not None else None,
            self.run_id,
        )

    def carries(self, leaning: Leaning, now: float) -> bool:
        """Say whether all that a visit leaned on still stands."""
        if not self.exists or self.destroyed or self.stopped or self.run_id != leaning.run_id:
            return False
        if leaning.port_serial is not None:
            exposed = self.ports.get(leaning.port)
            if exposed is None or exposed.serial != leaning.port_serial:
                return False
        if leaning.share_serial is not None:
            return any(share.serial == leaning.share_serial and now < share.until for share in self.shares.values())
        opening = {secret.serial for secret in self.secrets if now < secret.until}
        return not self.secrets or leaning.secret_serial in opening


def _is_sane_sleep(seconds: float | None) -> bool:
    return seconds is None or (not isinstance(seconds, bool) and 1 <= seconds < math.inf)
