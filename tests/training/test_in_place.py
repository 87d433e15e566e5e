"""AdamW on fp32 masters, piece by piece: the very weights that torch's own AdamW makes of the same gradients."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from iteralign.training import in_place
from iteralign.training.in_place import MasterAdamW, placed

SHAPES = [(7, 33), (1000,), (3, 5, 40), (1,)]


def trained(steps: int, transposed: bool = False, **settings: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """fp32 weights after some steps by MasterAdamW, and by torch's AdamW on fp32 gradients that are the same."""
    torch.manual_seed(0)
    start = [torch.randn(shape).bfloat16() for shape in SHAPES]
    if transposed:
        start[0] = torch.randn(33, 7).bfloat16().t()
    low = [torch.nn.Parameter(w.clone()) for w in start]
    masters = [w.float() for w in start]
    plain = [torch.nn.Parameter(w.float()) for w in start]
    ours = MasterAdamW(low, masters, lr=1e-2, **settings)
    theirs = torch.optim.AdamW(plain, lr=1e-2, foreach=False, **settings)
    for _ in range(steps):
        for parameter, reference in zip(low, plain, strict=True):
            parameter.grad = torch.randn_like(parameter)
            reference.grad = parameter.grad.float()
        ours.step()
        theirs.step()
        ours.zero_grad()
    assert all(p.grad is None and torch.equal(p.data, m.bfloat16()) for p, m in zip(low, masters, strict=True))
    return masters, [p.data for p in plain]


@pytest.mark.parametrize("piece", [8, 1 << 18])
@pytest.mark.parametrize("settings", [{"weight_decay": 0.0}, {"weight_decay": 0.1}])
def test_masters_are_torchs_adamw(monkeypatch: pytest.MonkeyPatch, piece: int, settings: dict[str, float]) -> None:
    monkeypatch.setattr(in_place, "PIECE", piece)
    for one, other in zip(*trained(5, **settings), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_weights_that_do_not_lie_in_one_piece_are_updated_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "PIECE", 8)
    for one, other in zip(*trained(3, transposed=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_a_gradient_stays_and_frozen_ones_are_left_out() -> None:
    used, unused, frozen = (torch.nn.Parameter(torch.ones(4).bfloat16()) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = MasterAdamW([used, unused, frozen], [torch.ones(4) for _ in range(3)], lr=0.1)
    used.grad = torch.ones(4).bfloat16()
    optimizer.step()
    assert float(used[0]) < 1.0 and float(unused[0]) == float(frozen[0]) == 1.0
    assert len(optimizer.pairs) == 2


def test_a_module_is_trained_where_it_is_and_not_spread_over_all_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    args.__dict__["_n_gpu"] = 4
    second = torch.device("cuda:1")
    made = placed(args, SimpleNamespace(device=second))
    assert (made.n_gpu, made.device, chosen) == (1, second, [second])
    assert made.train_batch_size == made.per_device_train_batch_size
