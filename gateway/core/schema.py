"""JSON Schemas generated from the types, for ``opa check --schema`` and for rule authors.

``python -m gateway.core.schema`` prints the input schema; ``make schemas`` writes it, and a test
checks that the file is current.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gateway.core.facts import Facts

__all__ = ["input_schema"]


def input_schema() -> str:
    r"""The JSON Schema of the policy input, as indented JSON with a final newline.

    References are inlined (OPA's checker resolves none that are remote, and rules read better
    against a tree) and ``\Z`` is written ``$``, the only end anchor of JSON Schema's dialect.
    """
    document = msgspec.json.schema(Facts)
    definitions = document.pop("$defs")

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            reference = node.get("$ref")
            if reference is not None:
                return inline(definitions[reference.rpartition("/")[2]])
            return {key: inline(value) for key, value in node.items()}
        if isinstance(node, list):
            return [inline(value) for value in node]
        return node.replace(r"\Z", "$") if isinstance(node, str) else node

    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **inline(document)}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(input_schema(), end="")
