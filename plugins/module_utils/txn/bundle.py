# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine as one file: a zip archive of cli.py and all that it imports, which any Python runs."""

from __future__ import annotations

import ast
import io
import sys
import zipfile

from ansible_collections.mailwright.server.plugins.module_utils.txn import cli

PREFIX = "ansible_collections.mailwright.server.plugins.module_utils"
MAIN = f"import sys\n\nfrom {PREFIX}.txn.cli import main\n\nsys.exit(main())\n"
# of every archive the same bytes
_DATE = (2020, 1, 1, 0, 0, 0)


def source(name: str) -> str | None:
    """The text of a loaded module, from a file or from the archive in which Ansible sends modules."""
    module = sys.modules.get(name)
    loader = getattr(module, "__loader__", None)
    text: str | None = loader.get_source(name) if loader is not None and hasattr(loader, "get_source") else None
    return text


def closure(first: str) -> dict[str, str]:
    """Name -> text of a module and everything of ours that it imports."""
    found: dict[str, str] = {}
    todo = [first]
    while todo:
        name = todo.pop()
        text = source(name)
        if name in found or text is None:
            continue
        found[name] = text
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PREFIX):
                # what is imported may be a module itself
                todo += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def archive() -> bytes:
    """The engine."""
    modules = closure(cli.__name__)
    files = {"__main__.py": MAIN}
    for name, text in modules.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            files.setdefault("/".join([*parts[:depth], "__init__.py"]), "")
        is_package = any(other.startswith(f"{name}.") for other in modules)
        files["/".join(parts) + ("/__init__.py" if is_package else ".py")] = text
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for path, text in sorted(files.items()):
            info = zipfile.ZipInfo(path, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, text)
    return stream.getvalue()
