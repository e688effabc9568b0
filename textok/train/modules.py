"""The three models as plain PyTorch modules: the reference that the C engine is compared with.

    Tokenizer    image [B,S,S,3] and text [B,t,Dt]  -> latents [B,N,d]
    Detokenizer  latents [B,N,d] and text           -> image [B,S,S,3]
    TexTok       both, joined: encode, decode, forward
    DiT          noisy latents [B,N,C], timestep, class or text -> [B,N,C] or [B,N,2C]
                 (with input_size: [B,C,S,S] -> [B,C,S,S] or [B,2C,S,S])

The names in `state_dict()` are exactly the names in a checkpoint's `model.safetensors`.

Letters: B batch, S image side, p patch side, P patches, N latent tokens, d latent width, t text rows
given (at most Nt), Dt text width, D width, H heads, F MLP width, T sequence length, C DiT channels.
A sequence is always ordered patches, registers (where there are some), latents, text. Pixels are in [-1, 1], channels last.

Where `text_mask` is true, text rows at or beyond a caption's length are hidden from every
attention, which gives the same numbers as leaving them out. Dropping out the rows nobody reads, the
last block of each side computes only the rows that are kept.

`trace`, where a forward takes it, is a dict that receives the intermediate results by name; the
rows of padded text in them mean nothing.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from textok.config import DiTConfig, TexTokConfig

Config = dict[str, Any]  # every key of config.json
Trace = dict[str, Tensor] | None


def full_config(config: Mapping[str, Any] | TexTokConfig | DiTConfig, kind: type[TexTokConfig] | type[DiTConfig]) -> Config:
    """A dict with every key, from a dict as in config.json or a `kind` (TexTokConfig, DiTConfig)."""
    return (config if isinstance(config, TexTokConfig | DiTConfig) else kind.from_dict(config)).to_dict()


def note(trace: Trace, name: str, value: Tensor) -> None:
    """Keeps `value` under `name` where a trace is wanted."""
    if trace is not None:
        trace[name] = value.detach()


def attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, key_mask: Tensor | None = None) -> Tensor:
    """Multi-head attention: q [B,Tq,D], k and v [B,Tk,D], key_mask bool [B,Tk] -> [B,Tq,D]."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # [B,H,T,Dh]
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # [B,H,Tq,Tk]
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], -math.inf)  # [B,H,Tq,Tk]
    shares = torch.softmax(scores, dim=-1, dtype=scores.dtype)  # [B,H,Tq,Tk]
    return (shares @ v).transpose(1, 2).flatten(2)  # [B,Tq,D]


def rotated(x: Tensor, angles: Tensor | None) -> Tensor:
    """x [B,T,D] whose first P rows are turned: in head h of row p, columns 2j and 2j + 1 by angles [H,P,Dh/2]. None turns
    nothing."""
    if angles is None:
        return x
    heads, rows, _ = angles.shape
    a, b = x[:, :rows].unflatten(-1, (heads, -1, 2)).unbind(-1)  # [B,P,H,Dh/2] each
    cos, sin = angles.cos().transpose(0, 1).to(x.dtype), angles.sin().transpose(0, 1).to(x.dtype)  # [P,H,Dh/2]
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)  # [B,P,H,Dh/2,2]
    return torch.cat([turned.flatten(2), x[:, rows:]], dim=1)  # [B,T,D]


class SelfAttention(nn.Module):
    """Self-attention; the rows of `qkv` are q, k, v, each heads x head width."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, rows: slice | None = None, angles: Tensor | None = None
    ) -> Tensor:
        """x [B,T,D] -> [B,T,D], or only `rows` (a slice of T) of it; rotary `angles` [H,P,Dh/2] of the first P rows."""
        if rows is None or angles is not None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)  # [B,T,D] each
            q, k = rotated(q, angles), rotated(k, angles)
            q = q if rows is None else q[:, rows]  # [B,R,D]
        else:
            width = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            bias_q, bias_kv = (None, None) if bias is None else (bias[:width], bias[width:])
            q = functional.linear(x[:, rows], weight[:width], bias_q)  # [B,R,D]
            k, v = functional.linear(x, weight[width:], bias_kv).chunk(2, dim=-1)  # [B,T,D] each
        return self.proj(attention(q, k, v, self.num_heads, key_mask))  # [B,T or R,D]


class CrossAttention(nn.Module):
    """Attention from a sequence to the text; biases always."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """x [B,T,D], text [B,t,D], text_mask bool [B,t] -> [B,T,D]."""
        q = self.q(x)  # [B,T,D]
        k, v = self.kv(text).chunk(2, dim=-1)  # [B,t,D] each
        return self.proj(attention(q, k, v, self.num_heads, text_mask))  # [B,T,D]


class Mlp(nn.Module):
    """Linear, GELU (erf or tanh), Linear."""

    def __init__(self, width: int, hidden: int, gelu: str) -> None:
        super().__init__()
        self.approximate = {"erf": "none", "tanh": "tanh"}[gelu]
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B,T,D] -> [B,T,D]."""
        h = functional.gelu(self.fc1(x), approximate=self.approximate)  # [B,T,F]
        return self.fc2(h)  # [B,T,D]


class Block(nn.Module):
    """Pre-norm transformer block, with cross-attention to the text between its halves or without."""

    def __init__(self, width: int, num_heads: int, hidden: int, config: Config, cross: bool) -> None:
        super().__init__()
        eps = config["norm_eps"]
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, num_heads, config["qkv_bias"])
        if cross:
            self.norm_cross: nn.LayerNorm | None = nn.LayerNorm(width, eps=eps)
            self.cross: CrossAttention | None = CrossAttention(width, num_heads)
        else:
            self.norm_cross = self.cross = None
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden, config["gelu"])

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None,
        text: Tensor | None,
        text_mask: Tensor | None,
        rows: slice | None = None,
        angles: Tensor | None = None,
        trace: Trace = None,
        name: str = "",
    ) -> Tensor:
        """x [B,T,D] -> [B,T,D], or only `rows` of it; text [B,t,D] for the cross-attention, rotary `angles` for the other."""
        kept = x if rows is None else x[:, rows]  # [B,R,D]
        x = kept + self.attn(self.norm1(x), key_mask, rows, angles)  # [B,R,D]
        note(trace, f"{name}.attn", x)
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.cross(self.norm_cross(x), text, text_mask)  # [B,R,D]
            note(trace, f"{name}.cross", x)
        x = x + self.mlp(self.norm2(x))  # [B,R,D]
        note(trace, name, x)
        return x


class Side(nn.Module):
    """What the tokenizer and the detokenizer share: text projection, positions, blocks, last norm."""

    def __init__(self, config: Config, side: str) -> None:
        super().__init__()
        sizes = config[side]
        self.side = side
        self.width = sizes["hidden_size"]
        self.num_patches = (config["image_size"] // config["patch_size"]) ** 2
        self.num_latents = config["num_latent_tokens"]
        self.has_text = config["text_condition"] in ("both", side)
        self.by_class = self.has_text and config["text_source"] == "class"
        self.cross = self.has_text and config["text_injection"] == "cross_attention"
        self.in_context = self.has_text and not self.cross
        self.masked = config["text_mask"]
        self.num_text = 1 if self.by_class else config["num_text_tokens"]

        if self.by_class:
            self.class_embed = nn.Parameter(torch.empty(config["num_classes"], self.width))
        elif self.has_text:
            self.text_proj = nn.Linear(config["text_dim"], self.width)
        self.num_registers = config["num_registers"] if side == "tokenizer" or config["detokenizer_registers"] else 0
        places = self.num_patches + self.num_registers + self.num_latents + (self.num_text if self.in_context else 0)
        if self.num_registers:
            self.registers = nn.Parameter(torch.empty(self.num_registers, self.width))
        self.pos_embed = nn.Parameter(torch.empty(places, self.width))
        if config["input_norm"]:
            self.input_norm: nn.Module = nn.LayerNorm(self.width, eps=config["norm_eps"])
        else:
            self.input_norm = nn.Identity()
        hidden = round(self.width * sizes["mlp_ratio"])
        self.blocks = nn.ModuleList(
            Block(self.width, sizes["num_heads"], hidden, config, self.cross) for _ in range(sizes["depth"])
        )
        if config["rope"]:
            pairs = self.width // sizes["num_heads"] // 2
            shape = (sizes["num_heads"], self.num_patches, pairs)
            self.rope: nn.ParameterList | None = nn.ParameterList(torch.empty(shape) for _ in self.blocks)
        else:
            self.rope = None
        self.norm = nn.LayerNorm(self.width, eps=config["norm_eps"])

    def project_text(
        self, text: Tensor | None, text_lengths: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The text rows [B,t,D] and their mask bool [B,t] (None: all real); both None without text."""
        if not self.has_text:
            return None, None
        if self.by_class:
            return self.class_embed[labels][:, None], None  # [B,1,D]
        assert text is not None, "text: expected [B,t,Dt], which this side takes, got None"
        rows = self.text_proj(text)  # [B,t,D]
        if not self.masked or text_lengths is None:
            return rows, None
        places = torch.arange(text.shape[1], device=text.device)  # [t]
        return rows, places < text_lengths[:, None]  # [B,t,D], [B,t]

    def run_blocks(self, x: Tensor, text: Tensor | None, text_mask: Tensor | None, rows: slice | None, trace: Trace) -> Tensor:
        """x [B,P+N,D] without positions, text [B,t,D] -> the normed rows of `rows`, [B,R,D]; `rows` counts the registers."""
        if self.num_registers:
            registers = self.registers.expand(len(x), -1, -1).to(x.dtype)
            x = torch.cat([x[:, : self.num_patches], registers, x[:, self.num_patches :]], dim=1)
        key_mask = None
        if self.in_context:
            assert text is not None  # `project_text` made it
            if text_mask is not None:
                everyone = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)  # [B,P+N]
                key_mask = torch.cat([everyone, text_mask], dim=1)  # [B,P+N+t]
            x = torch.cat([x, text], dim=1)  # [B,P+N+t,D]
        x = self.input_norm(x + self.pos_embed[: x.shape[1]])  # [B,T,D]
        note(trace, f"{self.side}.embed", x)
        for i, block in enumerate(self.blocks):
            kept = rows if i == len(self.blocks) - 1 else None
            angles = None if self.rope is None else self.rope[i]
            x = block(x, key_mask, text, text_mask, kept, angles, trace, f"{self.side}.blocks.{i}")
        x = self.norm(x)  # [B,R,D]
        note(trace, f"{self.side}.norm", x)
        return x


class Tokenizer(Side):
    """Image and text to latents."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, "tokenizer")
        self.patch_size, self.overlap = config["patch_size"], config["patch_overlap"]
        latent = config["latent_dim"]
        self.patch_embed = nn.Linear(3 * (self.patch_size + 2 * self.overlap) ** 2, self.width)
        self.latent_tokens = nn.Parameter(torch.empty(self.num_latents, self.width))
        self.to_latent = nn.Linear(self.width, 2 * latent if config["kl"] else latent)
        self.soft = config["codebook"]
        if self.soft is not None:
            self.codebook = nn.Parameter(torch.empty(self.soft["runs"], self.soft["size"], latent))

    def quantize(self, latents: Tensor) -> Tensor:
        """latents [B,N,d] -> [B,N,d]: where there is a codebook, each token the soft mean of its run's codes."""
        if self.soft is None:
            return latents
        tokens, codes = latents.unflatten(1, (self.soft["runs"], -1)), self.codebook.to(latents.dtype)  # [B,C,n,d], [C,K,d]
        if self.soft["l2_norm"]:
            tokens, codes = functional.normalize(tokens, dim=-1), functional.normalize(codes, dim=-1)
        shares = torch.softmax(tokens @ codes.transpose(1, 2) / self.soft["tau"], dim=-1)  # [B,C,n,K]
        return (shares @ codes).flatten(1, 2)  # [B,N,d]

    def forward(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        trace: Trace = None,
    ) -> Tensor:
        """image [B,S,S,3] -> [B,N,d], or [B,N,2d] (mean, log-variance) with kl."""
        x = self.patch_embed(patchify(image, self.patch_size, self.overlap))  # [B,P,D]
        latents = self.latent_tokens.expand(len(x), -1, -1)  # [B,N,D]
        text, mask = self.project_text(text, text_lengths, labels)  # [B,t,D], [B,t]
        first = self.num_patches + self.num_registers
        rows = slice(first, first + self.num_latents)
        x = torch.cat([x, latents.to(x.dtype)], dim=1)  # [B,P+N,D]
        return self.to_latent(self.run_blocks(x, text, mask, rows, trace))  # [B,N,d or 2d]


class Detokenizer(Side):
    """Latents and text to an image."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, "detokenizer")
        self.patch_size, self.overlap = config["patch_size"], config["patch_overlap"]
        self.tanh = {"none": False, "tanh": True}[config["output_activation"]]
        self.patch_tokens = nn.Parameter(torch.empty(self.num_patches, self.width))
        self.from_latent = nn.Linear(config["latent_dim"], self.width)
        self.to_pixels = nn.Linear(self.width, 3 * (self.patch_size + 2 * self.overlap) ** 2)
        self.pixel_conv = nn.Linear(27, 3) if config["output_conv"] else None

    def features(
        self,
        latents: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        trace: Trace = None,
    ) -> Tensor:
        """latents [B,N,d] -> what the last layer reads, [B,P,D]."""
        z = self.from_latent(latents)  # [B,N,D]
        patches = self.patch_tokens.expand(len(z), -1, -1)  # [B,P,D]
        text, mask = self.project_text(text, text_lengths, labels)  # [B,t,D], [B,t]
        x = torch.cat([patches.to(z.dtype), z], dim=1)  # [B,P+N,D]
        return self.run_blocks(x, text, mask, slice(0, self.num_patches), trace)  # [B,P,D]

    def pixels(self, features: Tensor) -> Tensor:
        """[B,P,D] -> image [B,S,S,3]."""
        x = self.to_pixels(features)  # [B,P,3pp]
        x = torch.tanh(x) if self.tanh else x  # [B,P,3pp]
        x = unpatchify(x, self.patch_size, self.overlap)  # [B,S,S,3]
        return x if self.pixel_conv is None else convolve(self.pixel_conv, x)

    def forward(
        self,
        latents: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        trace: Trace = None,
    ) -> Tensor:
        """latents [B,N,d] -> image [B,S,S,3]."""
        return self.pixels(self.features(latents, text, text_lengths, labels, trace))


def patchify(image: Tensor, p: int, overlap: int = 0) -> Tensor:
    """[B,S,S,3] -> [B,P,3ww] of windows w = p + 2 overlap, zeros around the image; pixel order row, column, channel."""
    if overlap:
        w = p + 2 * overlap
        x = functional.pad(image, (0, 0, overlap, overlap, overlap, overlap))  # [B,S+2o,S+2o,3]
        x = x.unfold(1, w, p).unfold(2, w, p).permute(0, 1, 2, 4, 5, 3)  # [B,S/p,S/p,w,w,3]
        return x.reshape(len(image), -1, 3 * w * w)  # [B,P,3ww]
    b, s = image.shape[:2]
    x = image.reshape(b, s // p, p, s // p, p, 3).transpose(2, 3)  # [B,S/p,S/p,p,p,3]
    return x.reshape(b, (s // p) ** 2, p * p * 3)  # [B,P,3pp]


def unpatchify(x: Tensor, p: int, overlap: int = 0) -> Tensor:
    """[B,P,3ww] -> [B,S,S,3]: the inverse of patchify; windows that overlap are added up."""
    if overlap:
        w, side = p + 2 * overlap, math.isqrt(x.shape[1]) * p
        x = x.unflatten(-1, (w * w, 3)).permute(0, 3, 2, 1).flatten(1, 2)  # [B,3ww,P]
        return functional.fold(x, (side, side), w, padding=overlap, stride=p).permute(0, 2, 3, 1)  # [B,S,S,3]
    b, g = len(x), math.isqrt(x.shape[1])
    x = x.reshape(b, g, g, p, p, 3).transpose(2, 3)  # [B,g,p,g,p,3]
    return x.reshape(b, g * p, g * p, 3)  # [B,S,S,3]


def convolve(linear: nn.Linear, x: Tensor) -> Tensor:
    """x [B,S,S,3], zeros around it, through a linear over 3 x 3 windows (row, column, channel)."""
    size = x.shape[1]
    x = functional.pad(x, (0, 0, 1, 1, 1, 1))  # [B,S+2,S+2,3]
    windows = [x[:, i : i + size, j : j + size] for i in range(3) for j in range(3)]
    return linear(torch.cat(windows, dim=-1))  # [B,S,S,3]


class TexTok(nn.Module):
    """Tokenizer and detokenizer under one state_dict."""

    def __init__(self, config: Mapping[str, Any] | TexTokConfig) -> None:
        super().__init__()
        self.config = full_config(config, TexTokConfig)
        self.latent_dim = self.config["latent_dim"]
        self.tokenizer = Tokenizer(self.config)
        self.detokenizer = Detokenizer(self.config)
        init_weights(self)

    def encode(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        trace: Trace = None,
    ) -> Tensor:
        """image [B,S,S,3] -> latents [B,N,d] (with kl: their means; with a codebook: soft codes)."""
        moments = self.tokenizer(image, text, text_lengths, labels, trace)  # [B,N,d or 2d]
        return self.tokenizer.quantize(moments[..., : self.latent_dim])  # [B,N,d]

    def decode(
        self,
        latents: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        trace: Trace = None,
    ) -> Tensor:
        """latents [B,N,d] -> image [B,S,S,3], not clipped."""
        return self.detokenizer(latents, text, text_lengths, labels, trace)

    def forward(
        self, image: Tensor, text: Tensor | None = None, text_lengths: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """image [B,S,S,3] -> its reconstruction [B,S,S,3]."""
        z = self.encode(image, text, text_lengths, labels)  # [B,N,d]
        return self.decode(z, text, text_lengths, labels)  # [B,S,S,3]


class TimestepEmbedder(nn.Module):
    """Timestep to vector: cosines and sines of many frequencies, Linear, SiLU, Linear."""

    def __init__(self, freq_dim: int, width: int, shift: int) -> None:
        super().__init__()
        half = freq_dim // 2
        freqs = torch.exp(-math.log(1e4) / (half - shift) * torch.arange(half, dtype=torch.float64))
        self.freqs = freqs  # [freq_dim/2], kept in float64 and out of the state_dict
        self.mlp = nn.Sequential(nn.Linear(freq_dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """t [B] -> [B,D]; the angles are taken in float64."""
        angles = t.double()[:, None] * self.freqs.to(t.device)  # [B,freq_dim/2]
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)  # [B,freq_dim]
        return self.mlp(waves.to(dtype))  # [B,D]


class LabelEmbedder(nn.Module):
    """Class to vector; the last row is the null class."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        """labels [B] -> [B,D]."""
        return self.embedding_table(labels)


def modulation(width: int, parts: int) -> nn.Sequential:
    """SiLU and Linear: the conditioning vector [B,D] to `parts` rows of D."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x [B,T,D] with shift and scale [B,D]."""
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Transformer block whose norms are modulated, and whose halves are gated, by the condition."""

    def __init__(self, width: int, num_heads: int, hidden: int, eps: float, mlp_eps: float, cross: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.attn = SelfAttention(width, num_heads)
        if cross:
            self.norm_cross: nn.LayerNorm | None = nn.LayerNorm(width, eps=eps)
            self.cross: CrossAttention | None = CrossAttention(width, num_heads)
        else:
            self.norm_cross = self.cross = None
        self.norm2 = nn.LayerNorm(width, eps=mlp_eps, elementwise_affine=False)
        self.mlp = Mlp(width, hidden, "tanh")
        self.adaLN_modulation = modulation(width, 6)

    def forward(
        self, x: Tensor, c: Tensor, text: Tensor | None, text_mask: Tensor | None, trace: Trace = None, name: str = ""
    ) -> Tensor:
        """x [B,T,D], c [B,D], text [B,t,D] -> [B,T,D]."""
        rows = self.adaLN_modulation(c).chunk(6, dim=-1)  # [B,D] each
        shift1, scale1, gate1, shift2, scale2, gate2 = rows
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1))  # [B,T,D]
        note(trace, f"{name}.attn", x)
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.cross(self.norm_cross(x), text, text_mask)  # [B,T,D]
            note(trace, f"{name}.cross", x)
        x = x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))  # [B,T,D]
        note(trace, name, x)
        return x


class FinalLayer(nn.Module):
    """Modulated norm and the last linear."""

    def __init__(self, width: int, out_channels: int, eps: float) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, x: Tensor, c: Tensor, trace: Trace = None) -> Tensor:
        """x [B,T,D], c [B,D] -> [B,T,out]."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)  # [B,D] each
        x = modulate(self.norm_final(x), shift, scale)  # [B,T,D]
        note(trace, "final", x)
        return self.linear(x)  # [B,T,out]


def latent_patches(x: Tensor, p: int) -> Tensor:
    """[B,C,S,S] -> [B,T,Cpp], order channel, row, column within a patch."""
    x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # [B,C,S/p,p,S/p,p]
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B,T,Cpp]


def latent_image(x: Tensor, p: int) -> Tensor:
    """[B,T,ppC], order row, column, channel within a patch -> [B,C,S,S]."""
    grid = math.isqrt(x.shape[1])
    x = x.unflatten(1, (grid, grid)).unflatten(3, (p, p, -1))  # [B,S/p,S/p,p,p,C]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # [B,C,S,S]


class DiT(nn.Module):
    """Diffusion transformer over tokens or the patches of latent images, on a class or on text."""

    def __init__(self, config: Mapping[str, Any] | DiTConfig) -> None:
        super().__init__()
        self.config = config = full_config(config, DiTConfig)
        width, channels, area = config["hidden_size"], config["in_channels"], config["patch_size"] ** 2
        self.by_text = {"class": False, "text": True}[config["condition"]]
        self.x_embedder = nn.Linear(channels * area, width)
        self.pos_embed = nn.Parameter(torch.empty(config["num_tokens"], width))
        self.t_embedder = TimestepEmbedder(config["time_freq_dim"], width, config["time_freq_shift"])
        if self.by_text:
            shape = (config["num_text_tokens"], config["text_dim"])
            self.null_text = nn.Parameter(torch.empty(shape))
            self.text_proj = nn.Linear(config["text_dim"], width)
            self.text_pool = nn.Linear(config["text_dim"], width)
        else:
            self.y_embedder = LabelEmbedder(config["num_classes"], width)
        hidden = round(width * config["mlp_ratio"])
        eps, mlp_eps = config["norm_eps"], config["mlp_norm_eps"]
        mlp_eps = eps if mlp_eps is None else mlp_eps
        self.blocks = nn.ModuleList(
            DiTBlock(width, config["num_heads"], hidden, eps, mlp_eps, self.by_text) for _ in range(config["depth"])
        )
        out = 2 * channels if config["learn_sigma"] else channels
        self.final_layer = FinalLayer(width, out * area, eps)
        init_weights(self)

    def mix_null(self, text: Tensor, lengths: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
        """text [B,t,Dt], lengths [B], null bool [B] -> [B,Nt,Dt], [B]: null rows replaced.

        The null text has its full length Nt, so the others are padded to it.
        """
        full = self.config["num_text_tokens"]
        text = functional.pad(text, (0, 0, 0, full - text.shape[1]))  # [B,Nt,Dt]
        text = torch.where(null[:, None, None], self.null_text.to(text.dtype), text)  # [B,Nt,Dt]
        return text, torch.where(null, full, lengths)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        null: Tensor | None = None,
        trace: Trace = None,
    ) -> Tensor:
        """x [B,N,C] and t [B] -> [B,N,C] or, where sigma is learned, [B,N,2C].

        With input_size x is [B,C,S,S], and so is the result, of C or 2C channels.
        On a class: labels [B], where num_classes is the null class. On text: text [B,t,Dt],
        text_lengths [B] (None: t for all) and null bool [B], the rows that take the null text.
        """
        rows = text_mask = None
        p = self.config["patch_size"]
        tokens = latent_patches(x, p) if self.config["input_size"] else x  # [B,N,Cpp]
        h = self.x_embedder(tokens) + self.pos_embed  # [B,N,D]
        c = self.t_embedder(t.double() * self.config["time_scale"], x.dtype)  # [B,D]
        if self.by_text:
            assert text is not None, "text: expected [B,t,Dt], which this model takes, got None"
            if text_lengths is None:
                text_lengths = torch.full((len(text),), text.shape[1], device=text.device)  # [B]
            if null is not None:
                text, text_lengths = self.mix_null(text, text_lengths, null)  # [B,t,Dt], [B]
            places = torch.arange(text.shape[1], device=text.device)  # [t]
            text_mask = places < text_lengths[:, None]  # [B,t]
            total = (text * text_mask[..., None]).sum(dim=1)  # [B,Dt]
            c = c + self.text_pool(total / text_lengths[:, None].to(total.dtype))  # [B,D]
            rows = self.text_proj(text)  # [B,t,D]
        else:
            c = c + self.y_embedder(labels)  # [B,D]
        note(trace, "embed", h)
        note(trace, "c", c)
        for i, block in enumerate(self.blocks):
            h = block(h, c, rows, text_mask, trace, f"blocks.{i}")  # [B,N,D]
        h = self.final_layer(h, c, trace)  # [B,N,pp(C or 2C)]
        return latent_image(h, p) if self.config["input_size"] else h


def grid_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of the places of a side x side grid over [0,1]^2: float32 [side*side,width].

    Near places have similar rows; a coarser grid's places are comparable with a finer one's.
    """
    quarter = width // 4
    places = (torch.arange(side) + 0.5) / side  # [side]
    freqs = 2 * math.pi * 0.5 * 16 ** (torch.arange(quarter) / quarter)  # [D/4]
    angles = places[:, None] * freqs  # [side,D/4]
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)  # [side,D/2]
    rows = waves[:, None].expand(-1, side, -1)  # [side,side,D/2]
    columns = waves[None].expand(side, -1, -1)  # [side,side,D/2]
    out = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # [side*side,2*(D/2)]
    return functional.pad(out, (0, width - out.shape[1]))  # [side*side,D]


def init_weights(model: nn.Module) -> None:
    """Starting weights.

    Linears are Xavier draws, DiT's gates and last layers zeros. Where patches or latents form a
    grid their positions start as waves over it, so that nearness is there to be attended to, and
    in TexTok keys start equal to queries: at first like attends to like. What cross-attention adds
    starts as nothing: captions are noise until they are understood, and a TexTok whose text was
    heard from the first step fell behind its Baseline and stayed there (experiments/pictures).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for module in model.modules():
        if isinstance(module, (Side, DiT)):
            for parameter in module.parameters(recurse=False):  # positions, learnt tokens, registers, classes, null text
                nn.init.normal_(parameter, std=0.02)
        elif isinstance(module, CrossAttention):
            nn.init.zeros_(module.proj.weight)
    for side in model.modules():
        if isinstance(side, Side):
            init_side(side)
    if isinstance(model, DiT):
        for module in [*model.blocks, model.final_layer]:
            last = cast(nn.Linear, cast(nn.Sequential, module.adaLN_modulation)[1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        nn.init.zeros_(model.final_layer.linear.weight)
        add_grid(model.pos_embed, 0, len(model.pos_embed))
        for layer in (model.t_embedder.mlp[0], model.t_embedder.mlp[2]):
            nn.init.normal_(cast(nn.Linear, layer).weight, std=0.02)


def grid_angles(places: int, pairs: int) -> Tensor:
    """Angles [P,pairs] of `places` on a square grid: the column times falling frequencies in the first half, the row in the
    second."""
    side, half = math.isqrt(places), (pairs + 1) // 2
    freqs = 10.0 ** -(torch.arange(half) / half)  # [half]
    index = torch.arange(places)
    return torch.cat([(index % side)[:, None] * freqs, (index // side)[:, None] * freqs], dim=1)[:, :pairs]  # [P,pairs]


@torch.no_grad()
def add_grid(positions: nn.Parameter, start: int, count: int) -> None:
    """Adds the waves of a square grid to `count` rows of positions [T,D], where they are a square."""
    grid = math.isqrt(count)
    if grid * grid == count:
        positions[start : start + count] += grid_waves(grid, positions.shape[1])


@torch.no_grad()
def init_side(side: Side) -> None:
    """Positions as waves over a grid, rotary angles growing along it, keys like queries."""
    if side.rope is not None:
        for angles in side.rope:
            angles.copy_(grid_angles(side.num_patches, angles.shape[2]))
    add_grid(side.pos_embed, 0, side.num_patches)
    add_grid(side.pos_embed, side.num_patches, side.num_latents)
    for block in cast(list[Block], list(side.blocks)):
        query, key, _ = block.attn.qkv.weight.chunk(3)
        key.copy_(query)
