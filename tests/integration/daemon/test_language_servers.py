"""A real language server over `spawn_stdio` and a real debugger over a tunnel, as an editor uses them."""

from __future__ import annotations

import asyncio
import json
import shutil
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from sessiond_client import ByteStream, Client, Session

PACKAGES = (
    *("python-lsp-server", "python-lsp-jsonrpc", "jedi", "parso", "pluggy", "docstring-to-markdown", "pyflakes"),
    *("importlib-metadata", "zipp", "packaging", "typing-extensions", "debugpy", "platformdirs", "lazy-importer"),
)
"""What the servers need; ujson and black are not needed, and compiled."""
FILES = 50


class Peer:
    """Speaks LSP and DAP: the framing of both is the same."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._numbers = count(1)
        self.heard: list[dict[str, Any]] = []

    async def send(self, **message: Any) -> None:
        body = json.dumps(message).encode()
        await self._stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """The first message that has these fields; what was heard before counts."""
        while True:
            for message in self.heard:
                if wanted.items() <= message.items():
                    self.heard.remove(message)
                    return message
            head = (await self._stream.read_until(b"\r\n\r\n")).decode()
            [length] = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length")]
            self.heard.append(json.loads(await self._stream.read_exactly(int(length))))

    async def call(self, method: str, **params: Any) -> Any:
        """A request of LSP."""
        number = next(self._numbers)
        await self.send(jsonrpc="2.0", id=number, method=method, params=params)
        answer = await self.until(id=number)
        assert "error" not in answer, answer
        return answer["result"]

    async def ask(self, command: str, **arguments: Any) -> Any:
        """A request of DAP."""
        number = await self.begin(command, **arguments)
        return await self.answer(number)

    async def begin(self, command: str, **arguments: Any) -> int:
        number = next(self._numbers)
        await self.send(seq=number, type="request", command=command, arguments=arguments)
        return number

    async def answer(self, number: int) -> Any:
        answer = await self.until(type="response", request_seq=number)
        assert answer["success"], answer
        return answer.get("body")


async def install(session: Session, scratch: Path) -> None:
    """The packages of this machine's own environment, into the workspace: a sandbox has no network."""
    for name in PACKAGES:
        for file in metadata.files(name) or []:
            source = Path(str(file.locate()))
            wanted = source.suffix in (".py", ".pyi", ".txt") or source.name == "METADATA"
            if wanted and ".." not in file.parts:
                target = scratch / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    await session.files.upload(scratch, "packages")


def position(text: str, after: str) -> dict[str, int]:
    before = text[: text.index(after) + len(after)]
    return {"line": before.count("\n"), "character": len(before) - before.rfind("\n") - 1}


MAIN = "import mod7\nfrom mod9 import undefined_thing_is_fine\n\nvalue = mod7.greet_\nprint(nonsense)\n"


async def test_a_language_server(client: Client, tmp_path: Path) -> None:
    """Initialize, diagnostics, completion across files, on a project of 50 files."""
    session = await client.open("open", ttl=300)
    await install(session, tmp_path / "packages")
    project = tmp_path / "project"
    project.mkdir()
    for number in range(FILES):
        (project / f"mod{number}.py").write_text(
            f'def greet_{number}():\n    """Greets {number}."""\n    return {number}\n'
        )
    (project / "main.py").write_text(MAIN)
    await session.files.upload(project, "project")
    argv = ["python3", "-m", "pylsp"]
    async with await session.spawn_stdio(argv, env={"PYTHONPATH": "/workspace/packages"}, cwd="project") as stream:
        server = Peer(stream)
        uri = "file:///workspace/project/main.py"
        about = await server.call("initialize", processId=None, rootUri="file:///workspace/project", capabilities={})
        assert "completionProvider" in about["capabilities"]
        await server.send(jsonrpc="2.0", method="initialized", params={})
        document = {"uri": uri, "languageId": "python", "version": 1, "text": MAIN}
        await server.send(jsonrpc="2.0", method="textDocument/didOpen", params={"textDocument": document})
        diagnostics = (await server.until(method="textDocument/publishDiagnostics"))["params"]["diagnostics"]
        assert "undefined name 'nonsense'" in [found["message"] for found in diagnostics]
        where = {"textDocument": {"uri": uri}, "position": position(MAIN, "mod7.greet_")}
        completion = await server.call("textDocument/completion", **where)
        assert "greet_7()" in [item["label"] for item in completion["items"]]
        await server.call("shutdown")
        await server.send(jsonrpc="2.0", method="exit", params=None)
        async with asyncio.timeout(10):
            while await stream.read():
                pass


SCRIPT = """total = 0
for number in range(5):
    total += number
print(total)
"""


async def test_a_debugger(client: Client, tmp_path: Path) -> None:
    """A breakpoint is hit, a variable read, the program goes on to its end."""
    session = await client.open("open", ttl=300)
    await install(session, tmp_path / "packages")
    await session.files.write("script.py", SCRIPT.encode())
    argv = ["python3", "-m", "debugpy", "--listen", "127.0.0.1:5678", "--wait-for-client", "script.py"]
    command = await session.start(
        argv, env={"PYTHONPATH": "/workspace/packages", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    )
    while not await listens(session, 5678):
        assert not command.ended
        await asyncio.sleep(0.05)
    async with await session.connect(5678) as stream:
        debugger = Peer(stream)
        await debugger.ask("initialize", adapterID="test", pathFormat="path", linesStartAt1=True)
        attaching = await debugger.begin("attach", justMyCode=False)
        await debugger.until(type="event", event="initialized")
        source = {"path": "/workspace/script.py"}
        placed = await debugger.ask(
            "setBreakpoints", source=source, breakpoints=[{"line": 3, "condition": "number == 3"}]
        )
        assert placed["breakpoints"][0]["verified"]
        await debugger.ask("configurationDone")
        await debugger.answer(attaching)
        thread = (await debugger.until(type="event", event="stopped"))["body"]["threadId"]
        frame = (await debugger.ask("stackTrace", threadId=thread))["stackFrames"][0]
        assert frame["line"] == 3
        scopes = (await debugger.ask("scopes", frameId=frame["id"]))["scopes"]
        variables = (await debugger.ask("variables", variablesReference=scopes[0]["variablesReference"]))["variables"]
        assert {"number": "3", "total": "3"}.items() <= {v["name"]: v["value"] for v in variables}.items()
        await debugger.ask("setBreakpoints", source=source, breakpoints=[])
        await debugger.ask("continue", threadId=thread)
        await debugger.until(type="event", event="terminated")
    assert (await command.wait()).exit_code == 0


async def listens(session: Session, port: int) -> bool:
    """Whether somebody listens there: looked up, since the debugger takes the first who connects for its client."""
    table = (await session.run(["cat", "/proc/net/tcp"])).text
    return any(f":{port:04X}" in line.split()[1] and line.split()[3] == "0A" for line in table.splitlines()[1:])
