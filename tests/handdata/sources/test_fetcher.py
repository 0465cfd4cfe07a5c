"""Runs: neighbouring members in one request, gaps bridged up to the limit, sizes that leave work for all threads."""

from handdata.sources.archive import FOLDER, STORED, Entry, span
from handdata.sources.fetcher import Job, Runs


def jobs(count: int, size: int, gap: int, source: str = "a.zip") -> list[Job]:
    """Return jobs whose members are `gap` bytes apart."""
    step = span(Entry("a", STORED, 0, size, size, 0))[1] + gap
    entries = [Entry("a", STORED, 0, size, size, number * step) for number in range(count)]
    return [Job(f"{source}-{entry.offset}", "call", source, entry, "") for entry in entries]


def sizes(members: list[Job], connections: int = 1, bridge: int = 0) -> list[int]:
    runs, lengths = Runs(members, connections), []
    while run := runs.take(lambda: bridge):
        lengths.append(len(run))
    return lengths


def test_runs_bridge_gaps_up_to_the_limit():
    apart = jobs(24, 1000, gap=500)
    assert sizes(apart, bridge=499) == [1] * 24
    assert sizes(apart, bridge=500) == [24]


def test_a_run_has_one_source_and_a_file_of_a_folder_is_a_run_of_its_own():
    assert sizes(jobs(3, 1000, 0, "b.zip") + jobs(2, 1000, 0, "a.zip")) == [2, 3]
    files = [Job(str(number), "call", "folder", Entry("a", FOLDER, 0, 1, 1, FOLDER), "") for number in range(3)]
    assert sizes(files) == [1, 1, 1]


def test_runs_become_smaller_towards_the_end_so_that_all_connections_have_work():
    lengths = sizes(jobs(400, 100_000, gap=0), connections=4)
    assert sum(lengths) == 400 and lengths[0] > 40
    assert lengths == sorted(lengths, reverse=True) and lengths[-3:-1] == [2, 2], "of 256 KiB at least"
