"""Seeds to summaries and paired differences, against cases worked by hand and against scipy."""
import math

import pytest

from leaderboard.statistics import paired_difference, summarise, t_quantile


def rows(method, **seeds):
    return [{"method": method, "seed": int(seed[1:]), "metrics": {"bbox_AP": value}}
            for seed, value in seeds.items()]


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


@pytest.mark.parametrize(("df", "printed"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262),
                                             (10, 2.228), (29, 2.045), (30, 2.042), (120, 1.980)])
def test_t_quantile_is_the_printed_tables(df, printed):
    assert t_quantile(df) == pytest.approx(printed, abs=5e-4)


def test_t_quantile_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for df in (*range(1, 40), 137):
        for coverage in (0.5, 0.95, 0.999):
            assert t_quantile(df, coverage) == pytest.approx(stats.t.ppf((1 + coverage) / 2, df), rel=1e-9)


def test_t_quantile_refuses_what_has_none():
    with pytest.raises(ValueError, match="df >= 1"):
        t_quantile(0)


def test_paired_difference_of_a_case_worked_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, se 1/sqrt(3); t(2) = 4.303: the interval is 2 -+ 2.484.
    a, b = rows("a", s0=11.0, s1=22.0, s2=33.0), rows("b", s2=30.0, s0=10.0, s1=20.0)
    found = paired_difference(a, b, "bbox_AP")
    assert (found.mean, found.n, found.unpaired) == (2.0, 3, ())
    assert found.se == pytest.approx(1 / math.sqrt(3))
    assert (found.low, found.high) == (pytest.approx(-0.484, abs=1e-3), pytest.approx(4.484, abs=1e-3))
    assert not found.clear


def test_paired_difference_is_clear_on_either_side_of_zero():
    better = rows("a", s0=11.0, s1=21.2, s2=31.1)  # unpaired, the spread of seeds would drown it
    base = rows("b", s0=10.0, s1=20.0, s2=30.0)
    assert paired_difference(better, base, "bbox_AP").clear
    worse = paired_difference(base, better, "bbox_AP")
    assert worse.clear and worse.high < 0


def test_paired_difference_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = [23.4, 22.9, 24.1, 23.3, 25.2], [22.8, 22.9, 23.0, 23.1, 24.6]
    found = paired_difference(rows("a", **{f"s{i}": v for i, v in enumerate(a)}),
                              rows("b", **{f"s{i}": v for i, v in enumerate(b)}), "bbox_AP")
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_unpaired_and_unmeasured_seeds_are_named_and_left_out():
    a = rows("a", s0=5.0, s1=6.0, s3=float("nan"), s4=9.0)
    b = rows("b", s0=4.0, s1=4.0, s2=7.0, s3=1.0, s4=None)
    found = paired_difference(a, b, "bbox_AP")
    assert (found.mean, found.n, found.unpaired) == (1.5, 2, (2, 3, 4))


def test_one_pair_has_no_interval_and_none_no_mean():
    one = paired_difference(rows("a", s0=50.0), rows("b", s0=1.0), "bbox_AP")
    assert one.mean == 49.0 and math.isnan(one.low) and not one.clear
    none = paired_difference(rows("a", s0=50.0), rows("b", s1=1.0), "bbox_AP")
    assert none.n == 0 and math.isnan(none.mean) and none.unpaired == (0, 1)


def test_a_seed_twice_is_refused():
    with pytest.raises(ValueError, match="a: two records of one seed"):
        paired_difference(rows("a", s0=1.0) * 2, rows("b", s0=1.0), "bbox_AP")
