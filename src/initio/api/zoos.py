"""Models of torchvision, timm and transformers by name, built without weights, with the input that they take."""
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from initio.core.errors import InitioError

__all__ = ["hf", "timm", "torchvision"]

BATCH = 8
TOKENS = 128
Built = tuple[Callable[[], Any], Any]

HEADS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_CTC_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
"""Tables of transformers from model type to class, in the order of preference."""


def torchvision(name: str, kwargs: dict[str, Any]) -> Built:
    """A torchvision model with random weights; the input of its default weights' crop, or of their size where they have none."""
    models = _need("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise _misnamed("torchvision", name, models.list_models())
    builder = models.get_model_builder(name)
    quiet = {key: None for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters and key not in kwargs}
    return lambda: builder(**quiet, **kwargs), _torchvision_input(models, name)


def _torchvision_input(models: Any, name: str) -> str | None:
    kind = models.get_model_builder(name).__module__.split(".")[2]
    if name.startswith("vit_"):  # built for 224, whatever its weights were fine-tuned at
        return f"{BATCH}x3x224x224"
    if kind == "detection":
        return None
    size = 224
    try:
        given = models.get_model_weights(name).DEFAULT.transforms.keywords
        crop = given.get("crop_size", given.get("resize_size", size))
    except (AttributeError, ValueError):
        crop = size
    height, width = (crop, crop) if isinstance(crop, int) else tuple(crop)
    batch = 2 if kind in ("video", "segmentation") else BATCH
    return f"{batch}x3x16x{height}x{width}" if kind == "video" else f"{batch}x3x{height}x{width}"


def timm(name: str, kwargs: dict[str, Any]) -> Built:
    """A timm model with random weights; the input size of its configuration."""
    library = _need("timm", "timm")
    if not library.is_model(name):
        raise _misnamed("timm", name, library.list_models())
    configuration = library.get_pretrained_cfg(name)
    size = kwargs.get("img_size") or (configuration.input_size[1:] if configuration else (224, 224))
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    channels = kwargs.get("in_chans") or (configuration.input_size[0] if configuration else 3)
    return lambda: library.create_model(name, pretrained=False, **kwargs), f"{BATCH}x{channels}x{height}x{width}"


def hf(name: str, kwargs: dict[str, Any]) -> Built:
    """A transformers model built from a configuration: a model type with `kwargs` changed, or a config.json."""
    library = _need("transformers", "transformers")
    if name.endswith(".json") or Path(name).exists():
        configuration = _read_config(library, Path(name), kwargs)
    else:
        known = library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
        if name not in known:
            raise _misnamed("hf", name, known)
        configuration = library.AutoConfig.for_model(name, **kwargs)
    if getattr(configuration, "use_cache", False):
        configuration.use_cache = False  # keys and values kept for generation are no outputs of a training step
    model = _model_class(library, configuration)
    return lambda: model(configuration), _hf_inputs(configuration, model)


def _read_config(library: Any, path: Path, kwargs: dict[str, Any]) -> Any:
    path = path / "config.json" if path.is_dir() else path
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise InitioError("a readable config.json", f"{path}: {error.strerror}", where="TARGET", remedy="Check the path.") from error
    except json.JSONDecodeError as error:
        raise InitioError(
            "JSON", f"{path} is not: {error}", where="TARGET", remedy="Give the config.json of a transformers model."
        ) from error
    if not isinstance(data, dict) or data.get("model_type") not in library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES:
        came = f"{path} has none that this transformers knows"
        raise InitioError('a "model_type"', came, where="TARGET", remedy='Add "model_type": "llama", say, or update transformers.')
    kind = data.pop("model_type")
    return library.AutoConfig.for_model(kind, **{**data, **kwargs})


def _model_class(library: Any, configuration: Any) -> Any:
    for architecture in getattr(configuration, "architectures", None) or ():
        if hasattr(library, architecture):
            return getattr(library, architecture)
    tables = importlib.import_module("transformers.models.auto.modeling_auto")
    for head in HEADS:
        found = getattr(tables, head, {}).get(configuration.model_type)
        if found:
            return getattr(library, found if isinstance(found, str) else found[0])
    remedy = "Write a function that builds the model and give it as file.py:name."
    raise InitioError("a model type with a model class", f"{configuration.model_type} has none", where="TARGET", remedy=remedy)


def _hf_inputs(configuration: Any, model: Any) -> dict[str, str] | None:
    main = getattr(model, "main_input_name", "input_ids")
    text = configuration.get_text_config()
    vocabulary = getattr(text, "vocab_size", None)
    positions = next(
        (n for key in ("max_position_embeddings", "n_positions") if isinstance(n := getattr(text, key, None), int) and n > 0), TOKENS
    )
    ids = f"2x{min(TOKENS, positions)}:int({vocabulary})"
    if main == "input_ids" and vocabulary:
        takes = inspect.signature(model.forward).parameters
        both = configuration.is_encoder_decoder and "decoder_input_ids" in takes
        return {"input_ids": ids, "decoder_input_ids": ids} if both else {"input_ids": ids}
    vision = getattr(configuration, "vision_config", configuration)
    size = getattr(vision, "image_size", None)
    if main == "pixel_values" and size:
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        return {"pixel_values": f"2x{getattr(vision, 'num_channels', 3)}x{height}x{width}"}
    if main == "input_features" and getattr(configuration, "num_mel_bins", None) and getattr(configuration, "max_source_positions", None):
        features = {"input_features": f"2x{configuration.num_mel_bins}x{2 * configuration.max_source_positions}"}
        return {**features, "decoder_input_ids": f"2x32:int({vocabulary})"} if configuration.is_encoder_decoder else features
    return None


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        came = f"importing it raised {error}"
        raise InitioError(f"the package {package}", came, where="TARGET", remedy=f"Install it: pip install {package}.") from error


def _misnamed(zoo: str, name: str, known: Iterable[str]) -> InitioError:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
    remedy = f"Near it: {', '.join(f'{zoo}:{n}' for n in near)}." if near else f"There are {len(names)} models, such as {zoo}:{names[0]}."
    return InitioError(f"a model of {zoo}", f"{name!r} is none", where="TARGET", remedy=remedy)
