# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render a role's templates directory and send it to the host in one piece, in a transaction where one is asked for."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import matches
from ansible_collections.mailwright.server.plugins.plugin_utils import guard

MODULE = "mailwright.server.config_tree"
MACROS = "_macros"


def walk(root: str) -> Iterator[tuple[str, str]]:
    """Yield (source file, target path) in sorted order, without import-only files and .gitkeep."""
    for directory, subdirectories, names in os.walk(root):
        if directory == root and MACROS in subdirectories:
            subdirectories.remove(MACROS)
        for name in subdirectories:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                raise AnsibleActionFail(f"{path}: is a link to a directory, which is not followed")
        subdirectories.sort()
        for name in sorted(names):
            if name != ".gitkeep":
                source = os.path.join(directory, name)
                yield source, "/" + os.path.relpath(source, root).removesuffix(".j2")


# ansible-core carries no types, so to mypy its base class is Any
class ActionModule(ActionBase):  # type: ignore[misc]
    """The controller's half of config_tree."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Render, then call the module with all files."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        del tmp
        arguments = dict(self._task.args)
        if "files" in arguments:
            raise AnsibleActionFail("files: is filled in from the templates directory; remove it")
        omit = arguments.get("omit") or []
        if isinstance(omit, str):
            omit = [omit]
        root = self._root(arguments.get("src"))
        arguments["files"] = self._files(root, [str(glob) for glob in omit], variables)
        settings = arguments.pop("transaction", None)
        guarded = bool(arguments.pop("guard", False))
        before = guard.opened(self._task, variables)
        if (
            self._task.check_mode
            or not settings
            or not (guarded or (boolean(settings.get("gate", False)) and not before))
        ):
            result.update(self._module(MODULE, arguments, variables))
            return result
        # what changes nothing shall cost nothing
        self._task.check_mode = True
        try:
            plan = self._module(MODULE, arguments, variables)
        finally:
            self._task.check_mode = False
        if plan.get("failed") or not plan["changed"]:
            recorded = plan.get("failed") or plan["recorded"]
            result.update(plan if recorded else self._module(MODULE, arguments, variables))
            return result
        result.update(self._guarded(arguments, guard.begin(settings, before, guarded), variables))
        return result

    def _guarded(self, arguments: dict[str, Any], begin: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Change the host such that it takes the change back when it is not reached any more."""
        begun = self._module(guard.MODULE, begin, variables)
        if begun.get("failed"):
            return begun
        try:
            result = self._module(MODULE, arguments, variables)
            if begin["guard"]:
                self._connection.reset()
                reached = self._module(guard.MODULE, {"id": begun["id"], "state": "reached"}, variables)
                if reached.get("failed"):
                    return reached
        except AnsibleConnectionFailure as error:
            if not begin["guard"]:
                raise
            # the message is all that the operator sees of it
            raise AnsibleConnectionFailure(f"{guard.CUT_OFF}: {to_text(error)}") from error
        if result.get("failed") and begun["gate"] and not begin["id"]:
            # of a task that failed no fact is kept, so nobody else would know what to undo
            abandon = {"id": begun["id"], "state": "abandoned", "cause": f"{self._task.name}: {result['msg']}"}
            result["msg"] = self._module(guard.MODULE, abandon, variables)["msg"]
        return {**result, "ansible_facts": guard.remember(self._task, begun)}

    def _module(self, name: str, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module(module_name=name, module_args=arguments, task_vars=variables)
        return found

    def _root(self, src: str | None) -> str:
        """Return the directory to render."""
        role = self._task._role.get_role_path() if self._task._role else None
        basedir = self._loader.get_basedir()
        if src is None:
            if role is None:
                raise AnsibleActionFail("src: is required outside of a role")
            # A role that only keeps units in order has no templates at all.
            return os.path.join(role, "templates")
        candidates = [os.path.normpath(os.path.join(base, src)) for base in (role, basedir) if base]
        for candidate in candidates:
            if os.path.isdir(candidate):
                return candidate
        raise AnsibleActionFail(f"src: {src!r} is not a directory; looked for {' and '.join(candidates)}")

    def _files(self, root: str, omit: list[str], variables: dict[str, Any]) -> list[dict[str, str]]:
        """Render or read every file below the directory; report all errors at once, each with its file."""
        files: list[dict[str, str]] = []
        sources: dict[str, str] = {}
        errors: list[str] = []
        given = dict(variables)
        # Dates and paths would make a file differ on every run: the configured text's placeholders stay as they are.
        given.setdefault("ansible_managed", str(constants.config.get_config_value("DEFAULT_MANAGED_STR")))
        for source, path in walk(root):
            if matches(path, omit):
                continue
            if path in sources:
                errors.append(f"{source}: writes {path}, as {sources[path]} does")
                continue
            sources[path] = source
            entry = {"path": path}
            try:
                if source.endswith(".j2"):
                    content = self._render(source, root, given)
                else:
                    content = self._read(source)
                    if os.stat(source).st_mode & 0o100:
                        entry["mode"] = "0755"
            except (AnsibleError, OSError, ValueError) as error:
                errors.append(f"{source}: {to_text(error)}")
                continue
            entry["content"] = base64.b64encode(content).decode()
            files.append(entry)
        if errors:
            raise AnsibleActionFail("nothing was sent to the host:\n" + "\n".join(errors))
        return files

    def _read(self, source: str) -> bytes:
        """Return a file's bytes, decrypted when it is a vault."""
        readable = self._loader.get_real_file(source)
        try:
            with open(readable, "rb") as stream:
                return stream.read()
        finally:
            if readable != source:
                self._loader.cleanup_tmp_file(readable)

    def _render(self, source: str, root: str, variables: dict[str, Any]) -> bytes:
        """Render one template as ansible.builtin.template does with its defaults."""
        search = [os.path.dirname(source), os.path.join(root, MACROS), root]
        for base in [*variables.get("ansible_search_path", []), self._loader.get_basedir()]:
            search += [os.path.join(base, "templates"), base]
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=variables)
        template = trust_as_template(self._loader.get_text_file_contents(source))
        overrides = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}
        rendered = templar.template(template, escape_backslashes=False, overrides=overrides)
        return b"" if rendered is None else bytes(to_bytes(rendered, errors="surrogate_or_strict"))
