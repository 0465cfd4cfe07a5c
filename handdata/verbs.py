"""The flags of every `handdata` command: one frozen dataclass each, whose call runs the driver."""

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True)
class Assets:
    """Fetch the model files that are not loaded through a hub library, and verify their sha256.

    Without a name: all that handdata and the tests of its stages need. Files are kept in ~/.cache/hand1000
    (XDG_CACHE_HOME and HAND1000_CACHE change that).
    """

    names: Positional[tuple[str, ...]] = ()  # as --list shows them
    list: bool = False  # only say which files there are, where they come from and which are here

    def __call__(self) -> int:
        from handdata import assets

        if self.list:
            assets.print_list()
        else:
            assets.fetch_all(self.names)
        return 0
