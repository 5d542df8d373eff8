"""Every security case that is bytes: sent to the real router as they stand, and judged by an outside reader."""

import importlib
import re

import pytest
import trio.testing

from tests.proxy.security.cases import (
    AFTER_101,
    CASES,
    COVERED,
    DISPUTES,
    JUDGES,
    Case,
    Dispute,
    complaints,
    expanded,
)
from tests.proxy.security.stage import Outcome, Stage, memory_stage, says, socket_stage

PLAYABLE = [case for case in CASES.values() if case.raw is not None and not case.asserted]
HONEST = [case for case in PLAYABLE if case.upstream_raw is None]
HOSTILE = [case for case in PLAYABLE if case.upstream_raw is not None]

# Their names hold no port token, and so are nobody's however they are spelt. With one, the spelling is what is judged.
TOKENLESS = [case for case in HONEST if case.raw is not None and re.search(r"aaaa1111(?!-)|aaaa1111-\.", case.raw)]


def named(case: Case) -> str:
    return case.id


async def played(stage: Stage, raw: str) -> Outcome:
    return await stage.play(expanded(raw, stage.hosts))


def assert_as_expected(case: Case, outcome: Outcome) -> None:
    found = complaints(case, outcome)
    assert not found, f"{case.title} ({case.ref}): " + "; ".join(found)


@pytest.mark.parametrize("case", HONEST, ids=named)
async def test_case(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    assert case.raw is not None
    async with memory_stage() as stage:
        outcome = await played(stage, case.raw)
    assert_as_expected(case, outcome)
    outcome.assert_in_step()


# A service that says nothing and waits is another matter: a timeout.
@pytest.mark.parametrize(
    ("case", "closes"),
    [(case, closes) for case in HOSTILE for closes in (True, False) if case.upstream_raw or closes],
    ids=lambda value: value.id if isinstance(value, Case) else "and_closes" if value else "and_waits",
)
async def test_case_of_a_hostile_service(case: Case, closes: bool, autojump_clock: trio.testing.MockClock) -> None:
    assert case.raw is not None
    assert case.upstream_raw is not None
    async with memory_stage(says(expanded(case.upstream_raw, {"A": "", "B": ""}), closes=closes)) as stage:
        outcome = await played(stage, case.raw)
    assert_as_expected(case, outcome)
    outcome.assert_services_read_plainly()


@pytest.mark.parametrize("case", HONEST, ids=named)
async def test_case_over_sockets(case: Case) -> None:
    assert case.raw is not None
    async with socket_stage() as stage:
        outcome = await played(stage, case.raw)
    assert_as_expected(case, outcome)
    outcome.assert_in_step()


@pytest.mark.parametrize("case", TOKENLESS, ids=named)
async def test_case_with_the_right_token_in_a_wrong_spelling(
    case: Case, autojump_clock: trio.testing.MockClock
) -> None:
    assert case.raw is not None
    async with memory_stage() as stage:
        token = stage.hosts["A"].partition(".")[0].rpartition("-")[2]
        outcome = await played(stage, case.raw.replace("aaaa1111", f"aaaa1111-{token}"))
    assert_as_expected(case, outcome)
    outcome.assert_in_step()


def test_every_case_is_played_or_disputed() -> None:
    # Importing them makes them say which cases they play.
    for name in ("checked_cases", "other_doors"):
        importlib.import_module(f"tests.proxy.security.test_{name}")
    wholly_disputed = {dispute.id for dispute in DISPUTES.values() if dispute.wholly}
    played = {case.id for case in PLAYABLE} | COVERED
    assert len(CASES) == 196
    assert played | wholly_disputed == CASES.keys()
    assert not played & wholly_disputed
    assert DISPUTES.keys() <= CASES.keys()


def test_every_part_of_a_played_case_is_judged() -> None:
    for case in PLAYABLE:
        assert {expected.class_ for expected in case.alternatives} <= JUDGES.keys()
        assert not case.steps
        assert AFTER_101 not in (case.raw or "")


@pytest.mark.parametrize("dispute", DISPUTES.values(), ids=lambda dispute: dispute.id)
def test_disputed(dispute: Dispute) -> None:
    pytest.skip(f"{dispute.part}: {dispute.reason} ({dispute.ref})")
