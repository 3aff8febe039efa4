"""Published models by name, for the sweep of the checks: which there are, how each is built, and what it is fed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

__all__ = ["NAMES", "REASONS", "built"]

TORCHVISION = """
alexnet convnext_tiny convnext_small convnext_base convnext_large densenet121 densenet161 densenet169 densenet201
efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7
efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf
regnet_x_16gf regnet_x_32gf regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf
regnet_y_128gf resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d shufflenet_v2_x0_5
shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b
vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14 wide_resnet50_2 wide_resnet101_2
deeplabv3_mobilenet_v3_large deeplabv3_resnet50 deeplabv3_resnet101 fcn_resnet50 fcn_resnet101 lraspp_mobilenet_v3_large
r3d_18 mc3_18 r2plus1d_18 s3d mvit_v1_b mvit_v2_s swin3d_t
fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_mobilenet_v3_large_320_fpn
fcos_resnet50_fpn retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 ssd300_vgg16 ssdlite320_mobilenet_v3_large maskrcnn_resnet50_fpn
maskrcnn_resnet50_fpn_v2 keypointrcnn_resnet50_fpn
"""

TIMM = """
beit_base_patch16_224 beitv2_base_patch16_224 halonet26t botnet26t_256 lambda_resnet26t eca_botnext26ts_256 mobileone_s0 gernet_s
repvgg_a0 resnext26ts gcresnext26ts seresnext26ts cait_xxs24_224 coat_tiny coat_lite_tiny convit_tiny convmixer_768_32 convnext_atto
convnextv2_atto cpubone_nano crossvit_tiny_240 cs3darknet_s cspresnet50 cspresnext50 darknet53 cspnext_tiny davit_tiny
deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224 densenet121 dla34 dla60_res2net dpn68 edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 tinynet_a efficientnet_b0 efficientnetv2_rw_t mnasnet_small mixnet_s fbnetc_100 mobilenetv2_050
mobilenetv4_conv_small mobilenetv4_hybrid_medium spnasnet_100 efficientnet_es semnasnet_075 efficientvim_m1 efficientvit_b0
efficientvit_m0 eva02_tiny_patch14_224 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 fastvit_sa12 focalnet_tiny_srf gcvit_xxtiny
ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224 hieradet_small hrnet_w18_small iformer_s
inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 mambaout_femto
maxvit_pico_rw_256 coatnet_pico_rw_224 coatnext_nano_rw_224 caformer_s18 convformer_s18 poolformer_s12 poolformerv2_s12 gmlp_s16_224
mixer_s16_224 resmlp_12_224 gmixer_12_224 mobilenetv3_small_050 lcnet_050 mobilenetv5_base mobilevit_xxs mobilevitv2_050 mvitv2_tiny
naflexvit_base_patch16_siglip nasnetalarge nest_tiny nextvit_small nf_seresnet26 nfnet_l0 dm_nfnet_f0 nf_regnet_b0 pit_ti_224
pnasnet5large pvt_v2_b0 rdnet_tiny regnety_004 regnetx_002 regnetv_040 regnetz_005 repghostnet_050 repvit_m0_9 res2net50_26w_4s
resnest14d resnet18 resnet26t resnet50 seresnet18 ecaresnet26t resnetblur18 resnetrs50 resnext50_32x4d resnetv2_18 resnetv2_50x1_bit
rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_svt_small
twins_pcpvt_small vgg11 visformer_tiny vit_tiny_patch16_224 vit_small_patch32_224 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224
vit_srelpos_small_patch16_224 vit_base_patch16_rope_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_dw
legacy_xception xception41 xcit_nano_12_p16_224
"""

TRANSFORMERS = """
gpt2 llama bert t5 vit whisper mixtral mamba albert opt gpt_neox qwen2 gemma2 roberta distilbert bart deberta electra falcon phi mpnet
xlnet convbert gpt_neo mistral qwen3 gemma gemma3_text phi3 olmo olmo2 cohere granite stablelm starcoder2 persimmon bloom mpt gptj codegen
gpt_bigcode biogpt xglm openai-gpt ctrl mamba2 falcon_mamba qwen2_moe qwen3_moe deepseek_v2 deepseek_v3 dbrx nemotron glm glm4 helium
smollm3 exaone4 arcee ernie4_5 gpt_oss recurrent_gemma jamba zamba2 bamba lfm2 rwkv modernbert modernbert-decoder deberta-v2 camembert
xlm-roberta rembert roformer squeezebert mobilebert ernie esm fnet funnel ibert layoutlm longformer big_bird luke megatron-bert
nystromformer roberta-prelayernorm xmod mra yoso flaubert xlm reformer blenderbot marian mbart pegasus m2m_100 mt5 umt5
switch_transformers longt5 led prophetnet plbart nllb-moe t5gemma beit bit convnext convnextv2 cvt deit dinov2 dinov2_with_registers
efficientnet focalnet hiera imagegpt levit mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 poolformer pvt pvt_v2 regnet resnet segformer
swiftformer swin swinv2 vit_msn hgnet_v2 ijepa wav2vec2 hubert speech_to_text vit_mae
"""

NAMES = (
    *(f"torchvision:{n}" for n in TORCHVISION.split()),
    *(f"timm:{n}" for n in TIMM.split()),
    *(f"hf:{n}" for n in TRANSFORMERS.split()),
)

TOKENS = 32

SMALL: dict[str, Any] = {
    "hidden_size": 128, "n_embd": 128, "d_model": 128, "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2,
    "encoder_layers": 2, "decoder_layers": 2, "num_decoder_layers": 2, "num_encoder_layers": 2, "num_attention_heads": 4, "n_head": 4,
    "num_heads": 4, "n_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "d_kv": 32, "d_ff": 256, "intermediate_size": 256,
    "ffn_dim": 256, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "moe_intermediate_size": 128, "vocab_size": 1000, "num_experts": 4,
    "n_routed_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""What a small configuration changes, where the default has a setting of that name (grids of image models have lists and are left)."""

EXTRA: dict[str, dict[str, Any]] = {
    "gptj": {"rotary_dim": 16},
    "codegen": {"rotary_dim": 16},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"is_decoder": True},
    "squeezebert": {"embedding_size": 128},
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4, "head_dim": 64},
    "mamba2": {"num_heads": 8},
    "zamba2": {"num_hidden_layers": 54},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
}
"""What the small configuration of one model type changes beside or otherwise."""

REASONS: dict[tuple[str, str], str] = {
    **dict.fromkeys(
        ((f"torchvision:deeplabv3_{name}", "NRM103") for name in ("resnet50", "resnet101", "mobilenet_v3_large")),
        "true: the dropout at the end of the pyramid feeds a convolution and its batch norm",
    ),
    ("torchvision:deeplabv3_mobilenet_v3_large", "SHP103"): "true: the pyramid's dilations are made for a map of twice this resolution",
    ("torchvision:maxvit_t", "ATT102"): "true: the scale is feat_dim ** -0.5, and a head has half that width or less",
    ("torchvision:ssd300_vgg16", "SHP103"): "true: the heads keep 3x3 kernels on the last map, which has one position",
    ("torchvision:ssdlite320_mobilenet_v3_large", "SHP103"): "true: the last blocks keep 3x3 kernels on maps of 2x2",
    ("timm:xception41", "ACT103"): "true: the stem ends with the ReLU that the first block begins with",
    ("hf:mra", "GRD102"): "true: where its CUDA kernel cannot be loaded, the library puts zeros in place of the attention",
    ("hf:mobilenet_v1", "DRP101"): "true: classifier_dropout_prob is 0.999, the share that the original kept",
    ("hf:swiftformer", "GRD103"): "true: the softmax runs over the last axis, where the scores have one entry",
    ("hf:cvt", "ATT102"): "true: the scale is embed_dim ** -0.5, whatever the number of heads",
    ("hf:prophetnet", "BAT102"): "true: the predicting streams attend to later positions, and a changed token changes earlier scores",
}
"""(model, code) → why the finding stands."""

INPUTS: dict[str, Any] = {
    "wav2vec2": {"input_values": "2x8000"},
    "hubert": {"input_values": "2x8000"},
    "speech_to_text": {"input_features": "2x128x80", "decoder_input_ids": "2x32:int(1000)"},
}


class Detector(nn.Module):
    """The trained parts of a torchvision detector: features and heads, without the matching of boxes, which depends on data."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        """(batch, 3, height, width) to what the heads say, tensor by tensor."""
        maps = list(self.model.backbone(images).values())
        if not hasattr(self.model, "rpn"):
            return list(self.model.head(maps).values())
        objectness, boxes = self.model.rpn.head(maps)
        heads, region = self.model.roi_heads, maps[0]
        said = [*objectness, *boxes, *heads.box_predictor(heads.box_head(region[:, :, :7, :7]))]
        tasks = [task for task in ("mask", "keypoint") if getattr(heads, f"{task}_head", None) is not None]
        said += [getattr(heads, f"{task}_predictor")(getattr(heads, f"{task}_head")(region[:, :, :14, :14])) for task in tasks]
        return said


Built = tuple[Callable[[], Any], Any]


def built(name: str) -> Built:
    """The factory of a model, and its inputs."""
    library, _, model = name.partition(":")
    return {"torchvision": _torchvision, "timm": _timm, "hf": _transformers}[library](model)


def _torchvision(name: str) -> Built:
    from initio.api import zoos

    build, inputs = zoos.torchvision(name, {})
    if inputs is None:
        return (lambda: Detector(build())), "2x3x320x320"
    parts = inputs.split("x")
    if len(parts) == 5:
        return build, "2x3x16x" + ("224x224" if any(word in name for word in ("mvit", "swin", "s3d")) else "112x112")
    fixed = any(word in name for word in ("vit", "swin", "inception", "deeplab", "fcn", "lraspp"))
    return build, f"2x3x{parts[2]}x{parts[3]}" if fixed else "2x3x128x128"


def _timm(name: str) -> Built:
    import timm

    given = timm.get_pretrained_cfg(name)
    size = given.input_size[1] if given else 224
    if given and not given.fixed_input_size:
        size = max(min(size, 128), *(given.min_input_size or (0, 0, 0))[1:])
    return (lambda: timm.create_model(name, pretrained=False)), f"2x3x{size}x{size}"


def _transformers(kind: str) -> Built:
    import transformers

    from initio.api import zoos

    default = transformers.AutoConfig.for_model(kind)
    known = {**default.to_dict(), **dict.fromkeys(getattr(default, "attribute_map", {}), 0)}
    stages = any(isinstance(known.get(key), list | tuple) for key in ("depths", "hidden_sizes", "embed_dim", "embedding_size"))
    changes = {} if stages else {key: value for key, value in SMALL.items() if key in known and not isinstance(known[key], list | dict)}
    build, inputs = zoos.hf(kind, {**changes, **EXTRA.get(kind, {})})
    if isinstance(inputs, dict):
        inputs = {key: re.sub(r"^2x\d+:int", f"2x{TOKENS}:int", text) for key, text in inputs.items()}
    return build, INPUTS.get(kind, inputs or {"pixel_values": "2x3x128x128"})
