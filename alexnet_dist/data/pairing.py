"""Whether two splits belong together: which options made their pixels different, and whether they share images."""

from __future__ import annotations

from alexnet_dist.data.manifest import Manifest

# The options that change the pixels of a picture but not its size.
PIXEL_OPTIONS = ("quality", "chroma", "filter")


def pixel_differences(first: Manifest, second: Manifest) -> str:
    """Return the options with which two splits were packed differently, `--quality 90 and 75`, or an empty string."""
    pairs = [(name, getattr(first.options, name), getattr(second.options, name)) for name in PIXEL_OPTIONS]
    return ", ".join(f"--{name} {value} and {other}" for name, value, other in pairs if value != other)


def shared_images(first: Manifest, second: Manifest) -> str:
    """Return why two splits of one source hold the same images, as a clause, or an empty string if they do not.

    A source that the manifests do not name, as in sets of earlier versions, is not compared.
    """
    if first.source is None or first.source != second.source:
        return ""
    parts = [_part_of_source(manifest) for manifest in (first, second)]
    if first.options.holdout is None and second.options.holdout is None:
        return "each holds all images of the same source"
    if parts[0] != parts[1]:
        return f"the same source was divided in two ways, {parts[0]} and {parts[1]}"
    return ""


def _part_of_source(manifest: Manifest) -> str:
    options = manifest.options
    return "without --holdout" if options.holdout is None else f"--holdout {options.holdout} --seed {options.seed}"
