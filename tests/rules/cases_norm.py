"""Norms over few entries: exact self-normalised moments; in evaluation mode an affine map."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rules.harness import Case, Fixed, Normal

batch = Normal((4, 2, 3), {(0, 1, 2): 1.0, (0, 1): 0.6, (1, 2): 0.3, (1,): 0.5}, mean=0.7)
tokens = Normal((2, 3, 6), {(0, 1, 2): 1.0, (0, 1): 0.5})
maps = Normal((2, 4, 3), {(0, 1, 2): 1.0, (0, 1): 0.7, (0,): 0.4})
edges = Normal((5, 1, 4), {(0, 1, 2): 1.0, (0, 1): 0.5}, profile={2: ((1, 2, 2, 1), (0, 0, 0, 0))})

CASES = [
    Case("aten.native_batch_norm", (batch, None, None, None, None, True, 0.1, 1e-12), outputs=(0,), name="training"),
    Case("aten.native_batch_norm", (edges, None, None, None, None, True, 0.1, 1e-12), outputs=(0,), name="kinds"),
    Case(
        "aten.native_batch_norm", (batch, None, None, Fixed([0.0, 0.0]), Fixed([4.0, 4.0]), False, 0.1, 1e-5), outputs=(0,), name="evaluation",
        run=lambda x, m, v: F.batch_norm(x, torch.zeros(2, dtype=x.dtype), torch.full((2,), 4.0, dtype=x.dtype)),
    ),
    Case("aten.native_layer_norm", (tokens, [6], None, None, 1e-5), outputs=(0,)),
    Case("aten.native_group_norm", (maps, None, None, 2, 4, 3, 2, 1e-5), outputs=(0,)),
    Case("aten._fused_rms_norm", (tokens, [6], None, 1e-12), outputs=(0,), run=lambda x: F.rms_norm(x, [6], eps=1e-12)),
]  # fmt: skip
