"""The models that the accuracy page is judged on: `LISTED` is fixed in advance, `HELD_OUT` are other families of the same libraries.

A name is `library:model`. Batches and resolutions are chosen so that one measured draw takes about two seconds of one core.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from initio.core.inputs import InputSpec

__all__ = ["HELD_OUT", "LISTED", "ZOO", "Model", "available"]


def _networks() -> Any:
    """`tests/zoo.py`, which shares its name with this file."""
    spec = importlib.util.spec_from_file_location("networks", Path(__file__).parent.parent / "tests" / "zoo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["networks"] = module
    spec.loader.exec_module(module)
    return module


networks = _networks()
normal, ids = networks.normal, networks.ids


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the zoo; `changes` are what its configuration differs in from the library's default, `draws` how often it is measured.

    What is cheap is measured more often: the standard error of eight draws hides what a prediction lacks.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Sequence[InputSpec]
    changes: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    draws: int = 8

    @property
    def library(self) -> str:
        """The part of the name before the colon."""
        return self.name.split(":")[0]


def available(model: Model) -> bool:
    """Whether the library that the model comes from is installed."""
    package = {"nn": "torch", "hf": "transformers"}.get(model.library, model.library)
    return importlib.util.find_spec(package) is not None


def _vision(library: str, name: str, batch: int, resolution: int, **changes: Any) -> Model:
    def build() -> nn.Module:
        if library == "timm":
            import timm

            return timm.create_model(name, **changes)
        import torchvision

        return torchvision.models.get_model(name, weights=None, **changes)

    return Model(f"{library}:{name}", build, (normal(batch, 3, resolution, resolution),), changes)


def _hf(kind: str, head: str, inputs: Sequence[InputSpec], **changes: Any) -> Model:
    # Caches are a way to generate, not a part of a training step.
    changes = {"use_cache": False, **changes} if any(spec.dtype == "int64" for spec in inputs) else changes
    return Model(f"hf:{kind}", lambda: networks.transformer(kind, head, **changes), inputs, {"head": head, **changes}, draws=16)


def _nn(name: str) -> Model:
    network = networks.NETWORKS[name]
    # the norms of a product of fifty matrices scatter by a factor from draw to draw: 32 draws leave the mean 15 % uncertain
    deep = name.startswith(("mlp50", "normed_100"))
    return Model(f"nn:{name}", network.build, network.inputs, {}, network.dtype, 8 if name == "autoencoder" else 128 if deep else 32)


def _tokens(vocabulary: int, length: int = 64, batch: int = 4, name: str = "input_ids") -> InputSpec:
    return ids(batch, length, below=vocabulary, name=name)


_BERT = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 1024, "vocab_size": 2000}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "intermediate_size": 768, "head_dim": 64}
_IMAGE = (normal(2, 3, 224, 224, name="pixel_values"),)

LISTED: tuple[Model, ...] = (
    *(_nn(name) for name in networks.NETWORKS),
    _hf("gpt2", "GPT2LMHeadModel", (_tokens(50257, 128, 2),), n_embd=256, n_layer=3, n_head=4),
    _hf("llama", "LlamaForCausalLM", (_tokens(2000, 128),), **_LLAMA),
    _hf("bert", "BertForMaskedLM", (_tokens(2000),), **_BERT),
    _hf(
        "t5",
        "T5ForConditionalGeneration",
        (_tokens(2000), _tokens(2000, 32, name="decoder_input_ids")),
        d_model=256,
        d_ff=1024,
        d_kv=64,
        num_layers=2,
        num_heads=4,
        vocab_size=2000,
    ),
    _hf("vit", "ViTForImageClassification", _IMAGE, hidden_size=256, num_hidden_layers=3, num_attention_heads=4, intermediate_size=1024),
    _hf(
        "whisper",
        "WhisperForConditionalGeneration",
        (normal(4, 80, 200, name="input_features"), _tokens(2000, 32, name="decoder_input_ids")),
        d_model=256,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        vocab_size=2000,
        max_source_positions=100,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    ),
    _hf("mixtral", "MixtralForCausalLM", (_tokens(2000),), **_LLAMA, num_local_experts=4),
    _hf("mamba", "MambaForCausalLM", (_tokens(2000),), hidden_size=256, num_hidden_layers=2, vocab_size=2000),
    _hf("albert", "AlbertForMaskedLM", (_tokens(2000),), **{**_BERT, "num_hidden_layers": 4}),
    _hf(
        "clip",
        "CLIPModel",
        (_tokens(2000, 32, 2), normal(2, 3, 64, 64, name="pixel_values")),
        text_config={**_BERT, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**{k: v for k, v in _BERT.items() if k != "vocab_size"}, "image_size": 64, "patch_size": 16},
    ),
    _vision("torchvision", "resnet18", 4, 224),
    _vision("torchvision", "resnext50_32x4d", 4, 128),
    _vision("torchvision", "vgg11", 2, 96),
    _vision("torchvision", "vgg16_bn", 4, 96),
    _vision("torchvision", "densenet121", 4, 128),
    _vision("torchvision", "mobilenet_v2", 4, 224),
    _vision("torchvision", "mobilenet_v3_small", 4, 224),
    _vision("torchvision", "efficientnet_b0", 4, 224),
    _vision("torchvision", "convnext_tiny", 2, 128),
    _vision("torchvision", "vit_b_16", 2, 224),
    _vision("torchvision", "swin_t", 2, 224),
    _vision("torchvision", "regnet_y_400mf", 4, 224),
    _vision("torchvision", "shufflenet_v2_x0_5", 4, 224),
    _vision("torchvision", "squeezenet1_1", 4, 224),
    _vision("torchvision", "googlenet", 4, 128, init_weights=True),
    _vision("torchvision", "maxvit_t", 2, 224),
    _vision("timm", "mixer_s32_224", 4, 224),
    _vision("timm", "resmlp_12_224", 2, 224),
    _vision("timm", "convmixer_768_32", 2, 112),
    _vision("timm", "nfnet_l0", 2, 128),
    _vision("timm", "ghostnet_100", 4, 224),
    _vision("timm", "res2net50_26w_4s", 4, 128),
    _vision("timm", "poolformer_s12", 4, 224),
    _vision("timm", "cait_xxs24_224", 2, 224),
    _vision("timm", "eva02_tiny_patch14_224", 2, 224),
    _vision("timm", "hrnet_w18_small", 4, 128),
    _vision("torchvision", "resnet50", 4, 128),
)

HELD_OUT: tuple[Model, ...] = (
    _hf("opt", "OPTForCausalLM", (_tokens(2000),), **_BERT, ffn_dim=1024, word_embed_proj_dim=256, max_position_embeddings=128),
    _hf("gpt_neox", "GPTNeoXForCausalLM", (_tokens(2000),), **_BERT),
    _hf("qwen2", "Qwen2ForCausalLM", (_tokens(2000),), **{k: v for k, v in _LLAMA.items() if k != "head_dim"}),
    _hf("gemma2", "Gemma2ForCausalLM", (_tokens(2000),), **_LLAMA, query_pre_attn_scalar=64),
    _hf("roberta", "RobertaForMaskedLM", (_tokens(2000),), **_BERT),
    _hf("distilbert", "DistilBertForMaskedLM", (_tokens(2000),), dim=256, n_layers=3, n_heads=4, hidden_dim=1024, vocab_size=2000),
    _hf(
        "bart",
        "BartForConditionalGeneration",
        (_tokens(2000), _tokens(2000, 32, name="decoder_input_ids")),
        d_model=256,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        vocab_size=2000,
        max_position_embeddings=128,
    ),
    _hf("deberta", "DebertaForMaskedLM", (_tokens(2000),), **_BERT, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    _hf("electra", "ElectraForMaskedLM", (_tokens(2000),), **_BERT),
    _hf("falcon", "FalconForCausalLM", (_tokens(2000),), **_BERT),
    _hf("phi", "PhiForCausalLM", (_tokens(2000),), **_BERT),
    _hf(
        "wav2vec2",
        "Wav2Vec2Model",
        (normal(2, 8000, name="input_values"),),
        **{**_BERT, "vocab_size": 32, "layerdrop": 0.0, "apply_spec_augment": False, "conv_dim": [256] * 7},
    ),
    _hf("dinov2", "Dinov2Model", (normal(2, 3, 112, 112, name="pixel_values"),), **{**_BERT, "image_size": 112}),
    _hf("segformer", "SegformerForSemanticSegmentation", (normal(2, 3, 128, 128, name="pixel_values"),)),
    _hf("mpnet", "MPNetForMaskedLM", (_tokens(2000),), **_BERT),
    _hf("xlnet", "XLNetLMHeadModel", (_tokens(2000),), d_model=256, n_layer=3, n_head=4, d_inner=1024, vocab_size=2000),
    _hf("convbert", "ConvBertForMaskedLM", (_tokens(2000),), **_BERT, embedding_size=128),
    _hf("gpt_neo", "GPTNeoForCausalLM", (_tokens(2000),), **{**_BERT, "num_hidden_layers": 2}, attention_types=[[["global", "local"], 1]]),
    _vision("torchvision", "resnet34", 4, 160),
    _vision("torchvision", "resnet101", 4, 96),
    _vision("torchvision", "wide_resnet50_2", 2, 96),
    _vision("torchvision", "vgg13", 2, 96),
    _vision("torchvision", "densenet169", 4, 128),
    _vision("torchvision", "mnasnet1_0", 4, 224),
    _vision("torchvision", "inception_v3", 2, 299, init_weights=True),
    _vision("torchvision", "regnet_x_400mf", 4, 224),
    _vision("torchvision", "convnext_small", 2, 96),
    _vision("torchvision", "efficientnet_v2_s", 4, 128),
    _vision("torchvision", "shufflenet_v2_x1_0", 4, 224),
    _vision("torchvision", "alexnet", 4, 224),
    _vision("torchvision", "mobilenet_v3_large", 4, 224),
    _vision("torchvision", "squeezenet1_0", 4, 128),
    _vision("torchvision", "swin_v2_t", 2, 256),
    _vision("torchvision", "vit_b_32", 2, 224),
    _vision("timm", "deit_tiny_patch16_224", 4, 224),
    _vision("timm", "gmlp_s16_224", 2, 224),
    _vision("timm", "resnext26ts", 4, 160),
    _vision("timm", "legacy_seresnet18", 4, 160),
    _vision("timm", "mobilenetv4_conv_small", 4, 224),
    _vision("timm", "edgenext_xx_small", 4, 224),
    _vision("timm", "levit_128s", 4, 224),
    _vision("timm", "pvt_v2_b0", 4, 224),
    _vision("timm", "xcit_nano_12_p16_224", 4, 224),
    _vision("timm", "coat_lite_tiny", 2, 224),
    _vision("timm", "crossvit_tiny_240", 2, 240),
    _vision("timm", "beit_base_patch16_224", 1, 224),
    _vision("timm", "volo_d1_224", 1, 224),
    _vision("timm", "twins_svt_small", 2, 224),
    _vision("timm", "repvgg_a0", 4, 160),
    _vision("timm", "ese_vovnet19b_dw", 4, 160),
    _vision("timm", "dpn68", 4, 128),
    _vision("timm", "hardcorenas_a", 4, 224),
    _vision("timm", "inception_next_atto", 4, 224),
    _vision("timm", "fastvit_t8", 4, 224),
    _vision("timm", "efficientvit_b0", 4, 224),
    _vision("timm", "mobilevit_xxs", 4, 224),
    _vision("timm", "pit_ti_224", 4, 224),
    _vision("timm", "convit_tiny", 2, 224),
    _vision("timm", "rexnet_100", 4, 224),
    _vision("timm", "skresnet18", 4, 128),
    _vision("timm", "gernet_s", 4, 160),
    _vision("timm", "focalnet_tiny_srf", 2, 128),
    _vision("timm", "resnest14d", 4, 160),
    _vision("timm", "cspresnet50", 4, 128),
    _vision("timm", "starnet_s1", 4, 224),
    _vision("timm", "mambaout_femto", 4, 224),
    _vision("timm", "halonet26t", 2, 256),
    _vision("timm", "sequencer2d_s", 1, 224),
)

ZOO: dict[str, Model] = {model.name: model for model in (*LISTED, *HELD_OUT)}
