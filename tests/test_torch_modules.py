"""The module forms do what their functions do, show their options, and have nothing to save."""

import pytest
import torch

import cvxlayers.torch as layers

X = torch.tensor([[0.3, 1.2, -0.5], [2.0, 0.1, 0.4], [0.0, 0.2, 0.7]], dtype=torch.float64)
PAIRS = {
    "Sparsemax(dim=0)": (layers.Sparsemax(dim=0), lambda x: layers.sparsemax(x, dim=0)),
    "LML(k=2, tau=0.5, dim=-1)": (layers.LML(2, tau=0.5), lambda x: layers.lml(x, 2, 0.5)),
    "SparseTopK(k=2, dim=-1)": (layers.SparseTopK(2), lambda x: layers.sparse_topk(x, 2)),
    "Sinkhorn(tau=0.3, tol=None)": (layers.Sinkhorn(0.3), lambda x: layers.sinkhorn(x, 0.3)),
    "SoftSort(eps=0.5, dim=0, descending=True)": (
        layers.SoftSort(0.5, dim=0, descending=True),
        lambda x: layers.soft_sort(x, 0.5, dim=0, descending=True),
    ),
    "SoftRank(eps=0.5, dim=-1)": (layers.SoftRank(0.5), lambda x: layers.soft_rank(x, 0.5)),
}


@pytest.mark.parametrize("text", PAIRS)
def test_modules_are_their_functions(text):
    module, function = PAIRS[text]
    assert repr(module) == text and not module.state_dict()
    torch.testing.assert_close(torch.nn.Sequential(module)(X), function(X), rtol=0, atol=0)
