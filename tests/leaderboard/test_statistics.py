"""Runs to summaries and paired differences, against cases worked by hand and against scipy."""
import math

import pytest

from leaderboard.errors import RecordError
from leaderboard.statistics import (
    difference,
    holm,
    mean_half_width,
    prediction_half_width,
    scores,
    summarise,
    taken_over,
    verdict,
)


def rows(method, deterministic=False, **values):
    """Rows of one method by run: `s1` is transfer seed 1 of pretraining 0, `p2s1` of 2, `n1` of an unknown one."""
    found = []
    for run, value in values.items():
        pretraining, seed = run.lstrip("pn").split("s") if "s" in run else (None, run[1:])
        found.append({"method": method, "seed": int(seed), "deterministic": deterministic,
                      "pretrain_seed": None if pretraining is None else int(pretraining or 0),
                      "metrics": {"bbox_AP": value}})
    return found


def test_summary_of_a_case_worked_by_hand():
    over = summarise([2.0, 4.0, 9.0])  # deviations -3, -1, 4: squares 26, over n - 1 = 13
    assert over.mean == 5.0 and over.n == 3
    assert over.sd == pytest.approx(math.sqrt(13))
    assert over.se == pytest.approx(math.sqrt(13 / 3))


def test_summary_leaves_out_what_was_not_measured():
    over = summarise([None, 3.0, float("nan"), 5.0])
    assert (over.mean, over.n) == (4.0, 2)
    one, none = summarise([3.0]), summarise([None])
    assert (one.mean, one.n) == (3.0, 1) and math.isnan(one.sd) and math.isnan(one.se)
    assert none.n == 0 and math.isnan(none.mean)


def test_summary_agrees_with_numpy():
    numpy = pytest.importorskip("numpy")
    values = [23.41, 22.9, 24.07, 23.3, 25.2]
    over = summarise(values)
    assert over.mean == pytest.approx(numpy.mean(values), rel=1e-12)
    assert over.sd == pytest.approx(numpy.std(values, ddof=1), rel=1e-12)


def test_paired_difference_of_a_case_worked_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, se 1/sqrt(3); t(2) = 4.303: the interval is 2 -+ 2.484.
    a, b = rows("a", s0=11.0, s1=22.0, s2=33.0), rows("b", s2=30.0, s0=10.0, s1=20.0)
    found = difference(a, b, "bbox_AP")
    assert (found.mean, found.n, found.unpaired) == (2.0, 3, ())
    assert found.se == pytest.approx(1 / math.sqrt(3))
    assert (found.low, found.high) == (pytest.approx(-0.484, abs=1e-3), pytest.approx(4.484, abs=1e-3))
    assert found.p == pytest.approx(0.0742, abs=1e-4) and found.over == "3 transfers"


def test_a_difference_of_one_sign_is_told_either_way():
    better = rows("a", s0=11.0, s1=21.2, s2=31.1)  # unpaired, the spread of seeds would drown it
    base = rows("b", s0=10.0, s1=20.0, s2=30.0)
    one, other = difference(better, base, "bbox_AP"), difference(base, better, "bbox_AP")
    assert verdict(one.mean, one.p) == "better" and verdict(other.mean, other.p) == "worse" and other.high < 0
    assert verdict(one.mean, 0.051) == "not distinguishable" and verdict(one.mean, math.nan) == ""


def test_p_values_are_corrected_as_by_holm_1979():
    # 0.01 x 3, then max(0.03, 0.02 x 2), then max(0.04, 0.03); a NaN is no comparison.
    assert holm([0.03, math.nan, 0.01, 0.02]) == [pytest.approx(0.04), pytest.approx(math.nan, nan_ok=True),
                                                  pytest.approx(0.03), pytest.approx(0.04)]
    assert holm([0.4, 0.9]) == [pytest.approx(0.8), pytest.approx(0.9)] and holm([0.7, 0.6]) == [1.0, 1.0]


def test_paired_difference_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = [23.4, 22.9, 24.1, 23.3, 25.2], [22.8, 22.9, 23.0, 23.1, 24.6]
    found = difference(rows("a", **{f"s{i}": v for i, v in enumerate(a)}),
                       rows("b", **{f"s{i}": v for i, v in enumerate(b)}), "bbox_AP")
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.p == pytest.approx(test.pvalue, rel=1e-9)


def test_over_pretrainings_it_agrees_with_scipys_welch_of_their_means():
    """Seed 9, which b lacks, has no part in the means."""
    from scipy import stats

    a = rows("a", p0s0=20.0, p0s1=22.0, p1s0=25.0, p1s1=23.0, p2s0=24.0, p2s1=25.0, p2s9=99.0)
    b = rows("b", p0s0=19.0, p0s1=20.5, p5s0=18.0, p5s1=21.0)
    found = difference(a, b, "bbox_AP")
    test = stats.ttest_ind([21.0, 24.0, 24.5], [19.75, 19.5], equal_var=False)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, test.pvalue), rel=1e-9)
    assert (found.n, found.over, found.unpaired) == (5, "3 + 2 pretrainings", ((2, 9),))


def test_a_mean_has_the_interval_of_its_pretrainings_where_there_are_several():
    transfers = rows("a", s0=1.0, s1=2.0, s2=3.0)  # sd 1, t(2) = 4.303
    assert mean_half_width(transfers, "bbox_AP") == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    both = rows("a", p0s0=1.0, p0s1=3.0, p1s0=4.0, p1s1=4.0)  # means 2 and 4: sd sqrt(2), t(1) = 12.706
    assert mean_half_width(both, "bbox_AP") == pytest.approx(12.706, abs=1e-3)
    assert math.isnan(mean_half_width(rows("a", True, s0=1.0, s1=1.0), "bbox_AP"))


def test_unpaired_and_unmeasured_seeds_are_named_and_left_out():
    a = rows("a", s0=5.0, s1=6.0, s3=float("nan"), s4=9.0)
    b = rows("b", s0=4.0, s1=4.0, s2=7.0, s3=1.0, s4=None)
    found = difference(a, b, "bbox_AP")
    assert (found.mean, found.n, found.unpaired) == (1.5, 2, ((0, 2), (0, 3), (0, 4)))


def test_one_pair_has_no_interval_and_none_no_mean():
    one = difference(rows("a", s0=50.0), rows("b", s0=1.0), "bbox_AP")
    assert one.mean == 49.0 and math.isnan(one.low) and math.isnan(one.p)
    none = difference(rows("a", s0=50.0), rows("b", s1=1.0), "bbox_AP")
    assert none.n == 0 and math.isnan(none.mean) and none.unpaired == ((0, 0), (0, 1))


def test_a_seed_twice_is_refused():
    with pytest.raises(RecordError, match="a: two records of one seed"):
        difference(rows("a", s0=1.0) * 2, rows("b", s0=1.0), "bbox_AP")


def test_runs_of_one_pretraining_are_paired_by_both_seeds():
    # Paired rightly every difference is 1; by the transfer seed alone p1's would have a part.
    a = rows("a", p0s0=11.0, p0s1=21.0)
    b = rows("b", p1s0=30.0, p0s0=10.0, p1s1=40.0, p0s1=20.0)
    found = difference(a, b, "bbox_AP")
    assert (found.mean, found.se, found.n, found.unpaired) == (1.0, 0.0, 2, ((1, 0), (1, 1)))


def test_rows_of_an_unknown_pretraining_meet_the_mean_of_the_others_pretrainings():
    a, b = rows("a", n0=12.0, n1=24.0), rows("b", p0s0=10.0, p1s0=12.0, p0s1=20.0, p1s1=22.0)
    for found, sign in ((difference(a, b, "bbox_AP"), 1), (difference(b, a, "bbox_AP"), -1)):
        assert (found.mean, found.n, found.unpaired) == (sign * 2.0, 2, ())  # 12 - 11 and 24 - 21


def test_repetitions_of_a_deterministic_score_are_one_run():
    a = rows("a", True, s0=37.5, s1=37.5, s2=37.5)
    assert scores(a, "bbox_AP") == {(0, None): 37.5} and summarise(scores(a, "bbox_AP").values()).n == 1
    once = difference(a, rows("b", True, s0=30.0, s1=30.0, s2=30.0), "bbox_AP")
    assert (once.mean, once.n) == (7.5, 1) and math.isnan(once.low) and once.over == ""
    # Over pretrainings chance had a say: means 38 and 30 with standard errors 1 and 0.
    twice = difference(rows("a", True, p0s0=37.0, p0s1=37.0, p1s0=39.0), rows("b", True, p0s0=30.0, p1s0=30.0),
                       "bbox_AP")
    assert (twice.mean, twice.se, twice.n) == (8.0, pytest.approx(1.0), 4)


@pytest.mark.parametrize(("runs", "deterministic", "expected"), [
    (("s0",), False, ""), (("s0", "s1"), False, "transfers"), (("p0s0", "p1s0"), False, "pretrainings"),
    (("p0s0", "p1s1"), False, "both"), (("p0s0", "p0s1", "p1s0", "p1s1"), False, "both"),
    (("n0", "n1"), False, "transfers"),
    (("s0", "s1"), True, ""), (("p0s0", "p1s1"), True, "pretrainings"),
])
def test_what_a_spread_is_taken_over(runs, deterministic, expected):
    assert taken_over(rows("a", deterministic, **dict.fromkeys(runs, 1.0))) == expected


def test_prediction_interval_of_a_case_worked_by_hand():
    # sd 1, t(2) = 4.303, times the root of 1 + 1/3.
    assert prediction_half_width(summarise([1.0, 2.0, 3.0])) == pytest.approx(4.303 * math.sqrt(4 / 3), abs=1e-3)
