"""What every audit of answers says about itself."""

from collections.abc import Mapping
from typing import Any

from whence.attributor import Attributor
from whence.attributor.certified import EXACT, certificate_of
from whence.interfaces.audits import AuditSettings

__all__ = ["settings_of"]


def settings_of(
    owner: Attributor,
    *,
    command: str,
    questions: int,
    null: int,
    exact: bool,
    index: str | None,
    placebo: bool,
    settings: Mapping[str, Any],
    version: str,
    alike: bool = False,
) -> AuditSettings:
    """The run, how documents were scored, and how far such scores were shown to be true.

    With `alike` all sites counted alike, which an index with weights has no certificate for.
    """
    made = owner.recipe(None if exact else index)
    recipe = made.alike if alike else made
    name = f"{recipe.name}-{EXACT}" if exact else owner.open_index(index).folder.name
    if not exact and recipe != made:
        name = f"{name}, read with all sites alike"
    return AuditSettings(
        command=command,
        run=str(owner.run.path),
        model=owner.loaded.name,
        data=", ".join(owner.config.corpus.data[:8]),
        documents=owner.corpus.documents,
        questions=questions,
        null=null,
        recipe="the model was run over the documents" if exact else name,
        placebo=placebo,
        settings={"damping": str(recipe.damping), "method": recipe.method, **settings},
        certificate=certificate_of(owner, name),
        whence_version=version,
    )
