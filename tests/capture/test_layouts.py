"""Layouts that are remembered are those that the operation has."""

import torch
from torch import Tensor, nn

from initio.capture import layouts
from initio.capture.initializers import construct
from initio.capture.layouts import Layouts
from initio.capture.program import record
from initio.core.inputs import parse

ATEN = torch.ops.aten


class Counted:
    """An operation that counts its calls."""

    def __init__(self, func, namespace="aten"):
        self.func, self.namespace, self.calls = func, namespace, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.func(*args, **kwargs)


def told(x):
    return None if x is None else (x.shape, x.stride(), x.dtype, x.device.type)


def test_an_operation_runs_once_for_equal_layouts():
    known, relu = Layouts(), Counted(ATEN.relu.default)
    x, y = (torch.empty(2, 3, 4, device="meta").transpose(0, 2) for _ in range(2))
    first, second = known.run(relu, (x,), {}, [x]), known.run(relu, (y,), {}, [y])
    assert relu.calls == 1
    assert told(second) == told(first) == told(ATEN.relu.default(x))
    assert second.untyped_storage()._cdata != first.untyped_storage()._cdata


def test_strides_dtypes_and_types_of_numbers_are_told_apart():
    known, add = Layouts(), Counted(ATEN.add.Tensor)
    whole = torch.empty(2, 3, dtype=torch.int64, device="meta")
    for x in (whole, torch.empty(3, 2, device="meta").t(), torch.empty(2, 3, device="meta"), whole.to(torch.int32)):
        for number in (1, 1.0, True):
            assert told(known.run(add, (x, number), {}, [x])) == told(ATEN.add.Tensor(x, number))
    assert add.calls == 12


def test_several_results_and_those_that_are_left_out():
    known, backward = Layouts(), Counted(ATEN.native_batch_norm_backward.default)
    x, c = torch.empty(4, 3, 5, 5, device="meta"), torch.empty(3, device="meta")
    for mask in ([True, True, True], [False, True, False]):
        args = (x, x, c, c, c, c, c, True, 1e-5, mask)
        made = [known.run(backward, args, {}, [x, c]) for _ in range(2)]
        assert [told(t) for t in made[1]] == [told(t) for t in ATEN.native_batch_norm_backward.default(*args)]
    assert backward.calls == 2


def test_what_the_key_does_not_tell_runs_each_time():
    known = Layouts()
    scalar, x = torch.empty((), device="meta"), torch.empty(3, device="meta")
    for op, args in (
        (Counted(ATEN.relu.default), (scalar,)),  # perhaps a Python number, which promotes otherwise
        (Counted(ATEN.alias.default), (x,)),  # of the storage of its input
        (Counted(ATEN.relu.default, "mine"), (x,)),
    ):
        for _ in range(3):
            known.run(op, args, {}, list(args))
        assert op.calls == 3
    made = known.run(ATEN.alias.default, (x,), {}, [x])
    assert made.untyped_storage()._cdata == x.untyped_storage()._cdata


def test_a_record_is_the_same_with_and_without(monkeypatch):
    def block():
        return nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 4, 1, bias=False), nn.GroupNorm(2, 4)
        )

    def recorded():
        construction = construct(lambda: nn.Sequential(block(), block(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)))
        inputs = [parse("2x4x8x8")]
        got = record(construction.model, inputs, {}, construction=construction)
        return [(n.op, n.args, n.inputs, n.outputs, n.phase) for n in got.nodes], [(v.shape, v.dtype) for v in got.values]

    asked: list[int] = []
    given = Layouts.run

    def watched(self: Layouts, func, args, kwargs, tensors: list[Tensor]):
        asked.append(1)
        return given(self, func, args, kwargs, tensors)

    monkeypatch.setattr(layouts.Layouts, "run", watched)
    remembered = recorded()
    assert asked
    monkeypatch.setattr(layouts.Layouts, "run", lambda self, func, args, kwargs, tensors: func(*args, **kwargs))
    assert recorded() == remembered
