"""Custom hostnames as a state model: names, the table's laws, what is refused, and what the log holds."""

import string
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.errors import InvalidNameError, UnknownRecordError
from actors.sandbox.decide import Refusal, RefusalReason
from actors.sandbox.domains import (
    DOMAINS_PER_SANDBOX_MAX,
    SNAPSHOT_VERSION,
    BindDomain,
    CustomHostname,
    DomainBinding,
    DomainBound,
    DomainCommand,
    DomainEvent,
    DomainLed,
    DomainTable,
    DomainUnbound,
    DomainVerified,
    Proof,
    UnbindDomain,
    UnbindSandbox,
    VerifyDomain,
    decide_domains,
    decode_domain_event,
    encode_domain_event,
    evolve_domains,
    restore_domains,
    snapshot_domains,
)
from actors.sandbox.ids import Port, SandboxId
from actors.sandbox.urls import Domain

NAME = CustomHostname("preview.my-app.com")
MINE, OTHER = SandboxId("mine"), SandboxId("other")
PORT = Port(8080)


def after(*commands: DomainCommand, table: DomainTable | None = None) -> DomainTable:
    table = DomainTable() if table is None else table
    for command in commands:
        events = decide_domains(table, command)
        assert not isinstance(events, Refusal), events
        for event in events:
            table = evolve_domains(table, event)
    return table


def refused(table: DomainTable, command: DomainCommand, reserved: Sequence[Domain] = ()) -> tuple[RefusalReason, str]:
    refusal = decide_domains(table, command, reserved)
    assert isinstance(refusal, Refusal)
    return refusal.reason, refusal.text


def bind(sandbox: SandboxId = MINE, name: str = NAME, port: int = PORT, token: str = "a") -> BindDomain:
    return BindDomain(CustomHostname(name), sandbox, Port(port), token)


def verify(sandbox: SandboxId = MINE, name: str = NAME, token: str = "a", proof: Proof = Proof.SITE) -> VerifyDomain:
    return VerifyDomain(CustomHostname(name), sandbox, token, proof)


# Names.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Preview.My-App.COM", "preview.my-app.com"),
        ("preview.my-app.com.", "preview.my-app.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a.b", "a.b"),
        ("1.2.3.4.example", "1.2.3.4.example"),
    ],
)
def test_hostname_is_folded_and_loses_its_trailing_dot(text: str, name: str) -> None:
    assert CustomHostname(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "com", "localhost", "app.localhost", "a..b", "a.b..", "-a.b", "a-.b", "a_b.c", "*.my-app.com"),
        *("a b.c", "a.b:80", "http://a.b", "a.b/c", "a@b.c", "127.0.0.1", "a.0x7f", "[::1]", "a\n.b", "bücher.example"),
        *("ab--cd.example", "xn--.example", "xn--a.example", "xn--abc-.example", "\N{KELVIN SIGN}.example"),
        *("a" * 64 + ".b", ".".join(["a" * 60] * 5)),
    ],
)
def test_what_is_no_hostname_in_the_public_dns_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        CustomHostname(text)


@given(st.text(string.ascii_letters + string.digits + "-._:/@\0é", max_size=40))
def test_hostname_has_one_spelling(text: str) -> None:
    try:
        name = CustomHostname(text)
    except InvalidNameError:
        return
    assert name == name.lower()
    assert CustomHostname(str(name)) == name
    assert CustomHostname(str(name).upper() + ".") == name


def test_name_is_under_a_domain_or_is_it() -> None:
    domain = Domain("my-app.com")
    assert CustomHostname("my-app.com").is_under(domain)
    assert NAME.is_under(domain)
    assert not CustomHostname("not-my-app.com").is_under(domain)


# The table.

hostnames = st.sampled_from(["a.example", "b.example", "c.example"]).map(CustomHostname)
sandboxes = st.sampled_from(["one", "two", "three"]).map(SandboxId)
ports = st.sampled_from([8080, 8081]).map(Port)


class TableMachine(RuleBasedStateMachine):
    """Any commands, held against a plain model and the laws."""

    def __init__(self) -> None:
        super().__init__()
        self.table = DomainTable()
        self.model: dict[tuple[str, str], tuple[int, str, bool]] = {}
        """By hostname and sandbox: port, token, whether verified."""
        self.drawn = 0
        # {number: where visits that lean on it were led}
        self.led: dict[int, tuple[str, str, int]] = {}

    def take(self, command: DomainCommand) -> tuple[DomainEvent, ...] | Refusal:
        events = decide_domains(self.table, command)
        if isinstance(events, Refusal):
            return events
        counter = self.table.counter
        for event in events:
            assert decode_domain_event(*encode_domain_event(event)) == event
            self.table = evolve_domains(self.table, event)
        assert self.table.counter >= counter
        assert not decide_domains(self.table, command), "again, it changes nothing"
        return events

    def holder(self, hostname: str) -> str | None:
        return next(
            (who for (name, who), (_, _, verified) in self.model.items() if name == hostname and verified), None
        )

    @rule(hostname=hostnames, sandbox=sandboxes, port=ports)
    def bind(self, hostname: CustomHostname, sandbox: SandboxId, port: Port) -> None:
        self.drawn += 1
        token = f"token{self.drawn}"
        result = self.take(BindDomain(hostname, sandbox, port, token))
        key = (str(hostname), str(sandbox))
        if key in self.model:
            self.model[key] = (port, *self.model[key][1:])
        else:
            assert not isinstance(result, Refusal)
            self.model[key] = (port, token, False)

    @rule(hostname=hostnames, sandbox=sandboxes, right=st.booleans(), proof=st.sampled_from(Proof))
    def verify(self, hostname: CustomHostname, sandbox: SandboxId, right: bool, proof: Proof) -> None:
        key = (str(hostname), str(sandbox))
        port, token, verified = self.model.get(key, (0, "none", False))
        holder = self.holder(hostname)
        taken = holder not in (None, str(sandbox))
        result = self.take(VerifyDomain(hostname, sandbox, token if right else "wrong", proof))
        if key not in self.model or not right or (taken and proof is Proof.SITE):
            assert isinstance(result, Refusal)
        else:
            assert not isinstance(result, Refusal)
            assert bool(result) == (not verified)
            if taken:
                del self.model[str(hostname), str(holder)]
            self.model[key] = (port, token, True)

    @rule(hostname=hostnames, sandbox=sandboxes)
    def unbind(self, hostname: CustomHostname, sandbox: SandboxId) -> None:
        assert not isinstance(self.take(UnbindDomain(hostname, sandbox)), Refusal)
        self.model.pop((str(hostname), str(sandbox)), None)

    @rule(sandbox=sandboxes)
    def destroy(self, sandbox: SandboxId) -> None:
        assert not isinstance(self.take(UnbindSandbox(sandbox)), Refusal)
        self.model = {key: one for key, one in self.model.items() if key[1] != str(sandbox)}

    @invariant()
    def agrees_with_the_model(self) -> None:
        bindings = self.table.bindings.values()
        seen = {(one.hostname, str(one.sandbox)): (int(one.port), one.token, one.verified) for one in bindings}
        assert seen == {key: (int(port), token, verified) for key, (port, token, verified) in self.model.items()}

    @invariant()
    def hostname_has_one_holder_at_most(self) -> None:
        names = [one.hostname for one in self.table.verified()]
        assert len(names) == len(set(names))

    @invariant()
    def number_leads_to_one_place_for_ever(self) -> None:
        for one in self.table.bindings.values():
            place = (one.hostname, str(one.sandbox), int(one.port))
            assert self.led.setdefault(one.number, place) == place

    @invariant()
    def snapshot_is_the_table(self) -> None:
        assert restore_domains(SNAPSHOT_VERSION, snapshot_domains(self.table)) == self.table


TestTable = TableMachine.TestCase


def test_asking_takes_a_name_from_nobody_and_showing_gives_it() -> None:
    table = after(bind(MINE), bind(OTHER, token="b"), verify(OTHER, token="b"))
    holder = table.holder(NAME)
    assert holder is not None
    assert holder.sandbox == OTHER
    reason, text = refused(table, verify(MINE))
    assert reason is RefusalReason.FORBIDDEN
    assert "other" not in text.replace("another", "")
    # Given back, it can be had by who asked.
    assert after(UnbindDomain(NAME, OTHER), verify(MINE), table=table).holder(NAME) is not None


def test_name_changes_hands_if_the_answer_is_in_the_dns() -> None:
    held = after(bind(OTHER, token="b"), verify(OTHER, token="b"))
    # Whoever asks for it takes nothing, and is not told whether anybody has it.
    table = after(bind(MINE), table=held)
    assert table.holder(NAME) == held.holder(NAME)
    assert refused(table, verify(MINE, proof=Proof.SITE))[0] is RefusalReason.FORBIDDEN
    assert refused(table, verify(MINE, token="b", proof=Proof.DNS))[0] is RefusalReason.NO_DOMAIN
    events = decide_domains(table, verify(MINE, proof=Proof.DNS))
    assert events == (DomainUnbound(NAME, OTHER), DomainVerified(NAME, MINE))
    table = after(verify(MINE, proof=Proof.DNS), table=table)
    holder = table.holder(NAME)
    assert holder is not None
    assert holder.sandbox == MINE
    assert table.of_sandbox(OTHER) == []
    # What the one before had published is worth nothing any more, wherever it still stands.
    table = after(bind(OTHER, token="c"), table=table)
    assert refused(table, verify(OTHER, token="b", proof=Proof.DNS))[0] is RefusalReason.NO_DOMAIN


def test_name_under_a_base_domain_is_refused() -> None:
    for domain in ("my-app.com", "preview.my-app.com"):
        reason, text = refused(DomainTable(), bind(), [Domain("example.com"), Domain(domain)])
        assert (reason, domain in text) == (RefusalReason.FORBIDDEN, True)
    assert decide_domains(DomainTable(), bind(), [Domain("other.my-app.com")])


def test_answer_to_an_older_challenge_verifies_nothing() -> None:
    table = after(bind(token="a"), UnbindDomain(NAME, MINE), bind(token="b"))
    assert refused(table, verify(token="a"))[0] is RefusalReason.NO_DOMAIN


def test_other_port_keeps_what_was_shown_and_is_another_number() -> None:
    before = after(bind(), verify())
    table = after(bind(port=9090), table=before)
    (first,), (second,) = before.bindings.values(), table.bindings.values()
    assert (second.port, second.verified, second.token) == (9090, True, first.token)
    assert second.number > first.number


def test_sandbox_has_so_many_and_no_more() -> None:
    table = after(*(bind(name=f"n{number}.example") for number in range(DOMAINS_PER_SANDBOX_MAX)))
    assert refused(table, bind())[0] is RefusalReason.FORBIDDEN
    assert decide_domains(table, bind(OTHER))
    assert decide_domains(table, bind(name="n1.example", port=9090))


def test_challenge_is_of_the_name_and_the_token_and_its_answer_is_not_in_its_path() -> None:
    binding = DomainBinding(NAME, MINE, PORT, "abc", 1)
    challenge = binding.challenge
    assert challenge.txt_name == "_portico-challenge.preview.my-app.com"
    assert challenge.txt_value == f"portico={challenge.http_body}"
    assert challenge.http_path == "/.well-known/portico-challenge/abc"
    assert challenge.http_body not in challenge.http_path
    others = [DomainBinding(NAME, MINE, PORT, "abd", 1), DomainBinding("other.my-app.com", MINE, PORT, "abc", 1)]
    assert all(other.challenge.http_body != challenge.http_body for other in others)


# What does not fit.


@pytest.mark.parametrize(
    "events",
    [
        [DomainVerified(NAME, MINE)],
        [DomainUnbound(NAME, MINE)],
        [DomainLed(NAME, MINE, PORT)],
        [DomainBound(NAME, MINE, PORT, "a"), DomainBound(NAME, MINE, PORT, "a")],
        [
            *(DomainBound(NAME, sandbox, PORT, "a") for sandbox in (MINE, OTHER)),
            *(DomainVerified(NAME, sandbox) for sandbox in (MINE, OTHER)),
        ],
    ],
)
def test_event_that_cannot_have_happened_is_refused(events: list[DomainEvent]) -> None:
    table = DomainTable()
    for event in events[:-1]:
        table = evolve_domains(table, event)
    with pytest.raises(UnknownRecordError):
        evolve_domains(table, events[-1])


@pytest.mark.parametrize(
    ("name", "version", "fields"),
    [
        ("domain_bound", 2, {}),
        ("domain_stolen", 1, {}),
        ("domain_unbound", 1, {"hostname": "a.b"}),
        ("domain_unbound", 1, {"hostname": "a b", "sandbox": "mine"}),
        ("domain_unbound", 1, {"hostname": "a.b", "sandbox": "www"}),
    ],
)
def test_record_that_is_not_known_is_refused(name: str, version: int, fields: dict[str, object]) -> None:
    with pytest.raises(UnknownRecordError):
        decode_domain_event(name, version, fields)


def test_snapshot_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnknownRecordError, match="version 2"):
        restore_domains(2, {})
    with pytest.raises(UnknownRecordError, match="fields"):
        restore_domains(1, {"bindings": [{"hostname": "a.b"}], "counter": 1})
