"""Exact flows: every alpha ends at a target that can be reached, and tied parameters end elsewhere."""

import torch

from toys import flows


def test_tabular_softmax_reaches_the_target_for_every_alpha():
    log_q = torch.tensor([0.55, 0.35, 0.10], dtype=torch.float64).log()
    start = torch.tensor([[0.05, 0.1, 0.85], [0.9, 0.05, 0.05]], dtype=torch.float64).log()
    end = flows.population_flow(log_q, start, [0.0, 0.25, 0.5, 0.75, 1.0], num_steps=800)[-1]
    torch.testing.assert_close(end, log_q.exp().expand_as(end), rtol=0, atol=1e-8)


def test_tied_parameters_end_elsewhere_for_each_alpha():
    ends = flows.capacity(alphas=(0.0, 1.0), num_steps=800)
    torch.testing.assert_close(ends["tabular"], ends["target"].expand(2, -1, -1), rtol=0, atol=1e-4)
    assert (ends["tied"][0] - ends["tied"][1]).abs().max() > 0.05


def test_flow_field_points_along_the_trajectory():
    log_q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    points, velocities = flows.simplex_field(log_q, 0.3)
    path = flows.population_flow(log_q, points.log(), [0.3], lr=1e-6, num_steps=1)[:, 0]
    torch.testing.assert_close((path[1] - path[0]) / 1e-6, velocities, rtol=1e-4, atol=1e-6)
