"""Targets of the command line: from a text to a factory that builds the model, and the input that it takes."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from initio.core.errors import InitioError

__all__ = ["FORMS", "Target", "arguments", "resolve"]

FORMS = "path/to/file.py:name, package.module:name, torchvision:resnet50, timm:NAME, hf:MODEL_TYPE or hf:path/config.json"


@dataclass(frozen=True, slots=True)
class Target:
    """What a text resolved to: `build` is a factory, or the instance that the user has made; `inputs` None: not inferred."""

    text: str
    build: Any
    inputs: Any = None
    loss: str | None = None
    about: str = ""


def arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """`name=value` texts as keyword arguments; a value is a Python literal, else a string.

    >>> arguments(["width=64", "norm=layer", "sizes=(1, 2)"])
    {'width': 64, 'norm': 'layer', 'sizes': (1, 2)}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise InitioError("an argument of the form name=value", f"{pair!r} came", where="--arg", remedy="Write --arg width=64.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def resolve(text: str, kwargs: dict[str, Any] | None = None) -> Target:
    """Find what a target names; nothing of the model is built yet."""
    kwargs = kwargs or {}
    scheme, separator, name = text.partition(":")
    if separator and name and scheme in ("torchvision", "timm", "hf"):
        zoos = importlib.import_module("initio.api.zoos")
        build, inputs = getattr(zoos, scheme)(name, kwargs)
        return Target(text, build, inputs)
    place, separator, name = text.rpartition(":")
    if not separator or not place or not name:
        raise InitioError("a target such as " + FORMS, f"{text!r} came", where="TARGET", remedy=_hint(text))
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    found: Any = module
    for step in name.split("."):
        if not hasattr(found, step):
            near = ", ".join(_candidates(module)) or "no module class and no function"
            raise InitioError(f"a model named {name!r}", f"{place} has none", where="TARGET", remedy=f"It has {near}.")
        found = getattr(found, step)
    about = (module.__doc__ or "").strip().partition("\n")[0]
    return Target(text, _factory(found, name, text, kwargs), getattr(module, "INPUT", None), getattr(module, "LOSS", None), about)


def _factory(found: Any, name: str, text: str, kwargs: dict[str, Any]) -> Any:
    import torch

    if isinstance(found, torch.nn.Module):
        if kwargs:
            remedy = "Leave out --arg, or name the class or a factory instead."
            raise InitioError("no --arg for a model that is already built", f"{name} is an instance", where=text, remedy=remedy)
        return found
    if not callable(found):
        remedy = "Name a torch.nn.Module class, an instance of one, or a function that returns one."
        raise InitioError("a model or a factory", f"{name} is of type {type(found).__name__}", where=text, remedy=remedy)
    if inspect.isclass(found) and not issubclass(found, torch.nn.Module):
        remedy = "Name a torch.nn.Module class, an instance of one, or a function that returns one."
        raise InitioError(
            "a torch.nn.Module class", f"{name} is the class {found.__module__}.{found.__qualname__}", where=text, remedy=remedy
        )
    fits(found, name, text, kwargs)
    return functools.partial(found, **kwargs) if kwargs else found


def fits(factory: Callable[..., Any], name: str, text: str, kwargs: dict[str, Any]) -> None:
    """Raise where a factory needs arguments that were not given, or does not know one that was."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    kinds = inspect.Parameter
    needed = [
        p.name
        for p in signature.parameters.values()
        if p.default is kinds.empty and p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
    if missing := [n for n in needed if n not in kwargs]:
        remedy = (
            "Give each, such as " + " ".join(f"--arg {n}=VALUE" for n in missing) + "; or name a function without arguments that builds it."
        )
        raise InitioError(f"all arguments of {name}{signature}", f"{', '.join(missing)} came without a value", where=text, remedy=remedy)
    if any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values()):
        return
    if unknown := [n for n in kwargs if n not in signature.parameters]:
        takes = ", ".join(signature.parameters) or "no arguments"
        raise InitioError(f"arguments of {name}{signature}", f"{', '.join(unknown)} came", where="--arg", remedy=f"It takes {takes}.")


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        remedy = f"Check the path; the working directory is {Path.cwd()}."
        raise InitioError("a Python file", f"{str(path)!r} does not exist", where="TARGET", remedy=remedy)
    name = f"initio_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InitioError("a Python file", f"{str(path)!r} cannot be loaded as one", where="TARGET", remedy="Name a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look the module up by its name
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        raise _unimportable(str(path), error) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _from_package(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            remedy = f"Install it, or run from the directory that holds it. Targets are {FORMS}."
            raise InitioError("an importable module", f"there is no module {name!r}", where="TARGET", remedy=remedy) from error
        raise _unimportable(name, error) from error
    except BaseException as error:
        raise _unimportable(name, error) from error


def _unimportable(place: str, error: BaseException) -> Exception:
    if isinstance(error, KeyboardInterrupt):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    else:
        inside = [
            frame for frame in frames if "importlib" not in frame.filename and not frame.filename.startswith(str(Path(__file__).parent))
        ]
        where = f"{inside[-1].filename}:{inside[-1].lineno}" if inside else place
    came = f"importing {place} raised {type(error).__name__}: {error}"
    return InitioError("a file that can be imported", came, where=where, remedy="Make `python -c 'import …'` work on it first.")


def _candidates(module: ModuleType) -> list[str]:
    import torch

    own = [(name, value) for name, value in vars(module).items() if not name.startswith("_")]
    models = [n for n, v in own if isinstance(v, torch.nn.Module) or (inspect.isclass(v) and issubclass(v, torch.nn.Module))]
    functions = [n for n, v in own if inspect.isfunction(v) and v.__module__ == module.__name__]
    return [*models, *functions][:8]


def _hint(text: str) -> str:
    path = Path(text)
    if path.suffix == ".py" and path.is_file():
        try:
            near = _candidates(_from_file(path))
        except InitioError as error:
            return str(error)
        return (
            f"Name what is in it: {', '.join(f'{text}:{name}' for name in near)}." if near else "It holds no module class and no function."
        )
    return "Say where the model is and, after a colon, what it is called."
