"""Result: the base of everything a verb returns.

Results are frozen dataclasses that also answer `result["field"]` and `dict(result)`, so a program may treat one as
the typed object or as the JSON it prints as.
"""

from __future__ import annotations

from typing import Any


class Result:
    """Base of result dataclasses. A field is an attribute and a key."""

    __slots__ = ()

    def __getitem__(self, field: str) -> Any:
        if field not in self:
            raise KeyError(field)
        return getattr(self, field)

    def __contains__(self, field: object) -> bool:
        return field in getattr(self, "__dataclass_fields__", ())

    def keys(self) -> list[str]:
        """The names of the fields, in order."""
        return list(getattr(self, "__dataclass_fields__", ()))

    def get(self, field: str, default: Any = None) -> Any:
        """The field's value, or `default` when there is no such field."""
        return getattr(self, field) if field in self else default

    def items(self) -> list[tuple[str, Any]]:
        """Field names and values, in order."""
        return [(field, getattr(self, field)) for field in self.keys()]
