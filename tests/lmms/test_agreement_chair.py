"""CHAIR against lmms-eval's: one list of words, equal sums, equal mentions; and what its lemmatiser makes different.

lmms-eval reads captions by NLTK, whose tagger and WordNet have to be downloaded from elsewhere. Where they are not, all
else of its reader runs here on stand-ins that know nouns alone; `reader` decides. It divides by zero where nothing is
mentioned, and has three words that never match (" motor bike" and " cheesecake" by a blank, "iPhone" by its capital).
"""

from __future__ import annotations

import re

import nltk
import pytest
from lmms_eval.tasks.coco_cap_chair import utils as chair

from look_again.evaluation.benchmark import BenchmarkItem, ModelReply
from look_again.evaluation.benchmarks.chair import score
from look_again.evaluation.benchmarks.chair_words import read_caption, vocabulary

DATA = ("corpora/wordnet", "taggers/averaged_perceptron_tagger_eng", "tokenizers/punkt_tab")
HIDDEN = {" motor bike": "motor bike", " cheesecake": "cheesecake", "iPhone": "iphone"}
IRREGULAR = {"men": "man", "women": "woman", "geese": "goose", "mice": "mouse", "knives": "knife", "calves": "calf"}

CAPTIONS = [
    "A hot dog and a dog.",
    "Hot dogs for two dogs.",
    "the seat of the toilet",
    "A toilet seat beside a seat.",
    "Traffic lights above a street light, and a stop sign.",
    "A bow tie, a bow and a tie.",
    "A baby elephant beside two adult elephants.",
    "Men, women and children with puppies.",
    "Geese, mice and sheep; calves too.",
    "Knives, forks and spoons on the dining table.",
    "A bus, two buses, couches and benches.",
    "Passenger trains on the train tracks.",
    "Wine glasses and a glass of water.",
    "Home plate, a baseball bat and baseball gloves.",
    "Suit cases and luggage beside potted plants.",
    "Doughnuts, cupcakes and cheeseburgers.",
    "Fridges, a stovetop and a sofa.",
    "An orange cat on a skateboard.",
    "There is no dog.",
    "A person's bicycle; it's parked.",
    "A well-known t-shirt.",
    "Cell phones, laptop computers and a TV.",
    "Ferries and taxis near a motor cycle.",
    "A pizza",
    "Sky and clouds.",
]


def lemma(word: str) -> str:
    """The singular of a listed noun, by WordNet's endings for nouns; any other word as it is."""
    listed = set(chair.INVERSE_SYNONYM_DICT) | {part for pair in chair.DOUBLE_WORD_DICT for part in pair.split()}
    if word in listed or word in IRREGULAR:
        return IRREGULAR.get(word, word)
    endings = (("s", ""), ("ses", "s"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("ies", "y"))
    forms = [word.removesuffix(old) + new for old, new in endings if word.endswith(old)]
    return next((form for form in forms if form in listed), word)


class Nouns:
    """In place of WordNet's lemmatiser."""

    def lemmatize(self, word: str, pos: str) -> str:
        return lemma(word)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval's reader with NLTK's data, or with stand-ins for tagger, lemmatiser and sentence splitter."""
    try:
        for name in DATA:
            nltk.data.find(name)
    except LookupError:
        words = nltk.tokenize.NLTKWordTokenizer()
        monkeypatch.setattr(chair.nltk, "word_tokenize", lambda text: words.tokenize(re.sub(r"[.;] ", " . ", text)))
        monkeypatch.setattr(chair.nltk, "pos_tag", lambda tokens: [(token, "NN") for token in tokens])
        monkeypatch.setattr(chair, "wordnet", type("Parts", (), {"NOUN": "n", "ADJ": "a", "VERB": "v", "ADV": "r"}))
        monkeypatch.setattr(chair, "WordNetLemmatizer", Nouns)


def test_words_and_classes_are_the_same() -> None:
    """A word that is missing or of another class, among more than 400."""
    theirs = {HIDDEN.get(word, word): name for word, name in chair.INVERSE_SYNONYM_DICT.items()}
    del theirs["stove top oven"]  # three words, which a reader of pairs never joins
    assert vocabulary().class_of == theirs


def test_pairs_of_words_are_the_same() -> None:
    ours = {f"{one} {two}": made for one, row in vocabulary().pairs.items() for two, made in row.items()}
    theirs = {pair: made for pair, made in chair.DOUBLE_WORD_DICT.items() if len(pair.split()) == 2}
    del theirs["wine glas"]  # what an older singulariser made of "wine glass"
    del ours["dining table"]  # one mention either way: "table" alone is one
    assert ours == theirs


@pytest.mark.parametrize("caption", CAPTIONS)
def test_mentions_are_the_same(reader: None, caption: str) -> None:
    _, theirs, *_ = chair.caption_to_words(caption)
    assert list(read_caption(caption).objects) == theirs


def test_words_that_never_match_there(reader: None) -> None:
    for caption, name in (("A motor bike.", "motorcycle"), ("A cheesecake.", "cake"), ("An iPhone.", "cell phone")):
        assert read_caption(caption).objects == (name,)
        assert chair.caption_to_words(caption)[1] == []


def rows() -> tuple[list[tuple[str, list[str]]], list[dict]]:
    """Captions with the truth of their image, and what lmms-eval keeps of each, with mentions as we read them."""
    truths = [["dog", "hot dog"], ["toilet"], ["person", "dog", "bench"], [], ["train"]]
    made = [(caption, truths[at % len(truths)]) for at, caption in enumerate(CAPTIONS)]
    return made, [{"answer": truth, "pred": list(read_caption(caption).objects)} for caption, truth in made]


def test_the_sums_are_equal() -> None:
    """Mentions counted once each, captions instead of mentions, or a mean of recalls instead of one."""
    made, kept = rows()
    items = [BenchmarkItem(id=str(at), prompt="?", reference=truth) for at, (_, truth) in enumerate(made)]
    ours = score(items, [ModelReply(caption) for caption, _ in made]).metrics
    theirs = {name: getattr(chair, f"coco_cap_chair_aggregate_results_{name}")(kept) for name in chair.CHAIR_METRICS}
    assert {name: 100 * (ours[name] or 0) for name in theirs} == pytest.approx(theirs)
    assert all(0 < value < 100 for value in theirs.values())


def test_nothing_mentioned() -> None:
    with pytest.raises(ZeroDivisionError):
        chair.coco_cap_chair_aggregate_results_chair_i([{"answer": ["dog"], "pred": []}])
    ours = score([BenchmarkItem(id="0", prompt="?", reference=["dog"])], [ModelReply("Sky.")]).metrics
    assert (ours["chair_i"], ours["chair_s"], ours["without_objects"]) == (None, 0, 1)
