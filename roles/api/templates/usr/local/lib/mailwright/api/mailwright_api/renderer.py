# Managed by mailwright: changes are overwritten.
"""The web service's side of rendering: one process, begun with the first template, and again after one ended it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

# the process limits itself by processor time; this is for a host that gives it none
WAIT_SECONDS = 20.0
LONGEST_LINE = 2**25


class RenderError(Exception):
    """The template's author's mistake."""

    def __init__(self, part: str, detail: str) -> None:
        super().__init__(f"{part}: {detail}")
        self.part, self.detail = part, detail


class Renderer:
    """Renders one after the other."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.lock = asyncio.Lock()

    async def render(
        self, sources: Mapping[str, str | None], variables: Mapping[str, Any] | None
    ) -> dict[str, str | None]:
        """The parts; without variables only whether they are templates. Raises RenderError."""
        line = json.dumps({"sources": sources, "variables": variables}).encode() + b"\n"
        async with self.lock:
            answer = await self._ask(line)
        if not answer:
            raise RenderError("", "takes too long, or too much memory")
        found = json.loads(answer)
        if "detail" in found:
            raise RenderError(found["part"], found["detail"])
        parts: dict[str, str | None] = found["parts"]
        return parts

    async def _ask(self, line: bytes) -> bytes:
        """The answer, empty when the process ended over it."""
        if self.process is None or self.process.returncode is not None:
            self.process = await asyncio.create_subprocess_exec(
                sys.argv[0], "render", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LONGEST_LINE
            )
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        answer = b""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                stdin.write(line)
                await stdin.drain()
                answer = await stdout.readline()
        except (TimeoutError, ConnectionError):
            pass
        finally:
            # whatever went wrong, the next one gets no answer that is meant for another
            if not answer.endswith(b"\n"):
                await self.close()
        return answer if answer.endswith(b"\n") else b""

    async def close(self) -> None:
        """End the process."""
        if self.process is not None:
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()
            self.process = None
