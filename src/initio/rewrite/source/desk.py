"""Where an edit works: the files by line, and the layers of the model by the call that makes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import libcst as cst

from initio.core.analysis import Analysis
from initio.core.finding import Finding
from initio.core.record import Source
from initio.core.tree import ModuleNode
from initio.rewrite.source.draft import Draft, Unfixable

__all__ = ["Desk"]


class Desk:
    """The analysis of a model, and the drafts of its files.

    `read` gives the file in the project and its present text for a file that the analysis names; it raises `Unfixable` for one that
    is not to be edited. `initialiser` writes the source of an `init_weights(model)` that mends a finding.
    """

    def __init__(
        self, analysis: Analysis, read: Callable[[str], tuple[Path, bytes]], initialiser: Callable[[Finding], str] | None = None
    ) -> None:
        self.analysis = analysis
        self.read = read
        self.write_initialiser = initialiser
        self.drafts: dict[Path, Draft] = {}
        self.made_at: dict[tuple[str, str, str], tuple[str, ...] | None] = {}

    @cached_property
    def modules(self) -> dict[str, ModuleNode]:
        """Path → module."""
        return self.analysis.tree.by_path()

    def draft(self, source: Source | None) -> Draft:
        """The file of a source line."""
        if source is None:
            raise Unfixable("no line of source is known for it")
        path, data = self.read(source.file)
        if path not in self.drafts:
            self.drafts[path] = Draft(str(path), data)
        return self.drafts[path]

    def initialiser(self, finding: Finding) -> str:
        """The source of an `init_weights(model)` for all parameters."""
        if self.write_initialiser is None:
            raise Unfixable("no initialisation is solved here")
        return self.write_initialiser(finding)

    def attempt(self, edit: Callable[[Desk, Finding], tuple[str, ...] | None], finding: Finding) -> tuple[str, ...] | None:
        """What an edit returns; where it raises, nothing of it stays in the drafts. The same edit at the same place is made once."""
        key = (finding.code, str(finding.source), finding.entity)
        if key in self.made_at:
            return self.made_at[key]
        before = {path: draft.marks() for path, draft in self.drafts.items()}
        try:
            self.made_at[key] = edit(self, finding)
        except Unfixable:
            for path, draft in self.drafts.items():
                draft.back(before.get(path))
            raise
        return self.made_at[key]

    def texts(self) -> dict[Path, bytes]:
        """The files that change, with their new contents. Replacements that do not go together raise `Unfixable`."""
        try:
            results = {path: draft.result() for path, draft in self.drafts.items()}
        except (cst.CSTValidationError, AttributeError, TypeError) as error:
            raise Unfixable(f"the edits do not go together: {error}") from error
        return {path: text for path, text in results.items() if text != self.drafts[path].data}

    def made(self, path: str, finding: Finding | None = None) -> tuple[Draft, cst.Call]:
        """The call that makes the module at a path.

        Where one line makes several of its class, they are told apart by their order. With a finding, all modules that the call makes
        have to be among those of the finding: a layer that is made there too, and is used otherwise, must not change.
        """
        node = self.modules.get(path)
        if node is None or node.source is None:
            raise Unfixable(f"no line is known that makes {path or 'the model'}")
        draft = self.draft(node.source)
        calls = [call for call in draft.calls(node.source.line) if draft.kind(call) == node.kind]
        peers = [other.path for other in self.analysis.tree.modules if other.kind == node.kind and other.source == node.source]
        if not calls:
            raise Unfixable(f"line {node.source.line} makes {path} without naming {node.kind}")
        if len(peers) % len(calls):
            raise Unfixable(
                f"line {node.source.line} makes {len(peers)} {node.kind} by {len(calls)} calls: which makes {path} is not clear"
            )
        number = peers.index(path) % len(calls)
        if finding is not None:
            others = [peer for peer in peers[number :: len(calls)] if peer not in (finding.module, *finding.also)]
            if others:
                raise Unfixable(f"line {node.source.line} makes {others[0]} too, which is used otherwise")
        return draft, calls[number]

    def called(self, path: str) -> tuple[Draft, cst.Call]:
        """The expression that calls the module at a path, by the name of its attribute."""
        source = next((call.source for call in self.analysis.record.calls if call.module == path), None)
        draft = self.draft(source)
        name = path.rpartition(".")[2]
        calls = [
            call
            for call in draft.calls(source.line if source is not None else 0)
            if isinstance(call.func, cst.Attribute) and call.func.attr.value == name
        ]
        if len(calls) != 1:
            raise Unfixable(f"{len(calls)} calls of .{name} stand at line {source.line if source is not None else 0}")
        return draft, calls[0]
