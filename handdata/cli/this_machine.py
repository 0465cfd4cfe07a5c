"""The flags of the commands about this machine: its model files and its faults."""

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True)
class Assets:
    """Fetch the model files that are not loaded through a hub library, and verify their sha256.

    Without a name, all files that handdata and the tests of its stages need are fetched. They are kept in
    ~/.cache/hand1000 (XDG_CACHE_HOME and HAND1000_CACHE change that).
    """

    names: Positional[tuple[str, ...]] = ()  # names of model files, as --list shows them
    list: bool = False  # only list the files: size, licence, purpose, and whether they are in the cache

    def __call__(self) -> int:
        from handdata import assets

        for line in [assets.listing()] if self.list else assets.fetch_all(self.names):
            print(line)
        return 0


@dataclass(frozen=True)
class Doctor:
    """Check Python, packages, libraries, GPU, disk, model files, token and Hub; each fault is named with its remedy.

    The exit code is 1 if a build or a training cannot run here. Nothing is installed or downloaded.
    """

    offline: bool = False  # ask no server
    json: bool = False  # print one JSON object on stdout

    def __call__(self) -> int:
        from handdata import doctor

        found = list(doctor.findings(hub=not self.offline))
        print(doctor.report(found, self.json))
        return int(any(finding.state == "fault" for finding in found))
