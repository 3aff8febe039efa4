"""Modules and functions written as texts: `Dropout(0.5)`, `Sequential(Linear(64, 32), ReLU())`, `relu`."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ast
import difflib
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from initio.core.errors import InitioError

__all__ = ["spelled"]


def spelled(text: str) -> Any:
    """The module that a call of `torch.nn` writes, or the function of torch that a name stands for. Only literals as arguments.

    >>> spelled("Sequential(Linear(4, 2), LeakyReLU(negative_slope=0.2))")
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): LeakyReLU(negative_slope=0.2)
    )
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise _unread(text, f"it is no Python expression: {error.msg}") from error
    return _value(tree, text)


def _value(node: ast.AST, text: str) -> Any:
    if isinstance(node, ast.Call):
        made = _find(_name(node.func, text), text)
        if not isinstance(made, type):
            raise _unread(text, f"{_name(node.func, text)} is a function: write its name without a call")
        args = [_argument(a, text) for a in node.args]
        kwargs = {k.arg: _argument(k.value, text) for k in node.keywords if k.arg}
        try:
            return made(*args, **kwargs)
        except Exception as error:
            raise _unread(text, f"{made.__name__} raised {type(error).__name__}: {error}") from error
    found = _find(_name(node, text), text)
    if isinstance(found, type):
        raise _unread(text, f"{found.__name__} is a class: write {found.__name__}(…)")
    return found


def _argument(node: ast.AST, text: str) -> Any:
    if isinstance(node, ast.Call):
        return _value(node, text)
    try:
        return ast.literal_eval(node)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise _unread(text, "an argument is neither a literal nor a module") from error


def _name(node: ast.AST, text: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    raise _unread(text, "it is neither a name nor a call")


def _find(name: str, text: str) -> Any:
    found = getattr(nn, name, None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    for place in (functional, torch):
        found = getattr(place, name, None)
        if callable(found) and not isinstance(found, type):
            return found
    modules = [key for key, value in vars(nn).items() if isinstance(value, type) and issubclass(value, nn.Module)]
    near = difflib.get_close_matches(name, modules, n=3, cutoff=0.5)
    raise _unread(text, f"torch.nn has no {name!r}", f"Near it: {', '.join(near)}." if near else "")


def _unread(text: str, why: str, near: str = "") -> InitioError:
    remedy = f"{near} Write such as 'Dropout(0.5)', 'relu', 'Sequential(Linear(64, 32), ReLU())', or file.py:name.".strip()
    return InitioError("a module of torch.nn or a function of torch", f"{text!r} came: {why}", where="commute", remedy=remedy)
