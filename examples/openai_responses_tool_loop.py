"""A model of the OpenAI Responses API works in a workspace: `python examples/openai_responses_tool_loop.py`.

Needs the package `openai`. OPENAI_API_KEY and OPENAI_BASE_URL are read by it; OPENAI_MODEL names the model.
"""

import json
import os
from typing import Any

from openai import OpenAI

from pyro_mcp import Pyro, PyroError

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5")
TASK = "Which version of git does the sandbox have? Write it into version.txt and tell me."
ROUNDS = 20
TOOLS: Any = [
    {
        "type": "function",
        "name": "run",
        "description": "Run a line of shell in /workspace of a disposable Linux machine without a network.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]


def call(pyro: Pyro, workspace_id: str, arguments: str) -> str:
    """The answer to one call. What the model got wrong goes back to it."""
    try:
        result = pyro.exec_workspace(workspace_id, command=json.loads(arguments)["command"])
    except (PyroError, ValueError, KeyError) as error:
        return json.dumps({"error": str(error)})
    return json.dumps({"exit_code": result.exit_code, "stdout": result.stdout[-8000:], "stderr": result.stderr[-2000:]})


def main() -> None:
    """Until the model answers without a call."""
    client = OpenAI()
    with Pyro() as pyro:
        workspace = pyro.create_workspace(environment="debian:12")
        try:
            items: Any = [{"role": "user", "content": TASK}]
            for _ in range(ROUNDS):
                response = client.responses.create(model=MODEL, input=items, tools=TOOLS)
                items += response.output
                calls = [item for item in response.output if item.type == "function_call"]
                for one in calls:
                    output = call(pyro, workspace.workspace_id, one.arguments)
                    items.append({"type": "function_call_output", "call_id": one.call_id, "output": output})
                if not calls:
                    print(response.output_text)
                    break
            print(pyro.diff_workspace(workspace.workspace_id).patch, end="")
        finally:
            pyro.delete_workspace(workspace.workspace_id)


if __name__ == "__main__":
    main()
