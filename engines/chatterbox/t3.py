"""T3: text tokens and a voice to logits over speech tokens, on the backbone of GPT2 or of Llama."""

from __future__ import annotations

from engines.chatterbox.shapes import Backbone, T3Shape
from engines.chatterbox.weights import Layout

__all__ = ["layout"]


def layout(shape: T3Shape) -> Layout:
    """The tensors of a checkpoint of T3, under the published names."""
    width, inner = shape.width, shape.inner
    sizes: dict[str, tuple[int, ...]] = {
        "cond_enc.spkr_enc.weight": (width, shape.speaker),
        "cond_enc.spkr_enc.bias": (width,),
        "text_emb.weight": (shape.text_vocabulary, width),
        "speech_emb.weight": (shape.speech_vocabulary, width),
        "text_head.weight": (shape.text_vocabulary, width),
        "speech_head.weight": (shape.speech_vocabulary, width),
    }
    if shape.emotion:
        sizes["cond_enc.emotion_adv_fc.weight"] = (width, 1)
    if shape.perceiver:
        sizes["cond_enc.perceiver.pre_attention_query"] = (1, shape.perceiver.queries, width)
        for name in ("to_q", "to_k", "to_v", "proj_out"):
            sizes[f"cond_enc.perceiver.attn.{name}.weight"] = (width, width)
            sizes[f"cond_enc.perceiver.attn.{name}.bias"] = (width,)
        sizes["cond_enc.perceiver.attn.norm.weight"] = (width,)
        sizes["cond_enc.perceiver.attn.norm.bias"] = (width,)
    if shape.text_positions:
        sizes["text_pos_emb.emb.weight"] = (shape.text_positions, width)
        sizes["speech_pos_emb.emb.weight"] = (shape.speech_positions, width)
    if shape.backbone is Backbone.GPT2:
        sizes["speech_head.bias"] = (shape.speech_vocabulary,)
        sizes["tfmr.wte.weight"] = (shape.word_rows, width)
        sizes["tfmr.wpe.weight"] = (shape.positions, width)
        sizes["tfmr.ln_f.weight"] = sizes["tfmr.ln_f.bias"] = (width,)
        for layer in range(shape.layers):
            block = f"tfmr.h.{layer}"
            for name in ("ln_1", "ln_2"):
                sizes[f"{block}.{name}.weight"] = sizes[f"{block}.{name}.bias"] = (width,)
            # GPT2's projections are stored as [in, out].
            for name, rows, columns in (
                ("attn.c_attn", width, 3 * width),
                ("attn.c_proj", width, width),
                ("mlp.c_fc", width, inner),
                ("mlp.c_proj", inner, width),
            ):
                sizes[f"{block}.{name}.weight"] = (rows, columns)
                sizes[f"{block}.{name}.bias"] = (columns,)
        return sizes
    sizes["tfmr.embed_tokens.weight"] = (shape.word_rows, width)
    sizes["tfmr.norm.weight"] = (width,)
    for layer in range(shape.layers):
        block = f"tfmr.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            sizes[f"{block}.{name}.weight"] = (width,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            sizes[f"{block}.self_attn.{name}.weight"] = (width, width)
        sizes[f"{block}.mlp.gate_proj.weight"] = sizes[f"{block}.mlp.up_proj.weight"] = (inner, width)
        sizes[f"{block}.mlp.down_proj.weight"] = (width, inner)
    return sizes
