"""Captions made from a template and what is known of a sample."""

import re
from collections.abc import Mapping
from typing import Any

# Captions for data that has none, by how much they say.
TEMPLATES = {
    "name": "{name}",
    "short": "a photo of a {name}",
    "long": "A detailed, well-lit colour photo of a {name}, shown whole and sharp in the middle of the picture, before a "
    "background as it is usual for a {name}.",
}
NAME_FIELDS = ("name", "class_name", "label_name")  # where data keeps the name of a sample's class


def fill_template(template: str, metadata: Mapping[str, Any]) -> str | None:
    """A caption from what is known of a sample; None where the metadata lacks a field.

    Parameters
    ----------
    template
        One of `TEMPLATES` by name ("name", "short", "long"), or text with fields of the metadata in braces. {name} is also
        found as class_name, as class folders give it, and label_name.

    Examples
    --------
    >>> fill_template("short", {"name": "grey fox"})
    'a photo of a grey fox'
    >>> fill_template("a {style} drawing of a {name}", {"class_name": "apple", "style": "flat"})
    'a flat drawing of a apple'
    """
    text = TEMPLATES.get(template, template)
    values = {}
    for name in re.findall(r"\{(\w+)\}", text):
        value = next((metadata[key] for key in (NAME_FIELDS if name == "name" else (name,)) if key in metadata), None)
        if not isinstance(value, str | int | float) or not str(value).strip():
            return None
        values[name] = str(value)
    if not values:
        raise ValueError(f"template: expected {', '.join(TEMPLATES)} or text with a field as {{name}}, got {template!r}")
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)
