"""What the numbers of two sides allow to be said, and how often that is wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.errors import BadSettings
from mlops_nb.verdict import VERDICTS, Rule, difference_of_means, difference_over_rows, error_rates, judge, looks_between, parse_rule, with_rows

RULE = Rule("macro_f1", seeds=5)
values = st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=4).map(lambda found: dict(enumerate(found)))


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_equal_models_are_called_worse_in_no_more_than_five_of_a_hundred(shared):
    """Over 1,000 comparisons of two equal models, with three looks at growing numbers of seeds, and no tolerance to hide behind."""
    rates = error_rates(RULE, loss=0.0, noise=0.01, shared=shared, most=20, trials=1000)
    assert rates["worse"] <= 0.05
    assert rates["better"] <= 0.05


@pytest.mark.parametrize("draw", ["skewed", "heavy tails", "rare failures", "few distinct values"])
@pytest.mark.parametrize("paired", [True, False])
def test_the_rate_holds_where_results_are_not_normal(draw, paired):
    """Seeds that now and then go wrong, scores that pile up below 1, scores of few test rows: equal models, 1,000 times each."""
    random = np.random.default_rng(3)
    one = {
        "skewed": lambda n: 1 - random.gamma(2.0, 0.01, n),
        "heavy tails": lambda n: 0.9 + 0.005 * random.standard_t(3, n),
        "rare failures": lambda n: 0.95 + random.normal(0, 0.005, n) - 0.3 * (random.random(n) < 0.05),
        "few distinct values": lambda n: random.binomial(50, 0.9, n) / 50,
    }[draw]
    looks, worse = looks_between(5, 20), 0
    for _ in range(1000):
        old, new = one(20), one(20)
        for n in looks:
            shift = 0 if paired else 100
            verdict = judge(RULE, dict(enumerate(old[:n])), {seed + shift: value for seed, value in enumerate(new[:n])}, shares=len(looks), last=n == 20)
            if verdict.word != "not enough runs":
                break
        worse += verdict.word == "worse"
    assert worse <= 50


def test_a_loss_is_found_more_often_the_greater_it_is():
    """The power grows with the loss, and a loss of two standard deviations of a seed is practically always found."""
    power = [error_rates(RULE, loss, noise=0.01, most=20, trials=300)["worse"] for loss in (0.0, 0.005, 0.01, 0.02)]
    assert power == sorted(power)
    assert power[-1] > 0.98


def test_looking_often_without_sharing_the_level_would_cry_wolf():
    """This is what the shared level is for: the same looks at the full level each are wrong more often."""
    random, wrong = np.random.default_rng(0), {1: 0, 4: 0}
    looks = looks_between(5, 40)
    for _ in range(1500):
        old, new = random.normal(0.9, 0.01, (2, 40))
        for shares in wrong:
            words = [judge(RULE, dict(enumerate(old[:n])), dict(enumerate(new[:n])), shares=shares, last=False).word for n in looks]
            wrong[shares] += any(word in ("worse", "better") for word in words)
    assert wrong[4] / 1500 <= 0.05 < wrong[1] / 1500


def test_judging_several_results_without_sharing_the_level_would_cry_wolf():
    """Of two equal models with six results each, one is called worse in no more than five of a hundred comparisons."""
    random, wrong = np.random.default_rng(4), {1: 0, 6: 0}
    for _ in range(1000):
        old, new = random.normal(0.9, 0.01, (2, 6, 8))
        for shares in wrong:
            wrong[shares] += any(judge(RULE, dict(enumerate(a)), dict(enumerate(b)), shares=shares).word == "worse" for a, b in zip(old, new, strict=True))
    assert wrong[6] / 1000 <= 0.05
    assert 0.11 < wrong[1] / 1000 < 0.18  # one of seven


@given(values, values)
def test_one_run_on_a_side_is_never_better(old, new):
    """Below the number of runs that the rule asks for, the only verdict is that there are not enough."""
    assert judge(RULE, old, new).word == "not enough runs"


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=12), st.floats(-10, 10), st.booleans())
def test_exchanging_the_sides_exchanges_better_and_worse(found, shift, higher):
    rule = Rule("x", higher=higher)
    old, new = dict(enumerate(found)), {seed: value + shift * (1 + seed % 3) for seed, value in enumerate(found)}
    there, back = judge(rule, old, new), judge(rule, new, old)
    swapped = {"better": "worse", "worse": "better"}
    assert back.word == swapped.get(there.word, "no difference")
    assert math.isclose(there.apart.value, -back.apart.value, abs_tol=1e-9)


def test_a_model_that_diverges_more_often_is_worse():
    """Half of the new runs give NaN, and the other half what the baseline gives: worse, with both counts. Infinity counts as NaN does."""
    old = dict.fromkeys(range(20), 0.9)
    found = judge(RULE, old, {seed: math.nan if seed % 2 else 0.9 for seed in old})
    assert (found.word, found.lost, len(found.new)) == ("worse", (0, 10), 10)
    assert found.why == "macro_f1: worse: 10 of 20 runs gave no finite number (nan), and 0 of 20 before."
    assert judge(RULE, old, {**old, 2: -math.inf}).word == "worse"
    nothing = judge(RULE, old, dict.fromkeys(old, math.nan))
    assert nothing.word == "worse" and nothing.apart is None


def test_where_both_sides_diverge_as_often_the_other_runs_are_judged():
    """One NaN on each side: what is left is judged, also where it is fewer than the rule asks for, and the sentence says what was left out."""
    old = dict(enumerate([0.9, 0.91, math.nan, 0.9, 0.91]))
    found = judge(RULE, old, old)
    assert (found.word, found.lost) == ("no difference", (1, 1))
    assert found.why.endswith("1 of 5 runs here and 1 of 5 of the baseline gave no finite number, and are left out.")
    assert judge(RULE, old, {**old, 2: 0.9}).passes
    assert judge(RULE, old, {seed: value - 0.1 for seed, value in old.items()}).word == "worse"
    assert judge(RULE, dict.fromkeys(old, math.nan), dict.fromkeys(old, math.nan)).word == "not enough runs"


def test_a_change_that_diverges_no_longer_is_better():
    """Where the baseline has no two finite numbers there is no interval, and fewer failures are what can be said; the limit of the rule holds all the same."""
    old, new = dict.fromkeys(range(5), math.nan), dict(enumerate([0.9, 0.91, 0.9, 0.92, 0.9]))
    found = judge(RULE, old, new)
    assert (found.word, found.passes, found.apart) == ("better", True, None)
    assert found.why == "macro_f1: better: 0 of 5 runs gave no finite number, and 5 of 5 of the baseline (nan)."
    assert judge(RULE, {**old, 0: 0.9}, {**new, 0: math.nan}).word == "better"
    assert judge(replace(RULE, limit=0.95), old, new).word == "worse"


def test_a_small_loss_is_not_called_none():
    """Where the interval leaves out that nothing was lost, the sentence says so, whether runs are still added or not."""
    old = {seed: 0.9 + seed / 1e5 for seed in range(8)}
    new = {seed: value - 0.0045 + (-1) ** seed * 0.0014 for seed, value in old.items()}
    rule = replace(RULE, tolerance=0.005)
    for last, says in ((True, "a loss was found that is within the tolerance, but a loss of 0.005"), (False, "and a smaller one are both still possible")):
        found = judge(rule, old, new, last=last)
        assert found.apart.high < 0 and says in found.why, found.why


def test_rounding_is_no_difference():
    """A sum of floats that is off in its last bit is neither worse nor above a maximum."""
    lower = Rule("loss", higher=False, limit=0.3)
    one, other = dict.fromkeys(range(5), 0.3), dict.fromkeys(range(5), 0.1 + 0.2)
    assert judge(lower, one, other).word == judge(lower, other, one).word == "no difference"
    assert judge(lower, one, dict.fromkeys(range(5), 0.3001)).word == "worse"


def test_seeds_pair_only_where_half_of_them_do():
    """Two seeds in common of ten must not decide alone."""
    old, new = {seed: 0.9 + seed / 1000 for seed in range(10)}, {seed: 0.8 + seed / 1000 for seed in range(8, 18)}
    assert difference_of_means(old, new).method.startswith("Welch")
    assert difference_of_means(old, old).method.startswith("paired")


def test_the_same_over_all_seeds_is_no_noise():
    """A result that no seed moves is compared exactly."""
    same = dict.fromkeys(range(5), 0.9)
    assert judge(RULE, same, same).word == "no difference"
    assert judge(RULE, same, dict.fromkeys(range(5), 0.89)).word == "worse"


@pytest.mark.parametrize(("level", "text"), [(0.95, "95 %"), (0.99375, "99.4 %"), (0.99958, "99.96 %"), (0.999958, "99.996 %"), (0.9875, "98.8 %")])
def test_a_level_is_never_written_as_certainty(level, text):
    """And each interval is written with its level."""
    apart = difference_of_means({0: 0.9, 1: 0.92, 2: 0.91}, {0: 0.91, 1: 0.95, 2: 0.92}, level)
    assert apart.percent == text and f", {text} [−" in apart.text


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="3 rows of truth, 3 and 2 answers"):
        difference_over_rows(np.zeros(3), np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="'auc' is not known"):
        difference_over_rows(np.zeros(3), np.zeros(3), np.zeros(3), score="auc")


def test_the_interval_over_rows_holds_the_truth_as_often_as_it_says():
    """300 samples of rows from one population: the 95 % interval misses its difference in about 5 %."""
    random, missed = np.random.default_rng(5), 0
    for number in range(300):
        truth = random.integers(0, 3, 400)
        old = np.where(random.random(400) < 0.8, truth, (truth + 1) % 3)
        new = np.where(random.random(400) < 0.85, truth, (truth + 1) % 3)
        apart = difference_over_rows(truth, old, new, "accuracy", seed=number)
        missed += not apart.low <= 0.05 <= apart.high
    assert 0.02 <= missed / 300 <= 0.085


def classifiers(random, n_seeds, n_rows, own=0.08):
    """Return truth and answers (n_seeds, n_rows) of two ways to train a classifier that are equally good over all rows that there could be, and each good at rows of its own."""
    truth = random.integers(0, 2, n_rows)
    hard = random.random(n_rows) < 0.1
    sides = []
    for _ in range(2):
        fails = hard ^ (random.random(n_rows) < own)  # on which rows this way of training tends to fail
        right = random.random((n_seeds, n_rows)) < np.where(fails, 0.3, 0.97)
        sides.append(np.where(right, truth, 1 - truth))
    return truth, *sides


def test_equal_classifiers_on_few_rows_are_called_worse_in_no_more_than_five_of_a_hundred(monkeypatch):
    """1,000 comparisons by the whole way: predictions, bootstrap over rows, two looks. Where the rows do not count, equal models are called worse more often than that."""
    monkeypatch.setattr("mlops_nb.verdict.REPLICATES", 200)  # its error is used, not its quantiles: few are enough
    random, looks = np.random.default_rng(8), looks_between(5, 10)
    wrong = dict.fromkeys([True, False], 0)
    for _ in range(1000):
        truth, old, new = classifiers(random, 10, 300)
        for counted in wrong:
            for n in looks:
                values = [dict(enumerate((side[:n] == truth).mean(axis=1))) for side in (old, new)]
                rows = difference_over_rows(truth, old[:n], new[:n], "accuracy") if counted else None
                word = judge(RULE, *values, shares=len(looks), last=n == looks[-1], over_rows=rows).word
                if word != "not enough runs":
                    break
            wrong[counted] += word == "worse"
    assert wrong[True] <= 50 < 100 < wrong[False]


def test_seeds_that_are_scored_on_the_same_rows_are_drawn_together():
    """Twice the same model is no second opinion; models that fail on rows of their own are one."""
    random = np.random.default_rng(4)
    truth, old, new = classifiers(random, 8, 400, own=0.0)
    one = difference_over_rows(truth, old[0], new[0], "accuracy")
    assert difference_over_rows(truth, np.tile(old[0], (8, 1)), np.tile(new[0], (8, 1)), "accuracy").error == pytest.approx(one.error)
    assert difference_over_rows(truth, old, new, "accuracy").error < one.error / 2
    values = [dict(enumerate((side == truth).mean(axis=1))) for side in (old, new)]
    assert with_rows(difference_of_means(*values), one).half > difference_of_means(*values).half


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_one_sentence(text):
    try:
        assert parse_rule("x", text).seeds >= 2
    except BadSettings as refusal:
        assert str(refusal).startswith("[metrics] x = ")


def test_the_words_are_the_documented_ones():
    assert set(error_rates(RULE, 0.0, 0.01, trials=1)) == set(VERDICTS)
