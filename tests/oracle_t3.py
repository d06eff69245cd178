"""The oracle for T3: logits, greedy tokens and what remains to be sampled from, by the package itself."""

from __future__ import annotations

import functools
from pathlib import Path

from oracle_part import Shape, Tensors, answer  # ahead of the package, whose __init__ it passes by

# isort: split
import chatterbox.models.t3.modules.cond_enc as conditioning
import chatterbox.models.t3.t3 as t3_module
import torch
from chatterbox.models.t3.llama_configs import GPT2_MEDIUM_CONFIG, LLAMA_520M_CONFIG_DICT, LLAMA_CONFIGS
from chatterbox.models.t3.modules.cond_enc import T3Cond
from chatterbox.models.t3.modules.perceiver import Perceiver
from chatterbox.models.t3.modules.t3_config import T3Config
from safetensors.torch import load_file
from transformers.generation import logits_process as warpers

# The multilingual model's alignment analyser watches over what is drawn and is no part of what is compared.
T3Config.is_multilingual = False


def model(shape: Shape, directory: Path) -> t3_module.T3:
    """The package's T3 of that shape with the weights of the directory; every key has to fit."""
    sizes = shape.t3
    hp = T3Config(text_tokens_dict_size=sizes.text_vocabulary)
    hp.llama_config_name = "asked for"
    hp.speech_tokens_dict_size = sizes.speech_vocabulary
    hp.speech_cond_prompt_len = sizes.prompt_tokens
    if sizes.backbone == "gpt2":
        LLAMA_CONFIGS["asked for"] = GPT2_MEDIUM_CONFIG | {
            "n_embd": sizes.width,
            "hidden_size": sizes.width,
            "n_head": sizes.heads,
            "n_layer": sizes.layers,
            "n_positions": sizes.positions,
            "n_ctx": sizes.positions,
            "vocab_size": sizes.word_rows,
        }
        hp.input_pos_emb = None
        hp.use_perceiver_resampler = False
        hp.emotion_adv = False
    else:
        LLAMA_CONFIGS["asked for"] = LLAMA_520M_CONFIG_DICT | {
            "hidden_size": sizes.width,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads,
            "head_dim": sizes.width // sizes.heads,
        }
        conditioning.Perceiver = functools.partial(
            Perceiver,
            pre_attention_query_token=sizes.perceiver.queries,
            pre_attention_query_size=sizes.width,
            embedding_dim=sizes.width,
            num_attn_heads=sizes.perceiver.heads,
        )
    t3 = t3_module.T3(hp)
    t3.load_state_dict(load_file(directory / shape.files.t3), strict=True)
    return t3.eval()


def condition(question: Tensors) -> T3Cond:
    return T3Cond(
        speaker_emb=question["speaker"][None],
        cond_prompt_speech_tokens=question["prompt"][None],
        emotion_adv=question["emotion"].view(1, 1, 1),
    )


def logits(t3: t3_module.T3, question: Tensors, guided: bool) -> torch.Tensor:
    """After the text and after each of the speech tokens in the question; [rows, tokens + 1, vocabulary]."""
    text, speech = question["text"][None], question["speech"][None]
    start = torch.full((1, 1), t3.hp.start_speech_token)
    if guided:
        text, start = text.expand(2, -1), start.expand(2, -1)
    embeddings, _ = t3.prepare_input_embeds(
        t3_cond=condition(question), text_tokens=text, speech_tokens=start, cfg_weight=0.5 if guided else 0.0
    )
    following = t3.speech_emb(speech)
    if guided:
        positions = t3.speech_pos_emb
        second = t3.speech_emb(start[:1]) + positions.get_fixed_embedding(0)
        following = following + positions.get_fixed_embedding(torch.arange(1, speech.shape[1] + 1))
        following = torch.cat([second, following], dim=1).expand(2, -1, -1)
    hidden = t3.tfmr(inputs_embeds=torch.cat([embeddings, following], dim=1)).last_hidden_state
    return t3.speech_head(hidden[:, -1 - speech.shape[1] :])


def greedy(t3: t3_module.T3, question: Tensors, guided: bool, count: int) -> torch.Tensor:
    """The tokens of the package's own loop when only the likeliest can be drawn."""
    text = question["text"][None]
    if guided:
        return t3.inference(
            t3_cond=condition(question), text_tokens=text.expand(2, -1), max_new_tokens=count, min_p=1.0, cfg_weight=0.5
        )[0]
    return t3.inference_turbo(condition(question), text, top_k=1, top_p=1.0, max_gen_len=count - 1)[0]


def remaining(question: Tensors, guided: bool) -> torch.Tensor:
    """What the processors leave of scores, in the order in which the package applies them, as probabilities."""
    scores, history = question["scores"], question["history"]
    chain: list[warpers.LogitsProcessor] = (
        [
            warpers.RepetitionPenaltyLogitsProcessor(1.2),
            warpers.TemperatureLogitsWarper(0.8),
            warpers.MinPLogitsWarper(0.05),
            warpers.TopPLogitsWarper(1.0),
        ]
        if guided
        else [
            warpers.TemperatureLogitsWarper(0.8),
            warpers.TopKLogitsWarper(1000),
            warpers.TopPLogitsWarper(0.95),
            warpers.RepetitionPenaltyLogitsProcessor(1.2),
        ]
    )
    for processor in chain:
        scores = processor(history, scores)
    return torch.softmax(scores, dim=-1)


def part(shape: Shape, question: Tensors, directory: Path) -> Tensors:
    t3, guided = model(shape, directory), shape.t3.backbone == "llama"
    return {
        "logits": logits(t3, question, guided),
        "greedy": greedy(t3, question, guided, int(question["greedy"])),
        "remaining": remaining(question, guided),
    }


if __name__ == "__main__":
    answer(part)
