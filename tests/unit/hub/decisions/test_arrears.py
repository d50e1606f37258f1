from __future__ import annotations

from metrica_hub.decisions.arrears import STILL_S, Arrear, Owed, missing, weighed

OWED = Owed(device="pi-01", stream="a" * 32, stored=4, said=9)


def test_a_gap_that_does_not_close_is_missing_records() -> None:
    arrears = weighed({}, [OWED], 100.0)
    arrears = weighed(arrears, [OWED._replace(said=12)], 100.0 + STILL_S - 1)
    assert missing(arrears, 100.0 + STILL_S - 1) == {}
    arrears = weighed(arrears, [OWED._replace(said=14)], 100.0 + STILL_S)
    assert missing(arrears, 100.0 + STILL_S) == {"pi-01": 10}


def test_who_moves_on_or_begins_anew_or_has_caught_up_or_is_not_heard_owes_nothing_old() -> None:
    before = {"pi-01": Arrear(OWED, 100.0)}
    later_s = 100.0 + STILL_S
    for owed in ([OWED._replace(stored=5)], [OWED._replace(stream="b" * 32)], []):
        after = weighed(before, owed, later_s)
        assert missing(after, later_s) == {}
    assert weighed(before, [], later_s) == {}
