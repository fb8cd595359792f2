"""Stick-breaking attention against its definition, token by token, and its gradient against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainers.models.moduleformer.modeling import stick_breaking


def by_definition(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """Break the stick from the nearest token that a query may see to the farthest."""
    found = torch.zeros_like(query)
    rows, queries, heads, tokens, width = query.shape
    for b in range(rows):
        for k in range(queries):
            for h in range(heads):
                for i in range(tokens):
                    left, total = torch.ones(()), torch.zeros(width)
                    for j in range(tokens - 1, -1, -1):
                        if allowed[b, i, j]:
                            broken = torch.sigmoid(query[b, k, h, i] @ key[b, h, j] * width**-0.5)
                            total = total + left * broken * value[b, h, j]
                            left = left * (1 - broken)
                    found[b, k, h, i] = total
    return found


@pytest.mark.parametrize("size", [1.0, 8.0])
def test_shares_and_their_gradient_are_those_of_the_definition(size):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 2, 2, 6, 4), (2, 2, 6, 4), (2, 2, 6, 4))  # query, key, value
    inputs = [(size * torch.randn(shape, generator=generator)).requires_grad_() for shape in shapes]
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()[None].repeat(2, 1, 1)
    allowed[0, :, :2] = False  # padding, whose own queries see nothing
    allowed[1, 4, 1] = False
    toward = torch.randn(shapes[0], generator=generator)
    results = []
    for attend in (by_definition, stick_breaking):
        output = attend(*inputs, allowed)
        results.append((output, *torch.autograd.grad((output * toward).sum(), inputs)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not results[1][0][0, :, :, :2].any()
