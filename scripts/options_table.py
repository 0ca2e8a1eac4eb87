"""Write the tables of docs/options.md from the fields and the docstrings of the specs.

python scripts/options_table.py [--check]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from inspect import getdoc
from pathlib import Path
from typing import Any

from convlstm.spec.choices import ACTS_WITH, KERAS_WORDS, PER_LAYER
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.layer import LayerSpec
from convlstm.spec.options import ConvLSTMSpec

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
# Options with one value per axis for the whole stack; those per layer and axis follow from the types of LayerSpec.
PER_AXIS_OF_STACK = ("boundary", "input_size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    updated = update(page)
    if not options.check:
        PAGE.write_text(updated, encoding="utf-8")
    elif updated != page:
        sys.exit("docs/options.md is out of date; run python scripts/options_table.py")


def update(page: str) -> str:
    """Return the page with every table between its markers replaced."""
    for name, table in (("layer", layer_table()), ("forecaster", forecaster_table())):
        start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = page.partition(start)
        after = rest.partition(end)[2]
        page = f"{before}{start}\n\n{table}\n\n{end}{after}"
    return page


def layer_table() -> str:
    meanings = argument_descriptions(ConvLSTMSpec)
    lines = ["| option | default | one value per | meaning |", "|---|---|---|---|"]
    for field in fields(ConvLSTMSpec):
        meaning = meanings[field.name]
        if field.name in ACTS_WITH and " only." not in meaning:
            other, values = ACTS_WITH[field.name]
            meaning += f" Only with `{other}` {enumeration(values)}."
        if field.name in KERAS_WORDS:
            meaning += f" Keras layers: `{KERAS_WORDS[field.name]}`."
        lines.append(f"| `{field.name}` | {default(field)} | {scope(field.name)} | {meaning} |")
    return "\n".join(lines)


def forecaster_table() -> str:
    meanings = argument_descriptions(ForecasterSpec)
    lines = ["| option | default | meaning |", "|---|---|---|"]
    lines += [f"| `{field.name}` | {default(field)} | {meanings[field.name]} |" for field in fields(ForecasterSpec)]
    return "\n".join(lines)


def argument_descriptions(spec: type) -> dict[str, str]:
    """Return the text of each argument in the `Args` section of a docstring."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", (getdoc(spec) or "") + "\n", re.MULTILINE)
    if section is None:
        raise ValueError(f"{spec.__name__} has no Args section")
    items = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()).replace("|", "\\|") for name, text in items}


def scope(name: str) -> str:
    """Return the scope of one value of an option: layer, axis, both or the whole stack."""
    annotation = str(LayerSpec.__dataclass_fields__[name].type) if name in PER_LAYER else ""
    has_axes = name in PER_AXIS_OF_STACK or "tuple" in annotation or annotation == "Padding"
    words = [word for word, applies in (("layer", name in PER_LAYER), ("axis", has_axes)) if applies]
    return ", ".join(words) or "stack"


def enumeration(values: Sequence[str]) -> str:
    *first, last = (f"`{value}`" for value in values)
    return f"{', '.join(first)} or {last}" if first else last


def default(field: Field[Any]) -> str:
    return "required" if field.default is MISSING else f"`{field.default!r}`"


if __name__ == "__main__":
    main()
