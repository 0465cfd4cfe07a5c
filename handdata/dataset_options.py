"""The recipe's tables for the dataset, apart from what they steer: no command loads pyarrow to parse its flags."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AssembleOptions:
    """How rows become a dataset."""

    near_duplicate: int = 4  # bits of the 64-bit perceptual hash; images of different splits differ in more
    group_bytes: int = 64_000_000  # of images in a row group at most; the Hub's viewer reads up to 100 MB
    file_bytes: int = 400_000_000  # of images in a Parquet file at most


@dataclass(frozen=True)
class PublishOptions:
    """What the card says beyond what the build knows."""

    title: str = ""  # of the dataset; empty: the recipe's name
    contact: str = "the dataset's community page on the Hub"  # whom to ask, for the removal of an image or a person too
    notes: str = ""  # one more known limit, in a sentence
