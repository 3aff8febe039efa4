"""Layers of Initio: exact, and as fast as the machine allows."""

from initio.nn.forms import GroupedPaths as GroupedPaths
from initio.nn.forms import PathLoop as PathLoop
from initio.nn.split_transform_merge import SplitTransformMerge as SplitTransformMerge
