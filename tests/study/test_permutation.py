"""Does alpha follow the prompt? Planted answers, one counted by hand, and the prompts that it is asked on."""

from collections import Counter

import numpy as np
import pytest

from composer.core.errors import ComposerError
from composer.study.statistics.alpha_profile import OWN, load_own
from composer.study.statistics.permutation_test import follow, follow_each


def test_the_permutation_test_separates_alpha_that_follows_the_prompt():
    random = np.random.default_rng(0)
    owners = np.repeat([0, 1, 2], 8)
    noise = random.dirichlet([5, 5, 5], 24)  # [P, N]
    planted = noise + 0.2 * np.eye(3)[owners]
    found = follow(planted, owners)
    assert found.follows and found.p < 0.001 and found.prompts == 24
    direct = np.mean([planted[owners == i, i].mean() - planted[owners != i, i].mean() for i in range(3)])
    assert found.gain == pytest.approx(direct)
    # A loud adapter takes most of alpha whatever the prompt: that is not following.
    loud = noise + np.array([5.0, 0, 0])
    assert not follow(loud, owners).follows
    values = [follow(random.dirichlet([5, 5, 5], 24), owners, 500).p for _ in range(60)]
    assert sum(p < 0.05 for p in values) <= 9 and np.mean(values) == pytest.approx(0.5, abs=0.13)


def test_the_test_is_exact_on_a_case_counted_by_hand():
    # Four prompts, two owners: 6 ways to deal them out, the true one alone is this good.
    alpha = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
    found = follow(alpha, [0, 0, 1, 1], draws=20_000)
    assert found.gain == pytest.approx(0.7) and found.p == pytest.approx(1 / 6, abs=0.01)
    assert follow(np.full((4, 2), 0.5), [0, 0, 1, 1]).p == 1  # nothing to tell
    with pytest.raises(ValueError, match="two adapters"):
        follow(alpha, [0, 0, 0, 0])


def test_each_adapter_is_tested_by_itself():
    alpha = np.tile([0.5, 0.5], (16, 1)) + np.where(np.arange(16)[:, None] < 8, [0.3, 0.0], 0.0)
    found = follow_each(alpha, [0] * 8 + [1] * 8)
    assert found[0].gain == pytest.approx(0.3) and found[0].follows and found[0].prompts == 8
    assert found[1].gain == 0 and not found[1].follows


def test_every_adapter_of_the_project_has_prompts_of_its_own(tmp_path):
    counts = Counter(name for name, _ in load_own())
    assert set(counts) == {"positive", "negative", "world", "sports", "business", "sci-tech"}
    assert set(counts.values()) == {8} and len({prompt for _, prompt in load_own(OWN)}) == 48
    (tmp_path / "own.tsv").write_text("sports The coach\n")
    with pytest.raises(ComposerError, match="a tab"):
        load_own(tmp_path / "own.tsv")
    with pytest.raises(ComposerError, match="cannot be read"):
        load_own(tmp_path / "none.tsv")
