"""How the state model's things look in answers. What a key may not see is left out here, and only here."""

from datetime import UTC, datetime
from typing import Literal

from actors import (
    Domain,
    DomainBinding,
    ExposedPort,
    HostHeader,
    Moment,
    PortToken,
    Process,
    PublicAddress,
    Runtime,
    SandboxState,
    Share,
    Status,
    describe_event,
    describe_state,
    preview_url,
)
from proxy.api import schemas
from proxy.api.keys import KeyRecord
from proxy.core.explain import Explanation


def shown_sandbox(
    state: SandboxState, runtime: Runtime, *, secrets: bool, preview_auth_token: str | None = None
) -> schemas.Sandbox:
    """Return a sandbox as it is.

    Args:
        state: Its state.
        runtime: Knows where previews are reached.
        secrets: Whether the tokens of its ports are told.
        preview_auth_token: Drawn by this very call.
    """
    return schemas.Sandbox(
        id=state.sandbox,
        status=_status(state),
        container=state.container.kind,
        open_ports=state.open_ports,
        when_asleep=state.when_asleep.value,
        sleep_after=state.sleep_after,
        preview_auth=state.auth is not None,
        created_at=shown_time(state.created_at) if state.created_at is not None else None,
        ports=shown_ports(state, runtime, secrets=secrets),
        preview_auth_token=preview_auth_token,
    )


def shown_ports(state: SandboxState, runtime: Runtime, *, secrets: bool) -> list[schemas.Port]:
    """Return the exposed ports of a sandbox, by number."""
    shown = []
    for port, exposure in sorted(state.ports.items()):
        shown.append(
            schemas.Port(
                port=port,
                url=_url(runtime.public_address, state, port, exposure.token) if secrets else None,
                name=exposure.name,
                token=exposure.token.reveal() if secrets else None,
                host_header=exposure.host_header.value,
                status="active" if state.run_id is not None else "asleep",
            )
        )
    return shown


def shown_port(exposed: ExposedPort, host_header: HostHeader) -> schemas.Port:
    """Return a port that was exposed by this very call."""
    return schemas.Port(
        port=exposed.port,
        url=exposed.url,
        name=exposed.name,
        token=exposed.token,
        host_header=host_header.value,
        status=exposed.status.value,
    )


def shown_share(share: Share) -> schemas.Share:
    """Return a share; its link is in it only if this very call has made it."""
    return schemas.Share(
        id=share.id,
        port=share.port,
        expires_at=shown_time(share.expires_at),
        once=share.once,
        url=share.url,
        custom_hostname=share.custom_hostname,
    )


def shown_process(process: Process) -> schemas.Process:
    """Return a process as it is."""
    return schemas.Process(
        id=process.id,
        command=process.command,
        pid=process.pid,
        status=process.status.value,
        exit_code=process.exit_code,
        restarts=process.restarts,
    )


def shown_domain(binding: DomainBinding) -> schemas.CustomDomain:
    """Return a custom hostname, and how its owner shows that it is theirs."""
    challenge = binding.challenge
    return schemas.CustomDomain(
        hostname=binding.hostname,
        sandbox=binding.sandbox,
        port=binding.port,
        verified=binding.verified,
        challenge=schemas.Challenge(
            txt_name=challenge.txt_name,
            txt_value=challenge.txt_value,
            http_path=challenge.http_path,
            http_body=challenge.http_body,
        ),
    )


def shown_key(key: KeyRecord) -> schemas.Key:
    """Return a key without its digest."""
    return schemas.Key(id=key.id, name=key.name, scope=key.scope, created_at=shown_time(key.created_at))


def shown_moment(moment: Moment) -> schemas.Moment:
    """Return one record of a log, secrets masked."""
    if moment.event is None:
        name, fields = "snapshot", describe_state(moment.state)
    else:
        name, fields = describe_event(moment.event)
    return schemas.Moment(
        sequence=moment.sequence, epoch=moment.epoch, time=shown_time(moment.time), event=name, fields=fields
    )


def shown_explanation(explanation: Explanation) -> schemas.Explanation:
    """Return why a URL gets the answer it gets."""
    return schemas.Explanation(
        url=explanation.url,
        sandbox=None if explanation.sandbox is None else str(explanation.sandbox),
        steps=[
            schemas.Step(question=step.question.value, answer=step.answer, because=step.because)
            for step in explanation.steps
        ],
        outcome=schemas.Outcome(status=explanation.status, code=explanation.code, text=explanation.outcome),
    )


def shown_time(time: float) -> str:
    """Return a time in UTC, as ISO 8601 has it."""
    return datetime.fromtimestamp(time, UTC).isoformat()


def domain_of(runtime: Runtime, domains: tuple[Domain, ...]) -> Domain:
    """Return the base domain for URLs that name none."""
    return runtime.public_address.domain if runtime.public_address is not None else domains[0]


def _status(state: SandboxState) -> Literal["running", "asleep", "stopped"]:
    if state.status is not Status.ACTIVE:
        return "stopped"
    return "running" if state.run_id is not None else "asleep"


def _url(public: PublicAddress | None, state: SandboxState, port: int, token: PortToken) -> str | None:
    return preview_url(public, state.sandbox, port, token) if public is not None else None
