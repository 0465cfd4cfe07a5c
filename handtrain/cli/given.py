"""The preset and the options that a command line names, read before its flags are parsed."""


def named(argv: list[str], *groups: str) -> tuple[str, tuple[str, ...]]:
    """Return the preset that a command line names, and the options of training that it gives, by their groups."""
    preset = "paper"
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        if flag == "--preset":
            preset = value
        elif flag.startswith("--preset="):
            preset = flag.partition("=")[2]
    words = [word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")]
    given = [word.removeprefix(group) for word in words for group in groups if word.startswith(group)]
    return preset, tuple(name.removeprefix("no_") for name in given)
