"""Exact rewrites of models: layers that compute the same as several, with a proof and a timing."""

from initio.rewrite.fusing import KINDS as KINDS
from initio.rewrite.fusing import fuse as fuse
from initio.rewrite.result import Fused as Fused
from initio.rewrite.result import Left as Left
from initio.rewrite.result import Proof as Proof
from initio.rewrite.result import Rewrite as Rewrite

__all__ = ["KINDS", "Fused", "Left", "Proof", "Rewrite", "fuse"]
