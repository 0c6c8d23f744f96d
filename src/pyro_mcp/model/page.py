"""Page: one part of a longer list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pyro_mcp.model.result import Result

ListPageT = TypeVar("ListPageT", bound="ListPage")


@dataclass(frozen=True, kw_only=True)
class ListPage(Result):
    """`count` entries from number `offset` on, of `total` there are; `next_offset` is where the next page begins, null
    when this is the last."""

    count: int
    total: int = 0
    offset: int = 0
    next_offset: int | None = None


def page_fields(items: Sequence[Any], shown: Sequence[Any], offset: int) -> dict[str, Any]:
    """The fields of a page that has `shown` of all `items`, from `offset` on."""
    end = offset + len(shown)
    more = end < len(items) and bool(shown)
    return {"count": len(shown), "total": len(items), "offset": offset, "next_offset": end if more else None}


def paged(whole: ListPageT, name: str, limit: int, offset: int) -> ListPageT:
    """The page of `whole`, whose list is its field `name`."""
    items = whole[name]
    shown = items[offset : offset + limit]
    return replace(whole, **{name: shown}, **page_fields(items, shown, offset))
