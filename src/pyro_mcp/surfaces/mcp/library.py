"""Library: an `Offer` as a server of the MCP library.

The SDK's low-level `Server` is used because it takes our schemas as they are and serves both protocol eras.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from mcp.server import Server, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import (
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.node.verbs import every_operation
from pyro_mcp.surfaces.client import Client
from pyro_mcp.surfaces.mcp.calls import ToolCalls
from pyro_mcp.surfaces.mcp.resources import ResourceKind, find
from pyro_mcp.surfaces.mcp.tools import encodable
from pyro_mcp.surfaces.mcp.wire import INTERNAL_ERROR, INVALID_PARAMS

if TYPE_CHECKING:
    from pyro_mcp.surfaces.mcp.offer import Offer

Context = ServerRequestContext[Any]
Listed = TypeVar("Listed", bound=BaseModel)
_FAULTS_OF_THE_CALLER = ("invalid_argument", "not_found")


def library_server(client: Client, offer: Offer) -> Server[Any]:
    """A server that offers this, whose tools go through `client`."""
    calls = ToolCalls(client, offer)
    about = Recipes(offer)
    readable = Resources(offer, calls)
    named = offer.implementation
    return Server(
        named["name"],
        title=named["title"],
        version=named["version"],
        instructions=offer.instructions,
        on_list_tools=_lists(offer, "tools/list", ListToolsResult),
        on_call_tool=calls.call,
        on_list_prompts=_lists(offer, "prompts/list", ListPromptsResult),
        on_get_prompt=about.get if offer.recipes else None,
        on_list_resources=_lists(offer, "resources/list", ListResourcesResult),
        on_list_resource_templates=_lists(offer, "resources/templates/list", ListResourceTemplatesResult),
        on_read_resource=readable.read if offer.resources else None,
    )


def _lists(
    offer: Offer, method: str, kind: type[Listed]
) -> Callable[[Context, PaginatedRequestParams | None], Awaitable[Listed]] | None:
    """What answers `method`; None where there is nothing to list."""
    if method not in offer.lists:
        return None
    listed = kind.model_validate(offer.lists[method])

    async def answer(context: Context, params: PaginatedRequestParams | None) -> Listed:
        return listed

    return answer


class Recipes:
    """Answers `prompts/get`."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer

    async def get(self, context: Context, params: GetPromptRequestParams) -> GetPromptResult:
        try:
            recipe = self._offer.recipes.get(params.name)
            if recipe is None:
                hint = f"The prompts are: {', '.join(self._offer.recipes)}."
                raise InvalidArgument(f"cannot use prompt {params.name[:64]!r}: there is none of that name", hint=hint)
            text = recipe.text(params.arguments or {})
        except PyroError as error:
            raise _refusal(error) from None
        message = PromptMessage(role="user", content=TextContent(text=text))
        return GetPromptResult(description=recipe.description, messages=[message])


class Resources:
    """Answers `resources/read`."""

    def __init__(self, offer: Offer, calls: ToolCalls) -> None:
        self._offer = offer
        self._calls = calls

    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        try:
            kind, arguments = find(params.uri, self._offer.resources)
            text = await self._text(context, kind, arguments)
        except PyroError as error:
            raise _refusal(self._offer.wording.error(error), {"uri": params.uri}) from None
        return ReadResourceResult(contents=[TextResourceContents(uri=params.uri, mime_type=kind.mime_type, text=text)])

    async def _text(self, context: Context, kind: ResourceKind, arguments: dict[str, str]) -> str:
        if kind.whole is None:
            answer = await self._calls.run(context, kind.tool, arguments)
            return "".join(one.text for one in answer.content if isinstance(one, TextContent))
        operation = every_operation()[kind.whole.verb]
        answered = await self._calls.ask(context, operation, {**arguments, **kind.whole.asked})
        return kind.whole.shown(encodable(answered))


def _refusal(error: PyroError, data: dict[str, str] | None = None) -> MCPError:
    code = INVALID_PARAMS if error.code in _FAULTS_OF_THE_CALLER else INTERNAL_ERROR
    hint = f" Hint: {error.hint}" if error.hint else ""
    return MCPError(code=code, message=f"{error.message} [{error.code}]{hint}", data=data)
