"""Which of the truth's categories a predicted class counts as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pycocotools.coco import COCO

from jobs.errors import JobError


class Categories:
    """The truth's categories by class name: the same name, a renamed one, or the only category for all."""

    def __init__(
        self, truth: COCO, rename: Mapping[str, str] | None = None, class_agnostic: bool | None = False
    ) -> None:
        """`class_agnostic` is None for a command that has no such option."""
        self._ids: dict[str, int] = {c["name"]: c["id"] for c in truth.dataset["categories"]}
        self._rename = dict(rename or {})
        self._agnostic = class_agnostic
        if class_agnostic and len(self._ids) != 1:
            raise JobError(f"--class-agnostic: the truth has {len(self._ids)} categories: {self._known()}")
        if class_agnostic and self._rename:
            raise JobError("--class-agnostic counts every class as one; --rename has no place beside it")
        if unknown := [name for name in self._rename.values() if name not in self._ids]:
            raise JobError(f"--rename: the truth has no category {unknown[0]!r}; it has {self._known()}")

    def id_of(self, name: str) -> int:
        """The truth's id of what a class counts as. Raises JobError for a class that the truth lacks."""
        if self._agnostic:
            return next(iter(self._ids.values()))
        found = self._ids.get(self._rename.get(name, name))
        if found is None:
            agnostic = ", or, where the truth has one category, with --class-agnostic"
            raise JobError(
                f"the class {name!r} is not among the truth's categories, {self._known()}; say what it "
                f"counts as with --rename '{name}=...'{'' if self._agnostic is None else agnostic}"
            )
        return found

    def ids_of(self, classes: Sequence[str]) -> list[int]:
        """The ids of all of a model's classes. Raises JobError, also for a renamed class it does not have."""
        if unknown := [name for name in self._rename if name not in classes]:
            known = ", ".join(map(repr, classes))
            raise JobError(f"--rename: the model has no class {unknown[0]!r}; it has {known}")
        return [self.id_of(name) for name in classes]

    def without(self, ids: Iterable[int]) -> list[str]:
        """Names of the truth's categories that are not among `ids`."""
        present = set(ids)
        return [name for name, number in self._ids.items() if number not in present]

    def _known(self) -> str:
        return ", ".join(map(repr, self._ids)) or "none"


def parse_renames(arguments: Iterable[str]) -> dict[str, str]:
    """`["plant=mushroom"]` as a mapping. Raises JobError for one that is not CLASS=CATEGORY."""
    renames: dict[str, str] = {}
    for argument in arguments:
        name, equals, category = argument.partition("=")
        if not (equals and name and category) or name in renames:
            raise JobError(f"--rename {argument}: expected CLASS=CATEGORY, each class once")
        renames[name] = category
    return renames
