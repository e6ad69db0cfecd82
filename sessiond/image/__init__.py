"""Images for sandboxes where no registry answers: Debian root file systems, built here and imported into Docker."""

from sessiond.image.build import ImageBuildError, build, ensure
from sessiond.image.recipe import VARIANTS

__all__ = ["VARIANTS", "ImageBuildError", "build", "ensure"]
