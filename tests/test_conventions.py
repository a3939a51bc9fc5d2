"""The converter against each convention's own definition."""

import pytest
import torch

from apo_edu import alpha_divergence
from toys.conventions import conventions, generator

Q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
P = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.5, 2.0])
def test_each_convention_by_its_own_definition(alpha):
    got = conventions(Q.log(), P.log(), alpha)
    power = (Q**alpha * P ** (1 - alpha)).sum()
    a = got.amari_order
    amari = 4 / (1 - a**2) * (1 - (Q ** ((1 + a) / 2) * P ** ((1 - a) / 2)).sum())
    torch.testing.assert_close(got.csiszar, amari)
    torch.testing.assert_close(got.renyi, power.log() / (alpha - 1))
    torch.testing.assert_close(got.tsallis, (1 - power) / (1 - alpha))
    torch.testing.assert_close(got.hellinger_like, 1 - power)


def test_known_members():
    half = conventions(Q.log(), P.log(), 0.5)
    torch.testing.assert_close(half.hellinger_like, 0.5 * ((Q.sqrt() - P.sqrt()) ** 2).sum())
    torch.testing.assert_close(conventions(Q.log(), P.log(), 2.0).csiszar, ((Q - P) ** 2 / P).sum() / 2)  # chi-squared
    one = conventions(Q.log(), P.log(), 1.0)
    kl = (Q * (Q / P).log()).sum()
    for value in (one.csiszar, one.renyi, one.tsallis):
        torch.testing.assert_close(value, kl)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.3, 1.0, 2.0])
def test_the_generator_gives_the_divergence(alpha):
    expected = (P * generator(Q / P, alpha)).sum()
    torch.testing.assert_close(alpha_divergence(Q.log(), P.log(), alpha), expected)
