"""Chatterbox: cloned voices by a language model over speech tokens (T3), flow matching and a vocoder (S3Gen).

Inference modules of our own, in plain torch, that read the published checkpoints. torch is imported in this folder and
nowhere else, and comes with `pip install mediaserver[chatterbox]`. shapes.py says how large each model is, weights.py
reads its files; the rest builds on these two.
"""
