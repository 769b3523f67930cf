"""Your own molecule: from a structure and a force field, or files of other programs, to a system folder."""

from bgdiff.setup.folder import new_system
from bgdiff.setup.sources import FromAmber, FromGromacs, FromStructure, FromSystem, Source

__all__ = ["FromAmber", "FromGromacs", "FromStructure", "FromSystem", "Source", "new_system"]
