"""The public name of `textok.data.on_ray`: an actor for Ray Data (extra "ray")."""

from .data.on_ray import Encoder, assigned_threads, run

__all__ = ["Encoder", "assigned_threads", "run"]
