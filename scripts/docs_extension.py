"""Griffe extension for the API pages: sections that contain code, and generated signatures."""

from __future__ import annotations

import re
from textwrap import dedent, indent
from typing import Any

import griffe

SHAPES = re.compile(r"^Shapes:\n((?: +.*\n?|\n)+)", re.MULTILINE)
GENERATED_INIT = ("nn.Module", "nn.RNNCellBase", "NamedTuple")


class DocsExtension(griffe.Extension):
    """Adapt griffe to the docstrings and classes of this package."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Show `Example` and `Shapes` as code: griffe parses `Examples` only, and has no section for shapes."""
        if obj.docstring is None:
            return
        text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
        obj.docstring.value = SHAPES.sub(_as_code, text)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Give linen modules and named tuples the `__init__` that is generated from their fields."""
        is_generated = any(str(base) in GENERATED_INIT for base in cls.bases)
        if not is_generated or "__init__" in cls.members:
            return
        parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
        for name, field in cls.attributes.items():
            if "instance-attribute" not in field.labels:
                continue
            parameters.append(
                griffe.Parameter(
                    name,
                    annotation=field.annotation,
                    kind=griffe.ParameterKind.positional_or_keyword,
                    default=field.value,
                )
            )
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))


def _as_code(section: re.Match[str]) -> str:
    return f"**Shapes:**\n\n{indent(dedent(section[1]).strip(), '    ')}\n\n"
