"""The words of captions: tokens, stems, names of gestures, and words about hands and the things that they hold.

English only. Word lists and positions decide, not a model, so that a verdict can be explained and is the same on every
machine.
"""

import re
from bisect import bisect_left
from functools import cache
from itertools import accumulate

from handdata.gestures import Own, also, gestures, own_gestures

PHRASE = "§"  # replaces the gesture phrase in a list of tokens


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MALE = _words("man men boy boys guy guys gentleman gentlemen he him his himself male")
FEMALE = _words("woman women girl girls lady ladies she her hers herself female")
PERSONS = _words(
    """
    man men boy boys guy guys gentleman gentlemen woman women girl girls lady ladies person persons people child
    children kid kids baby babies toddler toddlers teenager teenagers couple group crowd adult adults male female
    friend friends family someone somebody anyone
    """
)
COLOURS = _words(
    """
    black white red green blue yellow orange pink purple brown grey gray beige golden gold silver dark light blonde
    blond striped plaid colorful colourful tan navy maroon turquoise teal
    """
)
FUNCTION = _words(
    """
    a an the this that these those some any is are was were be been being am has have having had do does did of in
    on at by for from to with and or as while who whom whose which where when it its he him his himself she her hers
    herself they them their theirs themselves there into onto upon then so also very just too both each one's other
    something someone's appear appears appearing seem seems
    """
)
SPARE = _words("hand hands gesture make makes making")  # a text may add these: the phrase is about them
HANDS = _words(
    """
    hand hands finger fingers fingertip fingertips thumb thumbs palm palms fist fists wrist wrists knuckle knuckles
    pinky pinkie forefinger forefingers arm arms gesture gestures gesturing fingered handed
    """
)
BODY = _words(
    """
    ear ears mouth lip lips face head chin cheek cheeks nose eye eyes chest forehead neck air
    """
)  # parts that hands reach

# Words that may belong to a hand near them: counts, directions, forms.
_NEAR_HANDS = _words(
    """
    one two three four five six ten single up upward upwards down downward downwards out outward together raised
    lifted open opened closed clenched crossed outstretched extended folded stretched spread wide left right index
    middle ring little small first peace victory ok okay thumb v air forward towards toward shape shaped form
    heart sign signs symbol symbols signal signals symbolic apart back different
    various another number numbers motion position pose rude obscene sideways inverted
    """
)
_PHONES = _words("phone phones cellphone cellphones smartphone smartphones telephone telephones cell mobile")
_TOWARDS = _words("to up in near against over on by before at behind under towards toward front of")
_ENDS = _words(
    """
    and or while with in at near next behind as who which over under by for from to on against beside between above
    below through outside inside around towards toward but is are , . ; : ! ? §
    """
)
_NOT_GERUNDS = _words(
    """
    thing king ring rings string spring building ceiling earring morning evening wedding painting drawing clothing
    wing during lightning something anything nothing
    """
)
_IRREGULAR = {
    "wore": "wear", "worn": "wear", "held": "hold", "stood": "stand", "sat": "sit", "gave": "give", "given": "give",
    "made": "make", "shown": "show", "lying": "lie", "lain": "lie", "laid": "lay", "took": "take", "taken": "take",
    "using": "use", "used": "use", "uses": "use", "lies": "lie", "tied": "tie", "ties": "tie", "tying": "tie",
    "dressed": "dress", "dresses": "dress", "glasses": "glasses",
    "sunglasses": "sunglasses", "does": "do", "doing": "do", "done": "do", "goes": "go", "going": "go",
}  # fmt: skip


def tokenise(text: str) -> list[str]:
    """Return the lower-case words and the punctuation marks of a text; hyphens separate, `'s` is removed."""
    return [word for word, _, _ in spans(text)]


def spans(text: str) -> list[tuple[str, int, int]]:
    """Return the tokens of `tokenise`, each with its start and end in the text."""
    matches = re.finditer(r"([^\W_]+(?:['’](?!s\b)[^\W\d_]+)?)(?:['’]s\b)?|[,.;:!?§]", text, re.IGNORECASE)
    return [((match[1] or match[0]).lower().replace("’", "'"), match.start(), match.end()) for match in matches]


def mask_phrase(text: str, phrase: str) -> str:
    """Return a text with the sign § in place of each phrase, so that the phrase's own words are not checked."""
    return re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", f" {PHRASE} ", text.replace(PHRASE, " "))


@cache
def stem(word: str) -> str:
    """Return the form that inflections of a word share, `stand` for `standing`. Words for persons are kept."""
    if word in PERSONS or len(word) <= 3:
        return word
    if word in _IRREGULAR:
        return stem(_IRREGULAR[word]) if _IRREGULAR[word] != word else word
    if word.endswith("ing") and word not in _NOT_GERUNDS and re.search("[aeiouy]", word[:-3]):
        return _bare(word[:-3])
    if word.endswith(("ied", "ies")):
        return word[:-3] + "y"
    if word.endswith("ed") and re.search("[aeiouy]", word[:-2]):
        return _bare(word[:-2])
    if re.search("(s|x|z|ch|sh)es$", word):
        return _bare(word[:-2])
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return _bare(word[:-1])
    return _bare(word)


def _bare(word: str) -> str:
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def _stems(text: str) -> frozenset[str]:
    return frozenset(map(stem, text.split()))


_MAKING = _stems("make gesture")
_GESTURING = _stems(
    "make do give show raise hold lift put place flash display extend stretch throw form signal gesture wave use"
)
_HOLDING = _stems("hold carry grip grab grasp clutch use")
_SPEAKING = _stems("talk speak chat call")


def gestures_named(tokens: list[str]) -> list[tuple[int, int, frozenset[str]]]:
    """Return the places (start, end, gestures that it may mean) where words of `gestures.toml` name a gesture.

    Of two overlapping places the longer one counts, then the earlier one.
    """
    joined = " ".join(tokens)
    starts = list(accumulate((len(token) + 1 for token in tokens), initial=0))  # of each token in the joined text
    hits: dict[tuple[int, int], set[str]] = {}
    for name, pattern in _patterns(own_gestures()):
        for match in pattern.finditer(joined):
            start = bisect_left(starts, match.start())
            hits.setdefault((start, start + match[0].count(" ") + 1), set()).add(name)
    chosen: list[tuple[int, int, frozenset[str]]] = []
    taken = bytearray(len(tokens))
    for (start, end), names in sorted(hits.items(), key=lambda hit: (hit[0][0] - hit[0][1], hit[0][0])):
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            chosen.append((start, end, frozenset(names)))
    return sorted(chosen)


def about_hands(tokens: list[str]) -> set[int]:
    """Return the places of the words about hands, gestures and the things that hands hold. Persons are left out."""
    about = {place for start, end, _ in gestures_named(tokens) for place in range(start, end)}
    about |= {place for place, word in enumerate(tokens) if word in HANDS and not _is_tree(tokens, place)}
    about |= {
        place
        for hand in set(about)
        for place in _around(tokens, hand, 3)
        if tokens[place] in _NEAR_HANDS or stem(tokens[place]) in _GESTURING
    }
    for place, word in enumerate(tokens):
        if stem(word) in _MAKING:
            about.add(place)
        elif stem(word) in _HOLDING:
            about |= _held_by(tokens, place)
        elif stem(word) in _SPEAKING and set(tokens[place + 1 : place + 5]) & _PHONES:
            about |= _held_by(tokens, place + 1) | {place}
        elif word in HANDS and place in about:
            about |= _held_in(tokens, place)
    about |= _touched(tokens, about)
    return {place for place in about if tokens[place] not in PERSONS}


def content(tokens: list[str]) -> list[int]:
    """Return the places of the content words: neither function words nor punctuation."""
    return [place for place, word in enumerate(tokens) if word not in FUNCTION and word[0].isalnum()]


@cache
def _patterns(own: Own) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return the patterns of all gestures; `own` are those that this block has added."""
    with also(own):
        table = gestures()
    entries = ((name, words) for name, g in table.items() for words in (g.phrase.removeprefix("making "), *g.words))
    return tuple((name, _pattern(words)) for name, words in entries)


def _pattern(words: str) -> re.Pattern[str]:
    parts = [" ".join(map(re.escape, tokenise(part))) for part in words.split("*")]
    return re.compile(r"(?<!\S)" + r" (?:[^\W_]+ ){0,3}".join(parts) + r"(?:e?s)?(?!\S)")


def _is_tree(tokens: list[str], place: int) -> bool:
    following = tokens[place + 1 : place + 2]
    return tokens[place].startswith("palm") and following in (["tree"], ["trees"], ["leaf"], ["leaves"])


def _around(tokens: list[str], place: int, reach: int) -> list[int]:
    """Return the places at most `reach` words away, up to the next comma or person."""
    places = []
    for step in (-1, 1):
        for here in range(place + step, place + step * (reach + 1), step):
            if not 0 <= here < len(tokens) or not tokens[here].isalnum() or tokens[here] in PERSONS:
                break
            places.append(here)
    return places


def _held_by(tokens: list[str], verb: int) -> set[int]:
    """Return the verb and its object: the words up to the next preposition, conjunction, verb in -ing or mark."""
    place = verb + 1
    while place < len(tokens) and tokens[place] in ("up", "out", "on", "onto", "into", "a", "an", "the"):
        place += 1
    while place < len(tokens) and not _ends_object(tokens[place]):
        place += 1
    return set(range(verb, place))


def _ends_object(word: str) -> bool:
    return word in _ENDS or word in PERSONS or (word.endswith("ing") and word not in _NOT_GERUNDS)


def _held_in(tokens: list[str], hand: int) -> set[int]:
    """Return the object of `with a cup in his hand`: the words between `with` and `in`."""
    place = hand - 1
    skipped = (FUNCTION | {"left", "right", "two"}) - {"in", "on", "with"}
    while place >= 0 and tokens[place] in skipped:
        place -= 1
    if place < 1 or tokens[place] not in ("in", "on"):
        return set()
    for back in range(place - 1, max(place - 6, -1), -1):
        if tokens[back] == "with":
            return set(range(back + 1, place))
        if _ends_object(tokens[back]):
            break
    return set()


def _touched(tokens: list[str], about: set[int]) -> set[int]:
    """Return the parts of the body that a hand or a held thing touches, with the words in between."""
    touched: set[int] = set()
    for place, word in enumerate(tokens):
        if word not in BODY:
            continue
        way = place - 1
        while way >= 0 and way not in about and tokens[way] in FUNCTION | _TOWARDS:
            way -= 1
        if way >= 0 and way in about and way < place - 1:
            touched |= set(range(way + 1, place + 1))
    return touched
