"""Configurations of the models: the only place with their defaults and their checks.

`TexTokConfig` and `DiTConfig` are frozen dataclasses whose fields are the keys of a checkpoint's `config.json`. Every field is
checked when one is made, so code below this module, the C engine included, takes whole and sensible configurations for granted.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Self

from .errors import ConfigError, shown

# No model of this kind comes near these sizes. They keep a mistyped or hostile file from asking for absurd amounts of memory,
# and products of sizes within 64 bits.
MAX_IMAGE_SIZE = 16384
MAX_PATCH_SIZE = 128
MAX_WIDTH = 65536
MAX_DEPTH = 1024
MAX_TOKENS = 1 << 20
MAX_CLASSES = 1 << 24
MAX_TIMESTEPS = 100_000

TEXT_FAMILIES = ("t5", "bert", "clip")
TEXT_ACTIVATIONS = ("relu", "gelu_erf", "gelu_tanh", "quick_gelu", "silu")

# exp(-46) = 1e-20: below that the noisiest step's signal is lost in float32.
MIN_LOG_ALPHA = -46.0


def _fail(where: str, expected: str, value: object) -> ConfigError:
    return ConfigError(f"{where}: expected {expected}, got {shown(value)}")


def _integer(where: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise _fail(where, f"an integer from {low} to {high}", value)
    return int(value)


def _number(where: str, value: object, low: float, high: float) -> float:
    # NaN compares false.
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:  # type: ignore[operator]
        raise _fail(where, f"a number from {low:g} to {high:g}", value)
    return float(value)


def _flag(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _fail(where, "true or false", value)
    return value


def _choice(where: str, value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise _fail(where, " or ".join(repr(choice) for choice in choices), value)
    return value


def _absent(where: str, value: object, case: str) -> int:
    if isinstance(value, bool) or value not in (0, None):
        raise _fail(where, f"0 where {case}", value)
    return 0


def _with_use(values: dict[str, Any], use: "EncoderUse | None") -> dict[str, Any]:
    return values if use is None else values | {"text_encoder": use.to_dict()}


def _check_width(where: str, config: Any) -> None:
    """Width, heads, depth and MLP width of a transformer: the fields that `SideConfig` and `DiTConfig` share."""
    width = _integer(f"{where}hidden_size", config.hidden_size, 1, MAX_WIDTH)
    heads = _integer(f"{where}num_heads", config.num_heads, 1, width)
    if width % heads:
        raise _fail(f"{where}num_heads", f"a divisor of {where}hidden_size, {width}", heads)
    ratio = _number(f"{where}mlp_ratio", config.mlp_ratio, 1e-3, 64)
    if abs(width * ratio - round(width * ratio)) > 1e-6 or not 1 <= round(width * ratio) <= MAX_WIDTH * 4:
        raise _fail(
            f"{where}mlp_ratio",
            f"a number that times {where}hidden_size, {width}, is a whole MLP width up to {MAX_WIDTH * 4}",
            config.mlp_ratio,
        )
    depth = _integer(f"{where}depth", config.depth, 1, MAX_DEPTH)
    for name, value in (("hidden_size", width), ("num_heads", heads), ("mlp_ratio", ratio), ("depth", depth)):
        object.__setattr__(config, name, value)


def _fields_from(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as keyword arguments of `cls`; an unknown or missing key is an error that names it."""
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = [key for key in values if key not in known]
    if unknown:
        import difflib  # here and not above: `import textok` stays quick

        hints = []
        for key in unknown[:5]:
            shown = str(key)[:40]
            near = difflib.get_close_matches(shown, known, n=1, cutoff=0.5)
            hints.append(f"{where}{shown}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        hints += [f"{len(unknown) - 5} more"] if len(unknown) > 5 else []
        raise ConfigError(f"unknown config key{'s' * (len(unknown) > 1)}: {', '.join(hints)}; known are {', '.join(known)}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values
    ]
    if missing:
        raise ConfigError(f"config key{'s' * (len(missing) > 1)} missing: {', '.join(where + name for name in missing)}")
    return dict(values)


def _without_model_type(values: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"config: expected a dict as in config.json, got {type(values).__name__}")
    rest = dict(values)
    found = rest.pop("model_type", model_type)
    if found != model_type:
        raise _fail("model_type", repr(model_type), found)
    return rest


@dataclass(frozen=True)
class SideConfig:
    """Sizes of one of TexTok's two transformers.

    Parameters
    ----------
    hidden_size
        Width D of every token.
    depth
        Number of blocks.
    num_heads
        Attention heads; a divisor of `hidden_size`.
    mlp_ratio
        Width of the MLP over D; their product is a whole number.
    """

    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        _check_width("", self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """From a dict as in `config.json`; `where` goes before a field's name in errors."""
        if not isinstance(where, str):
            raise TypeError(f"where: expected a string, got {type(where).__name__} {shown(where)}")
        if not isinstance(values, Mapping):
            raise _fail(where.rstrip("."), "an object with hidden_size, depth, num_heads, mlp_ratio", values)
        fields = _fields_from(cls, values, where)
        try:
            return cls(**fields)
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Every key, as `config.json` has them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class CodebookConfig:
    """The soft codebooks of SoftVQ-VAE (arXiv 2412.10958).

    Parameters
    ----------
    runs, size
        The latent tokens stand in so many equal runs, each with a codebook of `size` codes of its own.
    tau
        Temperature of the softmax over codes.
    l2_norm
        Whether tokens and codes are scaled to unit length.
    """

    runs: int = 1
    size: int = 8192
    tau: float = 0.07
    l2_norm: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", _integer("runs", self.runs, 1, MAX_TOKENS))
        object.__setattr__(self, "size", _integer("size", self.size, 1, MAX_TOKENS))
        object.__setattr__(self, "tau", _number("tau", self.tau, 1e-6, 1e6))
        object.__setattr__(self, "l2_norm", _flag("l2_norm", self.l2_norm))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a dict of the fields; missing keys have their defaults."""
        if not isinstance(values, Mapping):
            raise _fail("codebook", "an object with runs, size, tau, l2_norm, or null", values)
        fields = _fields_from(cls, values, "codebook.")
        try:
            return cls(**fields)
        except ConfigError as error:
            raise ConfigError(f"codebook.{error}") from None


@dataclass(frozen=True)
class EncoderUse:
    """The text encoder whose embeddings a model was trained on: its config's `text_encoder`.

    Parameters
    ----------
    name
        What `TextEncoder.from_pretrained` takes: a bundled encoder's name, a folder, or an address of a hub.
    identity
        `TextEncoder.identity` of the encoder; "" where it is not known.
    max_tokens
        Captions longer than that are cut; None for the model's `num_text_tokens`.
    end_token
        Whether captions carry the tokenizer's special tokens.
    pad_to, pad_token
        Where the model takes the states of padding too, as TA-TiTok does: how many tokens captions are filled up to, and with
        which number, None for the tokenizer's own. None: captions are not filled up.
    """

    name: str
    identity: str = ""
    max_tokens: int | None = None
    end_token: bool = True
    pad_to: int | None = None
    pad_token: int | None = None

    def __post_init__(self) -> None:
        for name in ("name", "identity"):
            if not isinstance(getattr(self, name), str) or (name == "name" and not self.name):
                raise _fail(name, "a string", getattr(self, name))
        if self.max_tokens is not None:
            object.__setattr__(self, "max_tokens", _integer("max_tokens", self.max_tokens, 1, MAX_TOKENS))
        _flag("end_token", self.end_token)
        if self.pad_to is not None:
            object.__setattr__(self, "pad_to", _integer("pad_to", self.pad_to, self.max_tokens or 1, MAX_TOKENS))
        if self.pad_token is not None:
            if self.pad_to is None:
                raise _fail("pad_token", "null where pad_to is null", self.pad_token)
            object.__setattr__(self, "pad_token", _integer("pad_token", self.pad_token, 0, MAX_CLASSES))

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` has it: padding only where there is some."""
        values = dataclasses.asdict(self)
        return values if self.pad_to is not None else {key: v for key, v in values.items() if not key.startswith("pad_")}

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """From what a config has under `text_encoder`: an object, None, or one of these."""
        if value is None or isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise _fail("text_encoder", "an object with name, identity, max_tokens, end_token", value)
        fields = _fields_from(cls, value, "text_encoder.")
        try:
            return cls(**fields)
        except ConfigError as error:
            raise ConfigError(f"text_encoder.{error}") from None


@dataclass(frozen=True)
class TexTokConfig:
    """Everything that determines a TexTok's shapes and arithmetic, apart from its weights.

    Parameters
    ----------
    image_size, patch_size
        Side S of the square images and p of the square patches, in pixels; p divides S.
    patch_overlap
        Pixels, at most p / 2, by which the window of a patch reaches into its neighbours on every side: the tokenizer reads
        such windows, and those of the detokenizer are added up. Half a patch leaves no seams; it costs two small layers four
        times their size.
    num_latent_tokens, latent_dim
        N tokens of d numbers that an image becomes.
    text_dim, num_text_tokens
        Width Dt of the text embeddings and the most rows Nt of a caption.
    text_mask
        Whether padded text rows are left out of attention.
    text_condition
        Which sides see the text: "both", "tokenizer", "detokenizer" or "none".
    text_injection
        "in_context": text tokens in the sequence; "cross_attention": a cross-attention layer in every block.
    text_source
        "embedding": the caller's embeddings; "class": a learned table of `num_classes` rows, the one text token of an image
        (then `num_text_tokens` is 1 whatever was given).
    num_classes
        Rows of that table; 0 without one.
    num_registers, detokenizer_registers, input_norm, output_conv
        Learned tokens of each side that are only attended to, such as a class token, and whether the detokenizer has them too;
        whether a layer norm stands before the first block; whether a 3 x 3 convolution over the pixels stands at the end.
        TiTok has one, true, true and true.
    rope
        None, or {"rows": "patches"}: rotary positions, learned angles by block, head, patch and pair of columns, turn queries
        and keys of the patch rows (MAETok).
    codebook
        None, or a `CodebookConfig`, or a dict of its fields: `encode` gives each token as a soft mean of codes (SoftVQ-VAE).
    latent_mean, latent_std
        What generators over the latents take them by, (z - mean) / std, where whoever made the tokenizer says it: one number a
        channel, or one for all. `encode` and `decode` take no account of it; a pipeline's generator gets it.
    norm_eps, gelu, qkv_bias, output_activation, kl
        Epsilon of the layer norms; "erf" or "tanh" GELU; bias of the QKV projections; "none" or "tanh" on the pixels; whether
        the latent projection has a mean and a log-variance half, of which `encode` returns the mean.
    tokenizer, detokenizer
        `SideConfig` of each side, or a dict of its fields.
    text_encoder
        The encoder of the captions, an `EncoderUse` or a dict of its fields, with which calls take `captions`; None where it is
        not named.

    Raises
    ------
    ConfigError
        A value of the wrong type, out of range, or that does not fit the others; says what came and what was expected.

    Notes
    -----
    Defaults are the design point of TexTok (arXiv 2412.05796): ViT-Base on both sides at 256 pixels.
    """

    image_size: int = 256
    patch_size: int = 8
    num_latent_tokens: int = 128
    latent_dim: int = 8
    text_dim: int = 2048
    num_text_tokens: int = 128
    text_mask: bool = False
    text_condition: str = "both"
    text_injection: str = "in_context"
    text_source: str = "embedding"
    num_classes: int = 0
    num_registers: int = 0
    detokenizer_registers: bool = True
    input_norm: bool = False
    output_conv: bool = False
    norm_eps: float = 1e-6
    gelu: str = "erf"
    qkv_bias: bool = True
    output_activation: str = "none"
    kl: bool = False
    rope: Mapping[str, str] | None = None
    codebook: CodebookConfig | None = None
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None
    patch_overlap: int = 0
    tokenizer: SideConfig = field(default_factory=SideConfig)
    detokenizer: SideConfig = field(default_factory=SideConfig)
    text_encoder: EncoderUse | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {}
        checked["image_size"] = _integer("image_size", self.image_size, 1, MAX_IMAGE_SIZE)
        checked["patch_size"] = _integer("patch_size", self.patch_size, 1, MAX_PATCH_SIZE)
        if checked["image_size"] % checked["patch_size"]:
            raise _fail("patch_size", f"a divisor of image_size, {self.image_size}", self.patch_size)
        if (checked["image_size"] // checked["patch_size"]) ** 2 > MAX_TOKENS:
            raise _fail(
                "patch_size", f"at most {MAX_TOKENS} patches of an image of {self.image_size} pixels a side", self.patch_size
            )
        checked["patch_overlap"] = _integer("patch_overlap", self.patch_overlap, 0, checked["patch_size"] // 2)
        checked["num_latent_tokens"] = _integer("num_latent_tokens", self.num_latent_tokens, 1, MAX_TOKENS)
        checked["latent_dim"] = _integer("latent_dim", self.latent_dim, 1, MAX_WIDTH)
        checked["text_dim"] = _integer("text_dim", self.text_dim, 1, MAX_WIDTH)
        checked["num_text_tokens"] = _integer("num_text_tokens", self.num_text_tokens, 1, MAX_TOKENS)
        checked["text_mask"] = _flag("text_mask", self.text_mask)
        checked["text_condition"] = _choice("text_condition", self.text_condition, ("both", "tokenizer", "detokenizer", "none"))
        checked["text_injection"] = _choice("text_injection", self.text_injection, ("in_context", "cross_attention"))
        checked["text_source"] = _choice("text_source", self.text_source, ("embedding", "class"))
        if self.text_source == "class":
            checked["num_classes"] = _integer('num_classes (with text_source "class")', self.num_classes, 1, MAX_CLASSES)
            checked["num_text_tokens"] = 1
        else:
            checked["num_classes"] = _absent("num_classes", self.num_classes, 'text_source is "embedding"')
        checked["num_registers"] = _integer("num_registers", self.num_registers, 0, MAX_TOKENS)
        checked["detokenizer_registers"] = _flag("detokenizer_registers", self.detokenizer_registers)
        checked["input_norm"] = _flag("input_norm", self.input_norm)
        checked["output_conv"] = _flag("output_conv", self.output_conv)
        checked["norm_eps"] = _number("norm_eps", self.norm_eps, 1e-12, 0.1)
        checked["gelu"] = _choice("gelu", self.gelu, ("erf", "tanh"))
        checked["qkv_bias"] = _flag("qkv_bias", self.qkv_bias)
        checked["output_activation"] = _choice("output_activation", self.output_activation, ("none", "tanh"))
        checked["kl"] = _flag("kl", self.kl)
        for side in ("tokenizer", "detokenizer"):
            value = getattr(self, side)
            checked[side] = value if isinstance(value, SideConfig) else SideConfig.from_dict(value, f"{side}.")
        if self.rope is not None:
            checked["rope"] = self._checked_rope(checked["tokenizer"], checked["detokenizer"])
        if self.codebook is not None:
            value = self.codebook
            checked["codebook"] = value if isinstance(value, CodebookConfig) else CodebookConfig.from_dict(value)
            if checked["num_latent_tokens"] % checked["codebook"].runs:
                runs = checked["codebook"].runs
                raise _fail("codebook.runs", f"a divisor of num_latent_tokens, {self.num_latent_tokens}", runs)
        if self.latent_mean is not None:
            checked["latent_mean"] = _per_channel("latent_mean", self.latent_mean, checked["latent_dim"], -1e6, 1e6)
        if self.latent_std is not None:
            checked["latent_std"] = _per_channel("latent_std", self.latent_std, checked["latent_dim"], 1e-6, 1e6)
        checked["text_encoder"] = EncoderUse.of(self.text_encoder)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _checked_rope(self, *sides: SideConfig) -> dict[str, str]:
        if not isinstance(self.rope, Mapping) or dict(self.rope) != {"rows": "patches"}:
            raise _fail("rope", '{"rows": "patches"} or null', self.rope)
        for side in sides:
            if side.hidden_size // side.num_heads % 2:
                raise _fail("rope", "heads of an even number of columns", side.hidden_size // side.num_heads)
        return {"rows": "patches"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a dict as in `config.json`; missing keys have their defaults, `model_type` may be left out."""
        return cls(**_fields_from(cls, _without_model_type(values, "textok"), ""))

    def to_dict(self) -> dict[str, Any]:
        """Every key, as `config.json` has them."""
        return _with_use({"model_type": "textok"} | dataclasses.asdict(self), self.text_encoder)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))  # `rope` is a dict, which has no hash of its own

    @property
    def num_patches(self) -> int:
        """Patch tokens P of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(N, d), the shape of one image's latents."""
        return self.num_latent_tokens, self.latent_dim

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, 3)."""
        return self.image_size, self.image_size, 3

    def has_text(self, side: str) -> bool:
        """Whether "tokenizer" or "detokenizer" sees the text (or the class that stands in for it)."""
        return self.text_condition in ("both", side)


@dataclass(frozen=True)
class DiTConfig:
    """Everything that determines a DiT's shapes, arithmetic and diffusion, apart from its weights.

    Parameters
    ----------
    num_tokens, in_channels
        N tokens of C numbers: the shape of a sample, a TexTok's `num_latent_tokens` and `latent_dim`. With `input_size`, C is
        the channels of a latent image, and N its patches, which may be left out.
    hidden_size, depth, num_heads, mlp_ratio
        Sizes of the transformer, as in `SideConfig`.
    num_classes
        Classes of the label table, which has one row more for the null class; 0 where `condition` is "text". Default 1000 or 0.
    null_class
        Whether that row was trained: false for a model without class dropout, which cannot be guided.
    learn_sigma
        Whether the model predicts a variance beside each channel.
    norm_eps, mlp_norm_eps
        Epsilon of the layer norms; of the one before the MLP, where it differs (diffusers' 1e-5), else None.
    time_freq_dim, time_freq_shift
        Width of the sinusoidal time embedding, even; its frequencies are 1e4^(-i / (time_freq_dim / 2 - time_freq_shift)), with
        a shift of 0 or, as in diffusers, 1.
    condition
        "class" or "text" (DiT-T2I: a cross-attention layer in every block).
    text_dim, num_text_tokens
        With "text": width Dt of the text embeddings and the most rows Nt of a caption. 0 otherwise.
    patch_size, input_size
        With `input_size` S the model is the original DiT: a sample is a latent image [C,S,S], its tokens are patches of p x p,
        and p divides S. None: a sample is N tokens, and `patch_size` is 1.
    guidance_channels
        How many of the first channels classifier-free guidance covers; None for all.
    latent_mean, latent_std
        One number a channel (or one for all): the model works on (z - mean)/std.
    num_train_timesteps, beta_start, beta_end, beta_schedule, prediction
        The diffusion: T steps with betas of a "linear" or a "cosine" schedule (which looks at neither beta_start nor beta_end);
        what the model predicts, "epsilon", "v" or "sample"; or, with flow matching, the "velocity" noise - z of
        x_t = (1 - t) z + t noise at times t from 0 to 1, where betas mean nothing.
    time_scale
        What a time is multiplied with before it is embedded.
    text_encoder
        With "text": the encoder of the captions, as in `TexTokConfig`.

    Raises
    ------
    ConfigError
        A value of the wrong type, out of range, or that does not fit the others; says what came and what was expected.

    Notes
    -----
    Defaults are DiT-XL of Peebles and Xie (arXiv 2212.09748), over tokens. Their DiT-XL/2 for 256 pixels is
    `DiTConfig(in_channels=4, patch_size=2, input_size=32, guidance_channels=3)`.
    """

    num_tokens: int = None  # type: ignore[assignment]  # None becomes the patches of input_size
    in_channels: int = 8
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = None  # type: ignore[assignment]  # None becomes 1000 or 0
    null_class: bool = True
    learn_sigma: bool = True
    norm_eps: float = 1e-6
    mlp_norm_eps: float | None = None
    time_freq_dim: int = 256
    time_freq_shift: int = 0
    condition: str = "class"
    text_dim: int = 0
    num_text_tokens: int = 0
    patch_size: int = 1
    input_size: int | None = None
    guidance_channels: int | None = None
    latent_mean: tuple[float, ...] | float = 0.0
    latent_std: tuple[float, ...] | float = 1.0
    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    prediction: str = "epsilon"
    time_scale: float = 1.0
    text_encoder: EncoderUse | None = None

    def __post_init__(self) -> None:
        _check_width("", self)
        checked: dict[str, Any] = {}
        checked["num_tokens"] = self._checked_tokens()
        checked["in_channels"] = channels = _integer("in_channels", self.in_channels, 1, MAX_WIDTH)
        checked["learn_sigma"] = _flag("learn_sigma", self.learn_sigma)
        checked["null_class"] = _flag("null_class", self.null_class)
        checked["norm_eps"] = _number("norm_eps", self.norm_eps, 1e-12, 0.1)
        if self.mlp_norm_eps is not None:
            checked["mlp_norm_eps"] = _number("mlp_norm_eps", self.mlp_norm_eps, 1e-12, 0.1)
        checked["time_freq_shift"] = shift = _integer("time_freq_shift", self.time_freq_shift, 0, 1)
        checked["time_freq_dim"] = _integer("time_freq_dim", self.time_freq_dim, 2 + 2 * shift, MAX_WIDTH)
        if self.time_freq_dim % 2:
            raise _fail("time_freq_dim", "an even number", self.time_freq_dim)
        checked["condition"] = _choice("condition", self.condition, ("class", "text"))
        checked |= self._checked_condition()
        if self.guidance_channels is not None:
            checked["guidance_channels"] = _integer("guidance_channels", self.guidance_channels, 1, channels)
        checked["latent_mean"] = _per_channel("latent_mean", self.latent_mean, channels, -1e6, 1e6)
        checked["latent_std"] = _per_channel("latent_std", self.latent_std, channels, 1e-6, 1e6)
        checked["num_train_timesteps"] = steps = _integer("num_train_timesteps", self.num_train_timesteps, 1, MAX_TIMESTEPS)
        checked["beta_start"] = low = _number("beta_start", self.beta_start, 1e-8, 0.999)
        checked["beta_end"] = high = _number("beta_end", self.beta_end, low, 0.999)
        checked["beta_schedule"] = _choice("beta_schedule", self.beta_schedule, ("linear", "cosine"))
        checked["prediction"] = _choice("prediction", self.prediction, ("epsilon", "v", "sample", "velocity"))
        checked["text_encoder"] = EncoderUse.of(self.text_encoder)
        checked["time_scale"] = _number("time_scale", self.time_scale, 1e-6, 1e6)
        betas_count = self.beta_schedule == "linear" and self.prediction != "velocity"
        if betas_count and steps * (math.log1p(-low) + math.log1p(-high)) / 2 < MIN_LOG_ALPHA:
            raise _fail(
                "num_train_timesteps, beta_start, beta_end",
                f"a schedule whose last step keeps some of the signal (log of the cumulative alpha above {MIN_LOG_ALPHA:g})",
                (steps, low, high),
            )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _checked_tokens(self) -> int:
        """Checks patch_size and input_size too."""
        if self.input_size is None:
            if self.patch_size != 1:
                raise _fail("patch_size", "1 without input_size, the side of a latent image", self.patch_size)
            if self.num_tokens is None:
                raise ConfigError("config key missing: num_tokens (or input_size, for a DiT over latent images)")
            return _integer("num_tokens", self.num_tokens, 1, MAX_TOKENS)
        size = _integer("input_size", self.input_size, 1, MAX_IMAGE_SIZE)
        patch = _integer("patch_size", self.patch_size, 1, min(size, MAX_PATCH_SIZE))
        if size % patch:
            raise _fail("patch_size", f"a divisor of input_size, {size}", patch)
        tokens = (size // patch) ** 2
        if tokens > MAX_TOKENS:
            raise _fail("patch_size", f"at most {MAX_TOKENS} patches of a latent image of {size} a side", patch)
        if self.num_tokens not in (None, tokens):
            raise _fail(
                "num_tokens", f"the {tokens} patches of input_size {size} and patch_size {patch}, or nothing", self.num_tokens
            )
        return tokens

    def _checked_condition(self) -> dict[str, Any]:
        if self.condition == "class":
            classes = 1000 if self.num_classes is None else self.num_classes
            return {
                "num_classes": _integer("num_classes", classes, 1, MAX_CLASSES),
                "text_dim": _absent("text_dim", self.text_dim, 'condition is "class"'),
                "num_text_tokens": _absent("num_text_tokens", self.num_text_tokens, 'condition is "class"'),
            }
        return {
            "num_classes": _absent("num_classes", self.num_classes, 'condition is "text"'),
            "text_dim": _integer('text_dim (with condition "text")', self.text_dim, 1, MAX_WIDTH),
            "num_text_tokens": _integer('num_text_tokens (with condition "text")', self.num_text_tokens, 1, MAX_TOKENS),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a dict as in `config.json`; missing keys have their defaults, `model_type` may be left out."""
        return cls(**_fields_from(cls, _without_model_type(values, "dit"), ""))

    def to_dict(self) -> dict[str, Any]:
        """Every key, as `config.json` has them."""
        values = _with_use({"model_type": "dit"} | dataclasses.asdict(self), self.text_encoder)
        for name in ("latent_mean", "latent_std"):
            values[name] = list(values[name])
        return values

    @property
    def last_time(self) -> float:
        """The noisiest time that the model is asked about: the last train timestep, or 1 for a velocity."""
        return 1.0 if self.prediction == "velocity" else float(self.num_train_timesteps - 1)

    @property
    def num_outputs(self) -> int:
        """Channels the model predicts: C, or 2C where it learns sigma."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (N, C), or (C, S, S) with `input_size`."""
        return self._shape(self.in_channels)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one prediction: as a sample's, with `num_outputs` channels."""
        return self._shape(self.num_outputs)

    def _shape(self, channels: int) -> tuple[int, ...]:
        return (self.num_tokens, channels) if self.input_size is None else (channels, self.input_size, self.input_size)


@dataclass(frozen=True)
class TextEncoderConfig:
    """Everything that determines a text encoder's shapes and arithmetic, apart from its weights and its vocabulary.

    Parameters
    ----------
    family
        "t5" (v1.1, Flan, the original, mT5, umT5), "bert" or "clip" (its text model). It says where norms stand and which they
        are, what has biases, and whether a token sees those after it.
    vocab_size, hidden_size, depth
        Rows of the table of tokens; width Dt of a state; blocks.
    num_heads, head_dim, mlp_size
        Attention heads and the width of one, by default hidden_size / num_heads; width of the MLP.
    activation, gated
        Of the MLP: "relu", "gelu_erf", "gelu_tanh", "quick_gelu" or "silu"; whether a second projection of its input is
        multiplied to what it gives, as in T5 v1.1.
    norm_eps
        Epsilon of the norms; by default the family's own, 1e-6, 1e-12 and 1e-5.
    max_positions, token_types
        Rows of the table of positions, which is the most tokens of a caption; 0 in T5, whose positions are relative. BERT's
        token types.
    relative_buckets, relative_distance, relative_per_block
        T5's positions: how many kinds of distance there are, from which on all are one, and whether each block has its own
        (umT5).
    projection_dim
        Width of CLIP's pooled vector; 0: the state itself.
    end_token_id
        CLIP: the token whose state is pooled; null: the first place of the largest number, as in old files.
    pad_token_id
        What `pad_to` fills up with where no tokenizer says it.
    max_tokens
        The most tokens of a caption where a call does not say.
    weights_digest
        Tells weights apart: of the weights as they were published, whatever this file holds them in. Empty: made when they are
        loaded.

    Raises
    ------
    ConfigError
        A value of the wrong type, out of range, or that does not fit the others; says what came and what was expected.
    """

    family: str
    vocab_size: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_size: int
    head_dim: int = None  # type: ignore[assignment]  # None becomes hidden_size / num_heads
    activation: str = None  # type: ignore[assignment]  # None becomes gelu_erf, or gelu_tanh in T5
    gated: bool = False
    norm_eps: float = None  # type: ignore[assignment]  # None becomes the family's
    max_positions: int = 0
    token_types: int = None  # type: ignore[assignment]  # None becomes 2 in BERT, 0 elsewhere
    relative_buckets: int = None  # type: ignore[assignment]  # None becomes 32 in T5, 0 elsewhere
    relative_distance: int = None  # type: ignore[assignment]  # None becomes 128 in T5, 0 elsewhere
    relative_per_block: bool = False
    projection_dim: int = 0
    end_token_id: int | None = None
    pad_token_id: int = 0
    max_tokens: int = None  # type: ignore[assignment]  # None becomes max_positions, or 512 in T5
    weights_digest: str = ""

    def __post_init__(self) -> None:
        family = _choice("family", self.family, TEXT_FAMILIES)
        t5, bert, clip = (family == name for name in TEXT_FAMILIES)
        c: dict[str, Any] = {}

        def sized(name: str, low: int, high: int, default: int | None, applies: bool, elsewhere: str) -> None:
            value = getattr(self, name)
            if not applies:
                c[name] = _absent(name, value, f'family is "{family}", only {elsewhere} has one')
            else:
                c[name] = _integer(name, default if value is None and default is not None else value, low, high)

        for name, most in (
            ("vocab_size", MAX_CLASSES),
            ("hidden_size", MAX_WIDTH),
            ("depth", MAX_DEPTH),
            ("num_heads", MAX_WIDTH),
        ):
            c[name] = _integer(name, getattr(self, name), 1, most)
        c["mlp_size"] = _integer("mlp_size", self.mlp_size, 1, 4 * MAX_WIDTH)
        if self.head_dim is None and c["hidden_size"] % c["num_heads"]:
            raise _fail(
                "num_heads", f"a divisor of hidden_size, {c['hidden_size']}, where head_dim is not given", self.num_heads
            )
        c["head_dim"] = _integer(
            "head_dim", self.head_dim or c["hidden_size"] // c["num_heads"], 1, MAX_WIDTH // c["num_heads"]
        )
        c["activation"] = _choice("activation", self.activation or ("gelu_tanh" if t5 else "gelu_erf"), TEXT_ACTIVATIONS)
        c["gated"] = _flag("gated", self.gated)
        if self.gated and not t5:
            raise _fail("gated", f'false where family is "{family}"', self.gated)
        eps = dict(zip(TEXT_FAMILIES, (1e-6, 1e-12, 1e-5)))[family] if self.norm_eps is None else self.norm_eps
        c["norm_eps"] = _number("norm_eps", eps, 1e-12, 0.1)
        sized("max_positions", 1, MAX_TOKENS, None, not t5, "BERT and CLIP")
        sized("token_types", 1, MAX_WIDTH, 2, bert, "BERT")
        sized("relative_buckets", 4, MAX_WIDTH, 32, t5, "T5")
        sized("relative_distance", c["relative_buckets"] // 4 + 1, MAX_TOKENS, 128, t5, "T5")
        if c["relative_buckets"] % 4:
            raise _fail("relative_buckets", "a multiple of 4", self.relative_buckets)
        c["relative_per_block"] = _flag("relative_per_block", self.relative_per_block)
        if self.relative_per_block and not t5:
            raise _fail("relative_per_block", f'false where family is "{family}"', self.relative_per_block)
        sized("projection_dim", 0, MAX_WIDTH, None, clip, "CLIP")
        last = c["vocab_size"] - 1
        c["end_token_id"] = None if self.end_token_id is None else _integer("end_token_id", self.end_token_id, 0, last)
        c["pad_token_id"] = _integer("pad_token_id", self.pad_token_id, 0, last)
        most = c["max_positions"] or MAX_TOKENS
        c["max_tokens"] = _integer("max_tokens", min(most, 512) if self.max_tokens is None else self.max_tokens, 1, most)
        if not isinstance(self.weights_digest, str):
            raise _fail("weights_digest", "a word", self.weights_digest)
        for name, value in c.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a dict as in `config.json`; missing keys have their defaults, `model_type` may be left out."""
        return cls(**_fields_from(cls, _without_model_type(values, "text_encoder"), ""))

    def to_dict(self) -> dict[str, Any]:
        """Every key, as `config.json` has them."""
        return {"model_type": "text_encoder"} | dataclasses.asdict(self)

    @property
    def pooled_dim(self) -> int:
        """Width P of CLIP's pooled vector."""
        return self.projection_dim or self.hidden_size


def _per_channel(where: str, value: object, channels: int, low: float, high: float) -> tuple[float, ...]:
    """One number for all channels or one for each, as a tuple of `channels` numbers."""
    if isinstance(value, Real):
        return (_number(where, value, low, high),) * channels
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise _fail(where, f"a number or a list of {channels}", value)
    numbers = tuple(_number(f"{where}[{i}]", number, low, high) for i, number in enumerate(value))
    if len(numbers) != channels:
        raise ConfigError(f"{where}: expected a number or a list of {channels}, one a channel, got a list of {len(numbers)}")
    return numbers
