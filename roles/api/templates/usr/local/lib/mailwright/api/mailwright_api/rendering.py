# Managed by mailwright: changes are overwritten.
"""Templates are programs of strangers: they are rendered in a process that may do little, and not for long.

Its input and output are lines of JSON. It ends by a signal when a template takes too long, whatever it is doing then.
"""

from __future__ import annotations

import importlib
import json
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .renderer import RenderError

PARTS = ("subject", "text", "html")
LONGEST_OUTPUT = 500_000
# of the processor, so that a busy host makes no difference
SECONDS = 0.5
MEMORY = 192 * 2**20


def render(sources: Mapping[str, str | None], variables: Mapping[str, Any] | None) -> dict[str, str | None]:
    """The parts with the variables filled in; without variables they are only looked at. Raises RenderError."""
    return {part: _part(part, sources.get(part), variables) for part in PARTS}


def _part(part: str, source: str | None, variables: Mapping[str, Any] | None) -> str | None:
    if source is None:
        return None
    try:
        template = _environment(part).from_string(source)
        return "" if variables is None else _bounded(part, template, variables)
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(part, f"line {error.lineno}: {error.message}") from error
    except RenderError:
        raise
    except MemoryError as error:
        raise RenderError(part, "takes too much memory") from error
    except RecursionError as error:
        raise RenderError(part, "is nested too deeply") from error
    # a template's expressions can raise anything
    except Exception as error:
        raise RenderError(part, f"{type(error).__name__}: {error}"[:300]) from error


def _bounded(part: str, template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    found, length = [], 0
    for piece in template.generate(variables):
        found.append(piece)
        length += len(piece)
        if length > LONGEST_OUTPUT:
            raise RenderError(part, f"becomes longer than {LONGEST_OUTPUT} characters")
    return "".join(found)


def _environment(part: str) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        autoescape=part == "html", undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    del environment.globals["lipsum"]
    return environment


def serve() -> None:
    """Answer requests until there are no more."""
    # what Jinja loads when it first needs it, and no file can be opened any more
    for name in ("encodings.ascii", "encodings.unicode_escape", "html", "jinja2.debug", "textwrap"):
        importlib.import_module(name)
    # no further file, no socket, no process: not even of the database, which the service's user may reach
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"parts": render(request["sources"], request["variables"])}
        except RenderError as error:
            answer = {"part": error.part, "detail": error.detail}
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
