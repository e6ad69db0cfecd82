"""A session that stands by while others are tested: whatever happens to those, it goes on."""

from __future__ import annotations

from sessiond_client import Client, Output, sync

COMMAND = "echo"


class Bystander:
    """A session with a command that answers what it is told."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._said = 0
        with sync.connect(url) as client:
            session = client.open("open", name="bystander")
            self.session = session.id
            session.start(["cat"], command_id=COMMAND)

    async def check(self, client: Client) -> None:
        """It answers, and nothing was added to its output nor is anything missing."""
        session = await client.session(self.session)
        command = await session.command(COMMAND, offset=self._said, stdin_offset=self._said)
        line = b"still here at %d\n" % self._said
        await command.write(line)
        heard = b""
        while len(heard) < len(line):
            piece = await command.next()
            assert isinstance(piece, Output), piece
            heard += piece.data
        assert heard == line
        self._said += len(line)
        await command.detach()

    def close(self) -> None:
        """End it."""
        with sync.connect(self._url) as client:
            client.session(self.session).close()
