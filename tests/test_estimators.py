"""The noise of sampled gradients, and the weight of a prompt."""

import pytest
import torch

from toys import estimators


def test_uncentred_variance_blows_up_as_one_over_alpha_squared():
    q, p = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    study = estimators.estimator_study(q, p, [0.01, 0.02, 1.0])
    assert study.variance["uncentred"][0] / study.variance["uncentred"][1] == pytest.approx(4.0, rel=0.1)
    assert study.variance["centred"][0] / study.variance["centred"][1] == pytest.approx(1.0, rel=0.05)
    assert study.bias["centred"].max() < 0.02
    # The study summarises these very estimates.
    estimates = estimators.gradient_estimates(q, p, 1.0)
    assert estimates["centred"].shape == (2000, len(q))
    torch.testing.assert_close(estimates["centred"].var(0).sum(), study.variance["centred"][-1])
    with pytest.raises(ValueError, match="alpha is 0"):
        estimators.gradient_estimates(q, p, 0.0)
    with pytest.raises(ValueError, match="alphas reach 0.0.*divides by alpha"):
        estimators.estimator_study(q, p, [0.0, 1.0])


def test_prompt_weights_follow_the_known_curves():
    weights = estimators.prompt_weights(8)
    k = torch.arange(9, dtype=torch.float64)
    torch.testing.assert_close(weights["dr_grpo"], k / 8 * (1 - k / 8))  # (k/P)(1 - k/P): the Bernoulli variance
    for name, values in weights.items():
        assert values[[0, 8]].abs().max() < 1e-9, name
    # alpha = 0: log q is linear in the reward, so the push is symmetric in k; alpha = 1 listens to the hard prompts.
    torch.testing.assert_close(weights["apo 0"], weights["apo 0"].flip(0))
    assert weights["adpo"].argmax() < 4
