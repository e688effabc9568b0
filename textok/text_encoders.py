"""The public name of `textok.text.torch_encoders`: captions to embeddings through transformers (extra "text-torch")."""

from .text.encoder_places import STAND_IN
from .text.torch_encoders import MAX_TOKENS, TextEncoder, load_encoder

__all__ = ["MAX_TOKENS", "STAND_IN", "TextEncoder", "load_encoder"]
