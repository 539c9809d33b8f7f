"""The examples of examples/, one by one and smaller: what each of them shows is true, and it draws its figure."""

import importlib.util
from pathlib import Path

import pytest
import torch

from cvxlayers import native

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(request, tmp_path, monkeypatch):
    """run(**sizes): what main(...) of the example in the test's name returns, once its figure is seen to be there."""
    for package in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package, reason="the examples need matplotlib, scikit-learn and tqdm")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    name = request.node.name.removeprefix("test_")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(**sizes):
        figure = tmp_path / "figure.png"
        result = module.main(**sizes, figure=figure)
        assert figure.stat().st_size > 10_000
        return result

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)  # an example may want one


def test_closed_forms(example):
    for value, derivative in example(points=301).values():
        assert value < 1e-9 and derivative < 1e-9


@pytest.mark.skipif(not native.available(), reason="without the native engine it takes minutes")
def test_sudoku(example):
    before, after, angle = example(steps=150)
    assert before > 0.9
    assert after < 0.02
    assert angle < 0.3


def test_denoising(example):
    noisy, classical, learned = example(steps=60, count=800, test_count=60).values()
    assert classical < 0.25 * noisy
    assert learned < 0.9 * classical


def test_polytope(example):
    for before, after, area in example(steps=160, count=100).values():
        assert before > 0.1
        assert after < 1e-3
        assert area < 0.1


def test_learn_to_sort(example):
    before, after = example(steps=200, test_count=200)
    assert before > 0.9
    assert after == 0


def test_digits_transport(example):
    exact, costs, error = example()
    assert exact == pytest.approx(0.0177779, abs=1e-7)
    assert costs == pytest.approx({0.1: 0.07590, 0.01: 0.02046, 0.001: 0.0177779}, abs=5e-6)
    assert error < 1e-9


def test_topk(example):
    top = example(noises=(0.6,), seeds=2, epochs=40)
    (cross_entropy, limited) = top.values()
    assert limited > 0.97
    assert limited > cross_entropy - 0.01


def test_few_shot_svm(example):
    results = example(steps=100, test_count=30)
    for before, after in results.values():
        assert before < 0.4
        assert after > 0.65
    assert results["5-shot"][1] > 0.8


def test_sensitivity(example, capsys):
    error, correlation = example(n=20)
    assert error < 1e-12
    assert correlation > 0.95
    assert "1 % more moves it by" in capsys.readouterr().out
