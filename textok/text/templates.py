"""Captions made from a template and what is known of a sample: one language, for `textok embed`, training and all else."""

import re
from collections.abc import Container, Mapping
from typing import Any

# Captions for data that has none, by how much they say.
TEMPLATES = {
    "name": "{name}",
    "short": "a photo of a {name}",
    "long": "A detailed, well-lit colour photo of a {name}, shown whole and sharp in the middle of the picture, before a "
    "background as it is usual for a {name}.",
}
_FIELD = re.compile(r"\{(\w+)\}")
NAME_FIELDS = ("name", "class_name", "label_name")  # where data keeps the name of a sample's class


def fill_template(template: str, metadata: Mapping[str, Any]) -> str | None:
    """A caption from what is known of a sample; None where the metadata lacks a field.

    Parameters
    ----------
    template
        One of `TEMPLATES` by name ("name", "short", "long"), or text with fields of the metadata in braces. {name} is also
        found as class_name, as class folders give it, and label_name; its underscores become blanks. Other fields stay as they
        are.

    Examples
    --------
    >>> fill_template("short", {"class_name": "grey_fox"})
    'a photo of a grey fox'
    >>> fill_template("a {style} drawing of a {name}", {"class_name": "apple", "style": "flat"})
    'a flat drawing of a apple'
    """
    values = {}
    for name in _fields(template):
        value = _name(metadata) if name == "name" else metadata.get(name)
        if not isinstance(value, str | int | float) or not str(value).strip():
            return None
        values[name] = str(value).replace("_", " ") if name == "name" else str(value)
    return _FIELD.sub(lambda match: values[match[1]], TEMPLATES.get(template, template))


def checked_template(template: str) -> str:
    """`template` itself, where {} stands, as it once did in training, with {name} in its place; a ValueError without a
    field."""
    current = template.replace("{}", "{name}")
    _fields(current)
    return current


def known_spelling(caption: str | None, metadata: Mapping[str, Any], known: Container[str]) -> str | None:
    """`caption`, or where `known` has it only with the underscores of the sample's name, as stores made before blanks took
    their place have it, that one.
    """
    name = _name(metadata)
    if caption is None or not isinstance(name, str) or "_" not in name or caption in known:
        return caption
    older = caption.replace(name.replace("_", " "), name)
    return older if older in known else caption


def _fields(template: str) -> list[str]:
    found = _FIELD.findall(TEMPLATES.get(template, template))
    if not found:
        raise ValueError(f"template: expected {', '.join(TEMPLATES)} or text with a field as {{name}}, got {template!r}")
    return found


def _name(metadata: Mapping[str, Any]) -> Any:
    return next((metadata[key] for key in NAME_FIELDS if key in metadata), None)
