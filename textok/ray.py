"""Ray (extra "ray"): the public names of `textok.data.ray_encoder`, an actor for Ray Data, and of `textok.data.on_ray`."""

from .data.on_ray import assigned_threads, run
from .data.ray_encoder import Encoder

__all__ = ["Encoder", "assigned_threads", "run"]
