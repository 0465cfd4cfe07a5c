"""Where the photographs come from: a recipe's `[source]` table and the known archives of `manifests/sources.toml`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceOptions:
    """Where annotations and images lie. Paths are relative to the recipe file."""

    kind: str = "zip"  # zip, folder, hub or render
    annotations: tuple[str, ...] = ()  # URLs or files of annotations.zip, mirrors in order; or a folder
    images: tuple[str, ...] = ()  # URLs or files, mirrors in order; {gesture} where there is one archive per gesture
