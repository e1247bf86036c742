"""transformers' part of the zoo: tiny models built from each architecture's configuration, with random weights.

Every size that a configuration names is made small (hidden 32, two layers, 99 words), in the configurations inside it too.
The names are the model types of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from zoo_cases import Case

ENCODERS = (
    "albert bert big_bird canine convbert data2vec-text deberta deberta-v2 distilbert electra ernie eurobert flaubert fnet "
    "ibert layoutlm longformer luke megatron-bert mobilebert modernbert mpnet mra nomic_bert nystromformer rembert "
    "roberta roformer splinter squeezebert tapas visual_bert xlm xlnet yoso"
).split()
DECODERS = (
    "biogpt bitnet bloom codegen cohere ctrl diffllama falcon gemma gemma2 glm gpt2 gpt_bigcode gpt_neo gpt_neox gptj "
    "granite helium llama mistral mpt olmo olmo2 openai-gpt opt persimmon phi phi3 qwen2 qwen3 smollm3 stablelm starcoder2 "
    "xglm"
).split()
MIXTURES = "deepseek_v3 gpt_oss jetmoe minimax mixtral olmoe phimoe qwen2_moe qwen3_moe".split()
RECURRENT = ("bamba falcon_h1 falcon_mamba jamba lfm2 mamba mamba2 nemotron_h qwen3_next recurrent_gemma rwkv").split()
PAIRS = (
    "bart bigbird_pegasus blenderbot fsmt led longt5 m2m_100 marian mbart mt5 nllb-moe pegasus plbart prophetnet "
    "switch_transformers t5 umt5"
).split()
VISION = (
    "beit bit convnext convnextv2 cvt data2vec-vision deit detr dinov2 dinov2_with_registers dpt focalnet glpn hiera ijepa "
    "levit maskformer mobilenet_v1 mobilenet_v2 mobilevit poolformer pvt pvt_v2 regnet resnet segformer swin swinv2 vit "
    "vit_mae vit_msn yolos"
).split()
VIDEO = "timesformer videomae vivit".split()
AUDIO = "data2vec-audio hubert sew unispeech wav2vec2 wav2vec2-conformer wavlm".split()
SPECTRA = "audio-spectrogram-transformer speech_to_text wav2vec2-bert whisper".split()
MULTIMODAL = "blip chinese_clip clip flava gemma3 git groupvit idefics3 llava owlvit paligemma vilt".split()
SERIES = "informer patchtsmixer patchtst time_series_transformer".split()

NAMES = (
    *ENCODERS,
    *DECODERS,
    *MIXTURES,
    *RECURRENT,
    *PAIRS,
    *VISION,
    *VIDEO,
    *AUDIO,
    *SPECTRA,
    *MULTIMODAL,
    *SERIES,
)
FEW = ("bert", "llama", "mixtral", "mamba", "t5", "vit", "wav2vec2", "whisper", "clip", "patchtst")
"""Those of a quick run: one of a kind."""

SIDE = 32
FRAMES = 8

_SIZES: tuple[tuple[int, str], ...] = (
    (32, "attention_hidden_size d_model dim emb_dim embed_dim embedding_dim embedding_size hidden_size"),
    (32, "moe_intermediate_size n_embd n_embed projection_dim width"),
    (2, "attention_heads decoder_attention_heads encoder_attention_heads n_head n_heads num_attention_heads num_heads"),
    (2, "num_key_value_heads num_experts_per_tok"),
    (2, "decoder_layers depth encoder_layers n_layer n_layers num_decoder_layers num_encoder_layers num_hidden_layers"),
    (2, "num_layers"),
    (64, "d_ff decoder_ffn_dim encoder_ffn_dim ffn_dim ffn_hidden_size hidden_dim intermediate_size n_inner"),
    (64, "max_position_embeddings n_positions"),
    (16, "d_kv head_dim"),
    (99, "vocab_size"),
    (4, "n_routed_experts num_experts num_local_experts"),
    (8, "patch_size"),
    (SIDE, "image_size"),
    (0, "pad_token_id"),
)
_SMALL = {key: size for size, keys in _SIZES for key in keys.split()}

_SHIFTED = {"embed_dim": 12, "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "patch_size": 2, "window_size": 4}
_BESIDES: dict[str, dict[str, Any]] = {
    "bamba": {
        "hidden_size": 32,
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_n_groups": 1,
    },
    "codegen": {"n_head": 4, "rotary_dim": 4},
    "convnext": {"depths": [1, 1, 1, 1], "patch_size": 4},
    "convnextv2": {"depths": [1, 1, 1, 1], "patch_size": 4},
    "deepseek_v3": {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
    | {"v_head_dim": 8, "head_dim": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "gptj": {"rotary_dim": 4},
    "hiera": {"image_size": [64, 64], "patch_size": [7, 7]},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "levit": {"image_size": 64, "patch_size": 16},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "mamba2": {"hidden_size": 32, "num_heads": 4, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}
    | {"linear_num_key_heads": 2}
    | {"linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    | {"shared_expert_intermediate_size": 32},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 16},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
    "swin": {
        "image_size": 64,
        "embed_dim": 12,
        "num_heads": [1, 1, 2, 2],
        "depths": [1, 1, 1, 1],
        "patch_size": 2,
        "window_size": 4,
    },
    "swinv2": {"embed_dim": 12, "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "patch_size": 2, "window_size": 4},
    "xlm": {"emb_dim": 32},
    "whisper": {"max_source_positions": 50, "max_target_positions": 32},
    "audio-spectrogram-transformer": {"max_length": 64, "num_mel_bins": 32},
    "informer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2]},
    "time_series_transformer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2]},
}
"""What an architecture needs beside the common sizes."""


def transformers_case(name: str, batch: int) -> Case:
    """One model with the arguments of a call."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = _shrunk(transformers.AutoConfig.for_model(name, **_BESIDES.get(name, {})), _BESIDES.get(name, {}))
    return transformers.AutoModel.from_config(config).eval(), (), _inputs(name, config, batch)


def _shrunk(config: Any, besides: dict[str, Any]) -> Any:
    """The configuration with every size in it made small, but those that are given."""
    from transformers import PreTrainedConfig

    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shrunk(value, {})
        elif key in _SMALL and key not in besides and isinstance(value, int) and not isinstance(value, bool):
            setattr(config, key, _SMALL[key])
    return config


def _inputs(name: str, config: Any, batch: int) -> dict[str, Any]:
    """What a model of its kind is called with."""
    kinds: tuple[tuple[list[str], Callable[[Any, int], dict[str, Any]]], ...] = (
        (PAIRS, lambda config, batch: _words(batch) | {"decoder_input_ids": _words(batch, 4)["input_ids"]}),
        (VISION, _images),
        (VIDEO, lambda config, batch: {"pixel_values": torch.rand(batch, config.num_frames, 3, SIDE, SIDE)}),
        (AUDIO, lambda config, batch: {"input_values": torch.rand(batch, 4000)}),
        (SPECTRA, lambda config, batch: _spectra(name, batch)),
        (MULTIMODAL, lambda config, batch: _words(batch) | _images_beside_words(name, config, batch)),
        (SERIES, lambda config, batch: _series(name, config, batch)),
    )
    for names, inputs in kinds:
        if name in names:
            return inputs(config, batch)
    return _words(batch)


def _words(batch: int, length: int = 8) -> dict[str, Any]:
    return {"input_ids": torch.arange(1, 1 + batch * length).reshape(batch, length) % 97 + 1}


def _images(config: Any, batch: int) -> dict[str, Any]:
    side = getattr(config, "image_size", SIDE)
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    return {"pixel_values": torch.rand(batch, 3, height, width)}


def _images_beside_words(name: str, config: Any, batch: int) -> dict[str, Any]:
    """Images for the models that take some beside any words; the others see their words alone."""
    alone = ("flava", "gemma3", "git", "idefics3", "llava", "paligemma")
    return {} if name in alone else _images(getattr(config, "vision_config", config), batch)


def _spectra(name: str, batch: int) -> dict[str, Any]:
    words = {"decoder_input_ids": _words(batch, 4)["input_ids"]}
    if name == "whisper":
        return {"input_features": torch.rand(batch, 80, 100), **words}
    if name == "speech_to_text":
        return {"input_features": torch.rand(batch, 40, 80), **words}
    if name == "wav2vec2-bert":
        return {"input_features": torch.rand(batch, 20, 160)}
    return {"input_values": torch.rand(batch, 64, 32)}


def _series(name: str, config: Any, batch: int) -> dict[str, Any]:
    if name.startswith("patchts"):
        return {"past_values": torch.rand(batch, config.context_length, config.num_input_channels)}
    past, future = config.context_length + max(config.lags_sequence), config.prediction_length
    return {
        "past_values": torch.rand(batch, past),
        "past_time_features": torch.rand(batch, past, 0),
        "past_observed_mask": torch.ones(batch, past),
        "future_values": torch.rand(batch, future),
        "future_time_features": torch.rand(batch, future, 0),
    }
