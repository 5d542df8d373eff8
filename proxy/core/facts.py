"""What a sandbox's own log knows of a preview, and how that sharpens what was seen from outside.

From outside, a wrong token and a port that was taken back are the same 404, on purpose. Whoever may read the log may
be told which of them it is, and since when.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from actors import HostHeader, Moment, SandboxState, describe_event
from proxy.core.diagnosis import Finding, Outcome, Reply, Step, Target, ok, skipped
from proxy.core.hostname import PreviewHost, TokenHost
from proxy.core.symptoms import host_check, judge_host_check

_LISTENING: Final = "0A"
"""TCP_LISTEN in the fourth column of /proc/net/tcp (include/net/tcp_states.h)."""


_SHARE_ENDS: Final = {
    "share_revoked": "was revoked",
    "share_expired": "had come to its time",
    "port_unexposed": "went with its port, which was taken back",
    "sandbox_destroyed": "went with its sandbox, which was destroyed",
}
"""{event: what it was to a share that it has ended}"""


@dataclass(frozen=True, slots=True)
class Facts:
    """Times are in seconds since 1970; None: it never happened, as far back as the log goes."""

    status: str
    """``active``, ``stopped`` or ``destroyed``."""
    status_since: float
    exposed: bool
    """Whether the URL's port is."""
    exposed_since: float | None
    """Since when under its present token; of a port that is not exposed, until when it last was."""
    token_fits: bool
    """True for a host that has no token."""
    gated_since: float | None
    """Since when the present preview token of the sandbox is in force; None: there is no preview auth."""
    up: bool
    run_since: float | None
    """When the run began; of one that is over, when it ended."""
    run_end: str | None
    """How the last one ended; None if none has, or it is up."""
    container: str
    """Its kind."""
    host_header: HostHeader | None
    """None: the port is not exposed."""
    share: "ShareFacts | None" = None
    """What the log knows of the share whose id the host names; None: there is none of that id."""


@dataclass(frozen=True, slots=True)
class ShareFacts:
    """What has become of a share."""

    id: str
    expires_at: float
    redeemed_at: float | None = None
    """When one that opens one session has opened it."""
    ended_at: float | None = None
    end: str = ""
    """What has ended it; empty: nothing yet, unless its time is over."""


def facts_of(moments: Sequence[Moment], target: Target) -> Facts | None:
    """Read a sandbox's past for what matters to `target`, whose host must be a preview's; None if there is no past."""
    preview = target.preview
    if not moments or preview is None:
        return None
    exposed_since: float | None = None
    gated_since: float | None = None
    run_since: float | None = None
    status_since = moments[0].time
    run_end: str | None = None
    share: ShareFacts | None = None
    before: SandboxState | None = None
    for moment in moments:
        state = moment.state
        if before is None or before.status is not state.status:
            status_since = moment.time
        # Only the state before tells that a port has gone, or that its token is another one now.
        if before is None or _generation(before, preview.port) != _generation(state, preview.port):
            exposed_since = moment.time if before is not None or preview.port in state.ports else None
        if state.auth is None:
            gated_since = None
        elif before is None or before.auth is None or before.auth.generation != state.auth.generation:
            gated_since = moment.time
        if (None if before is None else before.run_id) != state.run_id:
            run_since = moment.time
        if moment.event is not None:
            name, fields = describe_event(moment.event)
            if name == "run_ended":
                run_end = str(fields["reason"])
        share = _share_after(share, moment, before, preview)
        before = state
    state = moments[-1].state
    exposure = state.ports.get(preview.port)
    fits = not isinstance(preview, TokenHost) or (
        exposure is not None and exposure.token.matches(preview.token.reveal())
    )
    return Facts(
        status=state.status.value,
        status_since=status_since,
        exposed=exposure is not None,
        exposed_since=exposed_since,
        token_fits=fits,
        gated_since=gated_since,
        up=state.run_id is not None,
        run_since=run_since,
        run_end=run_end if state.run_id is None else None,
        container=state.container.kind,
        host_header=None if exposure is None else exposure.host_header,
        share=share,
    )


def _share_after(
    known: ShareFacts | None, moment: Moment, before: SandboxState | None, preview: PreviewHost
) -> ShareFacts | None:
    """Return what is known of the share that the host names, after one moment more."""
    if not isinstance(preview, TokenHost):
        return None
    name = preview.token.reveal()
    now, then = moment.state.shares.get(name), None if before is None else before.shares.get(name)
    if now is not None:
        share = known if known is not None and then is not None else ShareFacts(str(now.share), now.expires_at)
        return replace(share, redeemed_at=moment.time) if now.redeemed and share.redeemed_at is None else share
    if then is None or known is None:
        return known
    event = "" if moment.event is None else describe_event(moment.event)[0]
    return replace(known, ended_at=moment.time, end=_SHARE_ENDS.get(event, "ended"))


def _generation(state: SandboxState, port: int) -> int | None:
    return next((exposure.generation for number, exposure in state.ports.items() if number == port), None)


def judge_record(facts: Facts | None, target: Target, folder: str) -> Finding:
    """Say what the log knows. It never fails by itself: what is wrong shows in the step that it breaks."""
    if target.preview is None:
        return skipped(Step.RECORD, "the host names no sandbox to look up")
    if facts is None:
        return skipped(
            Step.RECORD, f"there is no log of {target.preview.sandbox} in {folder}: is that the server's folder?"
        )
    said = [f"{facts.status} since {shown_time(facts.status_since)}"]
    port = target.preview.port
    if facts.exposed and facts.exposed_since is not None:
        said.append(f"port {port:d} has had its URL since {shown_time(facts.exposed_since)}")
        if facts.share is None:
            said.append("the token fits" if facts.token_fits else "the token is another one")
    elif facts.exposed_since is not None:
        said.append(f"port {port:d} was taken back at {shown_time(facts.exposed_since)}")
    else:
        said.append(f"port {port:d} was never exposed")
    if facts.share is not None:
        said.append(f"link {facts.share.id} {_standing(facts.share)}")
    if facts.gated_since is not None:
        said.append(f"preview token in force since {shown_time(facts.gated_since)}")
    if facts.run_since is None:
        said.append("never run")
    elif facts.up:
        said.append(f"up since {shown_time(facts.run_since)}")
    else:
        said.append(f"asleep since {shown_time(facts.run_since)}" + (f" ({facts.run_end})" if facts.run_end else ""))
    return ok(Step.RECORD, "; ".join(said))


def _standing(share: ShareFacts) -> str:
    if share.ended_at is not None:
        return f"{share.end} at {shown_time(share.ended_at)}"
    opened = "" if share.redeemed_at is None else f", opened its one session at {shown_time(share.redeemed_at)}"
    return f"opens until {shown_time(share.expires_at)}{opened}"


def sharpen(
    found: Finding, facts: Facts | None, target: Target, said: Reply | None, listening: Sequence[str]
) -> Finding:
    """Return a finding with what the log knows about its cause; as it is, if that is nothing.

    Args:
        found: As judged from outside.
        facts: Of the log.
        target: The preview.
        said: The answer that the finding comes from.
        listening: Addresses of this machine that something listens at, on the preview's port; for containers that
            share its network.
    """
    preview = target.preview
    if facts is None or preview is None or found.outcome is not Outcome.FAILED:
        return found
    port = f"{preview.port:d}"
    if found.step is Step.TOKEN and said is not None and target.share_secret is not None:
        return _sharpen_link(found, facts, said)
    if found.step is Step.TOKEN and said is not None and said.status == 404:
        if facts.status == "destroyed":
            when = shown_time(facts.status_since)
            return replace(
                found,
                text=f"the sandbox was destroyed at {when}",
                mend=f"make it anew, and take its new URL: get_sandbox({str(preview.sandbox)!r}), expose_port({port})",
            )
        if facts.share is not None:
            return replace(
                found,
                text=f"the host names link {facts.share.id}, and the URL has not its secret",
                mend="take the whole link, as share() returned it: it is told once",
            )
        if not facts.exposed:
            since = "was never exposed"
            if facts.exposed_since is not None:
                since = f"was taken back at {shown_time(facts.exposed_since)}"
            return replace(found, text=f"port {port} {since}")
        if not facts.token_fits and facts.exposed_since is not None:
            when = shown_time(facts.exposed_since)
            return replace(
                found, text=f"that token is not, or no longer, port {port}'s: it has had another since {when}"
            )
    if found.step is Step.TOKEN and said is not None and said.status == 401 and facts.gated_since is not None:
        return replace(found, text=f"{found.text}; the present one is in force since {shown_time(facts.gated_since)}")
    if found.step is Step.RUN and facts.run_end is not None and facts.run_since is not None:
        return replace(
            found, text=f"{found.text}; its last run ended at {shown_time(facts.run_since)}: {facts.run_end}"
        )
    if found.step is Step.PORT and listening:
        return replace(
            found,
            text=f"{found.text}; on this machine something listens on port {port} at {', '.join(listening)} only",
            mend=f"let the service listen on 127.0.0.1 or on every address (0.0.0.0), not on {listening[0]} alone",
        )
    check = host_check(said) if said is not None else None
    if found.step is Step.SERVICE and said is not None and check is not None:
        return judge_host_check(target, said, check, preserved=facts.host_header is HostHeader.PRESERVE)
    return found


def _sharpen_link(found: Finding, facts: Facts, said: Reply) -> Finding:
    """Return the finding about a share's link with what the log knows of that share."""
    share = facts.share
    if said.status == 410 and share is not None and share.redeemed_at is not None:
        return replace(found, text=f"{found.text}, at {shown_time(share.redeemed_at)}")
    if said.status != 404:
        return found
    if share is None:
        return replace(found, text="the sandbox never had a link of that name, as far back as its log goes")
    if share.ended_at is not None:
        return replace(found, text=f"link {share.id} {share.end} at {shown_time(share.ended_at)}")
    text = f"link {share.id} is not of that secret, or its time was over at {shown_time(share.expires_at)}"
    return replace(found, text=text)


def listening_addresses(table: str, port: int) -> list[str]:
    """Return the addresses that something listens at, on `port`.

    Args:
        table: The text of ``/proc/net/tcp`` or ``/proc/net/tcp6`` (proc(5)); lines that make no sense are passed over.
        port: 1 to 65535.
    """
    found: list[str] = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) < 4 or columns[3] != _LISTENING:
            continue
        address, _, number = columns[1].partition(":")
        try:
            if int(number, 16) == port:
                found.append(_address(bytes.fromhex(address)))
        except ValueError:
            continue
    return found


def _address(words: bytes) -> str:
    """Read 4 or 16 bytes, of which the kernel writes each word of 32 bits in the order of a little-endian machine."""
    swapped = b"".join(words[start : start + 4][::-1] for start in range(0, len(words), 4))
    return str(IPv4Address(swapped) if len(swapped) == 4 else IPv6Address(swapped))


def shown_time(time: float) -> str:
    """Return a time as people read it: ``2026-11-22 15:30:00Z``."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
