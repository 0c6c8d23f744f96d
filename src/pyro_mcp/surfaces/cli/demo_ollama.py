"""`pyro demo ollama`: a local model runs a command in a machine of its own, by calling the tool `vm_run`.

The tool is the one that chat hosts get: its schema, its checks and its answers. Whatever a model gets wrong goes back
to it as the tool's answer, for a bounded number of rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyro_mcp.errors import Capacity, InvalidArgument, NotFound, PyroError, Unsupported
from pyro_mcp.model.count import count_of
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.invoke import settings_of
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.parser import common_options
from pyro_mcp.surfaces.client import Callbacks, Client
from pyro_mcp.surfaces.ollama import DEFAULT_URL, Ollama

if TYPE_CHECKING:
    from mcp.types import CallToolResult

    from pyro_mcp.surfaces.mcp.tools import BoundTool

MAX_ROUNDS = 8
MAX_CALLS = 4
"""Of one message; a model that sends more is told so."""

MODELS_MISTAKES = (InvalidArgument, NotFound, Unsupported, Capacity)
"""What other arguments may mend. What is wrong with this host, no model can."""

SHOWN_CHARS = 200
ANSWER_SECONDS = 300

TASK = (
    "Call the tool vm_run to run the command `git --version` in the environment {environment}. "
    "Then tell me in one short sentence which version of git it has."
)
AGAIN = "You have not called the tool vm_run. Call it now, do not describe the call."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options; what `pyro demo` itself was given holds here, too."""
    parser.add_argument(
        "--base-url", default=DEFAULT_URL, metavar="URL", help=f"where Ollama listens (default {DEFAULT_URL})"
    )
    parser.add_argument("--model", metavar="MODEL", default=None, help="default: the latest installed that takes tools")
    parser.add_argument("--environment", metavar="ENV", help="what the model is asked to use (default debian:12)")
    parser.add_argument(
        "--timeout-seconds",
        type=float,
        default=ANSWER_SECONDS,
        metavar="N",
        help=f"for each answer of the model (default {ANSWER_SECONDS})",
    )
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--verbose", action="store_true", default=False, help="show each message in full")
    volume.add_argument("--quiet", action="store_true", default=False, help="print nothing but the last line")
    common_options(parser)


def run_demo(namespace: argparse.Namespace) -> int:
    """Exit code 0 once the model has run a command and answered; else raises `PyroError`."""
    if not namespace.timeout_seconds > 0:
        raise InvalidArgument("cannot read the command line: --timeout-seconds takes a number above 0")
    say = _Narration(namespace.output, verbose=namespace.verbose, quiet=namespace.quiet)
    begun = time.monotonic()
    server = Ollama(namespace.base_url, namespace.timeout_seconds)
    model = namespace.model or _able_model(server)
    say(f"model   {plain(model)} at {server.base_url}")
    client = Client(settings_of(namespace))
    try:
        talk = _Conversation(server, model, _Tool(client, namespace.output), say)
        talk.run(TASK.format(environment=namespace.environment))
    finally:
        client.close()
    ran = count_of(len(talk.commands), "command")
    say.last(f"done    {plain(model)} ran {ran} in a machine of its own, {time.monotonic() - begun:.1f} s")
    if namespace.output.as_json:
        told = {"model": model, "base_url": server.base_url, "commands": talk.commands, "answer": talk.answer}
        namespace.output.document({"ok": True, **told, "steps": say.lines})
    return 0


def _able_model(server: Ollama) -> str:
    """The latest model that calls tools. Raises `NotFound`."""
    installed = server.models()
    able = next((model for model in installed if server.takes_tools(model)), None)
    if able is None:
        why = "none of the installed models calls tools" if installed else "no model is installed"
        raise NotFound(f"cannot choose a model: {why}", hint="Install one, for example with `ollama pull qwen3`.")
    return able


class _Narration:
    """Prints one line at a time, as many of them as were asked for, or keeps them for the JSON document."""

    def __init__(self, output: Output, *, verbose: bool, quiet: bool) -> None:
        self.lines: list[str] = []
        self._output = output
        self._verbose = verbose
        self._quiet = quiet

    def __call__(self, line: str) -> None:
        if not self._quiet:
            self.last(line)

    def detail(self, message: dict[str, Any]) -> None:
        if self._verbose:
            self.last(f"message {plain(json.dumps(message, ensure_ascii=False))}")

    def last(self, line: str) -> None:
        self.lines.append(line)
        if not self._output.as_json:
            self._output.finish()
            print(line, flush=True)


class _Tool:
    """`vm_run` as a model sees it."""

    def __init__(self, client: Client, output: Output) -> None:
        from pyro_mcp.api.run import run_in_vm
        from pyro_mcp.surfaces.mcp.tools import BoundTool, tool_wording

        self._client = client
        self._callbacks = Callbacks(output.progress, output.notice)
        self._bound: BoundTool = BoundTool(run_in_vm, "vm-run", allow_host_compat=False)
        self.name = self._bound.name
        self._wording = tool_wording({self.name: self._bound})

    def described(self) -> dict[str, Any]:
        """The tool as Ollama takes it."""
        tool = self._bound.describe(self._wording)
        function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
        return {"type": "function", "function": function}

    def call(self, name: str, arguments: Any) -> tuple[str, dict[str, Any] | None]:
        """What the model is told, and the result if it was one."""
        from pyro_mcp.surfaces.mcp.tools import refusal

        try:
            if name != self.name:
                raise InvalidArgument(f"cannot call {name[:64]!r}: there is no such tool", hint=f"Call {self.name}.")
            given = self._given(arguments)
            params = self._bound.params(given)
            payload = self._client.call(self._bound.operation, params, callbacks=self._callbacks)
        except MODELS_MISTAKES as error:
            return _text(refusal(self._wording.error(error))), None
        sent = {name: params[name] for name in given if name in params}
        return _text(self._bound.answer(self._wording.result(payload), sent)), payload

    def _given(self, arguments: Any) -> Mapping[str, Any]:
        if isinstance(arguments, str):
            # Some models write their arguments as a text.
            try:
                arguments = json.loads(arguments)
            except ValueError:
                arguments = None
        if not isinstance(arguments, Mapping):
            raise InvalidArgument(f"cannot call {self.name}: its arguments are no JSON object")
        return arguments


class _Conversation:
    """The conversation. Afterwards `commands` says what was run, and `answer` holds the model's last words."""

    def __init__(self, server: Ollama, model: str, tool: _Tool, say: _Narration) -> None:
        self.commands: list[dict[str, Any]] = []
        self.answer = ""
        self._server = server
        self._model = model
        self._tool = tool
        self._say = say
        self._messages: list[dict[str, Any]] = []
        self._refused = ""

    def run(self, task: str) -> None:
        """Until the model has run a command and answers. Raises `Unsupported` when it does not come to that."""
        self._say(f"ask     {task}")
        self._add({"role": "user", "content": task})
        for _ in range(MAX_ROUNDS):
            message = self._server.chat(self._model, self._messages, [self._tool.described()])
            self._add(message)
            calls = message.get("tool_calls") or []
            for number, call in enumerate(calls):
                self._add(self._answered(call, number))
            if not calls and self.commands:
                self.answer = str(message.get("content") or "").strip()
                self._say(f"answer  {_short(self.answer) or '(without a word)'}")
                return
            if not calls:
                self._add({"role": "user", "content": AGAIN})
        raise self._failed()

    def _answered(self, call: Any, number: int) -> dict[str, Any]:
        """The message that answers one call."""
        function = call.get("function") if isinstance(call, Mapping) else None
        function = function if isinstance(function, Mapping) else {}
        name, arguments = str(function.get("name") or ""), function.get("arguments")
        self._say(f"call    {_short(f'{name} {json.dumps(arguments, ensure_ascii=False)}')}")
        begun = time.monotonic()
        if number >= MAX_CALLS:
            text, result = f"Not run: call the tool at most {MAX_CALLS} times at once.", None
        else:
            text, result = self._tool.call(name, arguments)
        if result is None:
            self._refused = _short(text)
            self._say(f"refused {self._refused}")
        else:
            self.commands.append(result)
            where = f"{time.monotonic() - begun:.1f} s, isolation: {result.get('isolation')}"
            shown = _short(str(result.get("stdout")).strip() or str(result.get("stderr")).strip())
            self._say(f"result  exit code {result.get('exit_code')}: {shown}  ({where})")
        identity = {"tool_call_id": call["id"]} if isinstance(call, Mapping) and call.get("id") else {}
        return {"role": "tool", "tool_name": name, "content": text, **identity}

    def _add(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        self._say.detail(message)

    def _failed(self) -> PyroError:
        if self.commands:
            ran = count_of(len(self.commands), "command")
            how = f"ran {ran} and never answered"
            if self._refused:
                how += f"; last refused: {self._refused}"
        elif self._refused:
            how = f"could not call vm_run; last: {self._refused}"
        else:
            how = "never called vm_run"
        return Unsupported(
            f"cannot finish the demo: in {MAX_ROUNDS} rounds {plain(self._model)} {how}",
            hint="Take a larger model that is made for tools, such as `ollama pull qwen3`, and name it with --model.",
        )


def _text(result: CallToolResult) -> str:
    return str(getattr(result.content[0], "text", ""))


def _short(text: str) -> str:
    """One line of it, for people."""
    line = plain(" ".join(text.split()))
    return line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]}..."
