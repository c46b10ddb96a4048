# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/reference/ from what the code says of itself; with ``--check``, fail when the files there are stale.

inventory.md: the table in plugins/module_utils/model/spec.py. roles.md: each role's meta/argument_specs.yml.
modules.md: each module's documentation as ansible-doc reads it, with its fragments resolved. openapi.json: the sending
API's own description.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COLLECTIONS = ROOT / ".collections"
COLLECTION = "mailwright.server"
NOTICE = "<!-- Written by tests/docs_reference.py from the code; change it there. -->"

# Ansible's markup. These take any text up to an unescaped parenthesis, with \ before what is to be taken literally…
SEMANTIC = re.compile(r"\b(O|V|E|RV|P)\(((?:\\.|[^)\\])*)\)")
# …and these end at the first parenthesis.
PLAIN = re.compile(r"\b(C|B|I|M|U|L|R)\(([^)]*)\)")
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)


def code(text: str) -> str:
    """Return ``text`` as a Markdown code span, whatever backticks it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _semantic(match: re.Match[str]) -> str:
    kind, text = match[1], re.sub(r"\\(.)", r"\1", match[2])
    if kind in ("O", "RV"):
        # ns.collection.plugin#type:option=value: the reader knows what page this is.
        text = re.sub(r"^[\w.]+#\w+:(?:\w+:)?", "", text)
    elif kind == "P":
        text = text.partition("#")[0]
    return code(text)


def _plain(match: re.Match[str]) -> str:
    kind, text = match[1], match[2]
    if kind in "CM":
        return code(text)
    if kind in "BI":
        return f"**{text}**" if kind == "B" else f"*{text}*"
    if kind == "U":
        return f"<{text}>"
    label, _comma, target = text.rpartition(",")
    return f"[{label.strip()}]({target.strip()})" if kind == "L" else label.strip()


def markdown(text: str) -> str:
    """Turn Ansible's documentation markup into Markdown; an angle bracket in running text stays one."""
    parts: list[str] = []
    end = 0
    converted = PLAIN.sub(_plain, SEMANTIC.sub(_semantic, " ".join(text.split())))
    for span in CODE.finditer(converted):
        parts += [_escape(converted[end : span.start()]), span[0]]
        end = span.end()
    return "".join([*parts, _escape(converted[end:])])


def _escape(text: str) -> str:
    return re.sub(r"<(?!https?://)", "&lt;", text)


def paragraphs(value: str | list[str] | None) -> list[str]:
    """Return a description, which may be one string or a list of them, as a list of Markdown paragraphs."""
    texts = [value] if isinstance(value, str) else value or []
    return [markdown(str(text)) for text in texts]


def cell(text: str) -> str:
    """Return ``text`` fit for a table cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table, with an empty line behind it; nothing when there are no rows."""
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *[[cell(text) for text in row] for row in rows]]
    return [*["| " + " | ".join(line) + " |" for line in lines], ""]


def type_of(option: Mapping[str, Any]) -> str:
    """Return an option's type in words: ``list of str``."""
    name = str(option.get("type", "str"))
    return f"list of {option['elements']}" if name == "list" and "elements" in option else name


def flatten(options: Mapping[str, Any], child: str, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every option and suboption with its path, such as ``mail_domains[].name``, each parent before its own.

    :param child: the key that holds the options below one: ``options``, ``suboptions`` or ``contains``.
    """
    for name, option in options.items():
        yield f"{path}{name}", option
        below = "[]." if option.get("type") == "list" else "."
        yield from flatten(option.get(child) or {}, child, f"{path}{name}{below}")


def option_rows(options: Mapping[str, Any], child: str) -> list[list[str]]:
    """Return the rows of a table of options: name, type, default, description."""
    rows = []
    for path, option in flatten(options, child):
        default = "**required**" if option.get("required") else ""
        if option.get("default") is not None:
            value = option["default"]
            default = code(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))
        text = paragraphs(option.get("description"))
        choices = option.get("choices")
        if isinstance(choices, Mapping):
            text += [f"{code(str(name))}: {' '.join(paragraphs(about))}" for name, about in choices.items()]
        elif choices:
            text.append(f"One of {', '.join(code(str(choice)) for choice in choices)}.")
        rows.append([code(path), type_of(option), default, "<br>".join(text)])
    return rows


OPTION_HEAD = ["Name", "Type", "Default", "Meaning"]


def page(title: str, introduction: str, body: list[str]) -> str:
    """Return a whole Markdown file."""
    return "\n".join([f"# {title}", "", NOTICE, "", introduction, "", *body]).rstrip("\n") + "\n"


def inventory_page() -> str:
    """Return the reference of the variables that a user writes."""
    sys.path.insert(0, str(COLLECTIONS))
    from ansible_collections.mailwright.server.plugins.module_utils.model.spec import OPTIONS

    return page(
        "Inventory variables",
        "What you write in the inventory. Every error in it is reported at once, before a host is touched.",
        table(OPTION_HEAD, option_rows(OPTIONS, "options")),
    )


def roles_page() -> str:
    """Return the reference of the roles' own variables."""
    body: list[str] = []
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        role = path.parents[1].name
        body += [f"## {role}", ""]
        entry_points = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        for name, entry in sorted(entry_points.items(), key=lambda item: (item[0] != "main", item[0])):
            if name != "main":
                body += [f"### {role}: {name}", ""]
            for text in [*paragraphs(entry.get("short_description")), *paragraphs(entry.get("description"))]:
                body += [text, ""]
            body += table(OPTION_HEAD, option_rows(entry.get("options") or {}, "options"))
    return page("Roles", f"The roles of {COLLECTION} and the variables that tune them.", body)


def module_docs() -> dict[str, Any]:
    """Return what ansible-doc says of every module, by full name.

    :raises SystemExit: when ansible-doc fails.
    """
    names = [f"{COLLECTION}.{path.stem}" for path in sorted((ROOT / "plugins/modules").glob("[!_]*.py"))]
    if not names:
        return {}
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
    command = [sys.executable, "-m", "ansible", "doc", "-t", "module", "--json", *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ansible-doc failed:\n{done.stderr}")
    documents: dict[str, Any] = json.loads(done.stdout)
    missing = sorted(set(names) - documents.keys())
    if missing:
        raise SystemExit(f"ansible-doc knows nothing of {', '.join(missing)}:\n{done.stderr}")
    return documents


def modules_page() -> str:
    """Return the reference of the modules."""
    body: list[str] = []
    for name, document in sorted(module_docs().items()):
        doc = document["doc"]
        body += [f"## {name}", ""]
        for text in [*paragraphs(doc.get("short_description")), *paragraphs(doc.get("description"))]:
            body += [text, ""]
        body += table(OPTION_HEAD, option_rows(doc.get("options") or {}, "suboptions"))
        attributes = [
            [code(key), str(value.get("support", "")), "<br>".join(paragraphs(value.get("description")))]
            for key, value in sorted((doc.get("attributes") or {}).items())
        ]
        body += table(["Attribute", "Support", "Meaning"], attributes)
        for note in paragraphs(doc.get("notes")):
            body += [f"- {note}"]
        if doc.get("notes"):
            body.append("")
        if document.get("examples"):
            body += ["```yaml", document["examples"].strip("\n"), "```", ""]
        returned = [
            [code(path), type_of(value), value.get("returned", ""), "<br>".join(paragraphs(value.get("description")))]
            for path, value in flatten(document.get("return") or {}, "contains")
        ]
        body += table(["Returned", "Type", "When", "Meaning"], returned)
    return page("Modules", f"The modules of {COLLECTION}. They are for its roles and playbooks first.", body)


def openapi_text() -> str:
    """Return the sending API's description as the service serves it: FastAPI and Pydantic are those of the hosts."""
    sys.path[:0] = [str(COLLECTIONS), str(ROOT / "roles/api/templates/usr/local/lib/mailwright/api")]
    from mailwright_api.app import build_app

    return json.dumps(build_app(None, None).openapi(), indent=1, ensure_ascii=False) + "\n"


PAGES = {
    "inventory.md": inventory_page,
    "modules.md": modules_page,
    "roles.md": roles_page,
    "openapi.json": openapi_text,
}


def main() -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/reference/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is stale")
    check = parser.parse_args().check
    stale = 0
    for name, build in PAGES.items():
        path = ROOT / "docs/reference" / name
        text = build()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            print(f"docs/reference/{name}: is stale; run python tests/docs_reference.py")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"docs/reference/{name}: written")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
