"""What the card says of where the pictures come from: words, licence, people, citation, for each kind of source."""

from dataclasses import dataclass

from handdata.recipe import SourceOptions

HAGRID_LICENCE = "https://github.com/hukenovs/hagrid/blob/master/license/en_us.pdf"


@dataclass(frozen=True)
class Origin:
    picture: str  # what one row shows: photograph or drawing
    summary: str
    licence: dict[str, str]  # the card's metadata
    licence_line: str
    personal: str
    limits: tuple[str, ...]
    producers: str
    citation: str


HAGRID = Origin(
    picture="photograph of a person",
    summary="Photographs of people making hand gestures, chosen from HaGRID, each with the hand's landmarks and a text"
    " that names the gesture.",
    licence={"license": "other", "license_name": "hagrid", "license_link": HAGRID_LICENCE},
    licence_line=f"Images, boxes and labels: HaGRID by Alexander Kapitanov, Karina Kvanchiani, Alexander Nagaev, Roman"
    f" Kraynov and Andrei Makhliarchuk, under [its own public licence]({HAGRID_LICENCE}) (attribution and share-alike;"
    " not a Creative Commons licence; publicity and privacy rights of the people shown are not granted). Changes: a"
    " choice of images, orientation baked in, scaled down, EXIF removed; landmarks, captions and texts added.",
    personal="The photographs show people, many at home, faces included; HaGRID collected them from crowd workers for"
    " publication. `subject` is a shortened hash of HaGRID's user id. HaGRID's guesses of age, gender and race are not"
    " in this dataset; EXIF, which may hold a place, was removed. Captions describe people as a captioner saw them.",
    limits=(
        "The people are those whom HaGRID's crowd workers were: no even sample of ages, skin tones or countries.",
        "Most pictures are taken by laptop or telephone cameras indoors, from the front.",
        "One gesture is asked for in each picture; what else the hands do is not described.",
    ),
    producers="crowd workers who photographed themselves for HaGRID",
    citation="""@inproceedings{kapitanov2024hagrid,
  title     = {{HaGRID} -- {HAnd} Gesture Recognition Image Dataset},
  author    = {Kapitanov, Alexander and Kvanchiani, Karina and Nagaev, Alexander and Kraynov, Roman
               and Makhliarchuk, Andrei},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision},
  year      = {2024}
}
""",
)

DRAWN = Origin(
    picture="drawing of an invented person",
    summary="Computer-drawn hands making gestures: a HaGRID in small, for trying out tools. It holds no photograph and"
    " no person.",
    licence={"license": "apache-2.0"},
    licence_line="Images, boxes and labels: drawn by `handdata render`, under the Apache licence 2.0 like the program.",
    personal="The pictures are drawn and show nobody; `subject` stands for an invented person.",
    limits=(
        "Drawn hands lack most of what photographs have: a model trained on them draws drawings.",
        "Its purpose is to test tools at any place in minutes, not to train a model that people use.",
    ),
    producers="a program (`handdata render`); no person took part",
    citation="",
)


def origin(source: SourceOptions) -> Origin:
    """Return what is said of a recipe's source; whatever is not drawn is HaGRID, or has its layout and its licence."""
    return DRAWN if source.kind == "render" else HAGRID
