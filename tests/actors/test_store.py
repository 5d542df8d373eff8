"""What stores hand out: histories count, tenures begin where the history ends."""

from actors.sandbox.ids import SandboxId
from actors.store import History, Record, Tenure


def record(sequence: int) -> Record:
    return Record(sequence, 1, 0.0, "numbered", 1, {})


def test_an_empty_history_has_given_out_no_number() -> None:
    assert History(None, ()).sequence == 0


def test_the_last_record_counts_before_the_snapshot() -> None:
    assert History(None, (record(1), record(2))).sequence == 2
    assert History(record(7), ()).sequence == 7
    assert History(record(7), (record(8), record(9))).sequence == 9


def test_a_tenure_begins_where_its_history_ends() -> None:
    tenure = Tenure(SandboxId("my-app"), 3, History(record(7), (record(8),)))
    assert (tenure.epoch, tenure.sequence) == (3, 8)
    assert tenure.history is not None
