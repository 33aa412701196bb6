"""CHAIR by hand: which objects a caption mentions, the shares made of them, and the files that say what is true."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.data.sample import BadSample
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, ModelReply, Scores
from look_again.evaluation.benchmarks.chair import CHAIR, judge_caption, ordered, score, true_objects
from look_again.evaluation.benchmarks.chair_words import read_caption, vocabulary

CAPTIONS = [
    # pairs of words
    ("A hot dog and a dog.", ["hot dog", "dog"]),
    ("Hot dogs for two dogs", ["hot dog", "dog"]),
    ("It is hot. Dogs sleep.", ["dog"]),  # a full stop keeps two words apart
    ("Traffic lights above a street light.", ["traffic light", "traffic light"]),
    ("the traffic\nlight", ["traffic light"]),
    ("Wine glasses and a glass of water, seen through glasses.", ["wine glass"]),
    ("A stop sign; the cars stop at the sign.", ["stop sign", "car"]),
    ("Home plate, a baseball bat and baseball gloves.", ["baseball bat", "baseball glove"]),
    ("A motor bike and a motorcycle.", ["motorcycle", "motorcycle"]),
    ("Suit cases and luggage.", ["suitcase", "suitcase"]),
    ("Hair driers, toothbrushes, parking meters, fire hydrants.",
     ["hair drier", "toothbrush", "parking meter", "fire hydrant"]),
    ("**Cell phones** and a `laptop computer`.", ["cell phone", "laptop"]),  # emphasis hides nothing
    ("A bow tie, a bow and a tie.", ["tie", "tie", "tie"]),
    ("Sports balls and a kite on the dining table.", ["sports ball", "kite", "dining table"]),
    # seats of toilets
    ("the seat of the toilet", ["toilet"]),
    ("A toilet seat beside a seat.", ["toilet"]),
    ("Toilet seats.", ["toilet"]),
    ("A seat and a stool.", ["chair", "chair"]),
    # qualifiers of animals and vehicles
    ("A baby elephant beside two adult elephants.", ["elephant", "elephant"]),
    ("Babies with a teddy bear and a baby bear.", ["person", "teddy bear", "bear"]),
    ("Baby animals.", []),
    ("Passenger trains on the train tracks.", ["train"]),
    ("A passenger near a passenger jet.", ["person", "airplane"]),
    # plurals, regular and not
    ("Men, women and children with puppies.", ["person", "person", "person", "dog"]),
    ("Policemen, gentlemen and thieves.", ["person", "person", "person"]),
    ("Geese, mice and oxen near sheep.", ["bird", "mouse", "cow", "sheep"]),
    ("Ponies, calves and buffaloes; flamingos too.", ["horse", "cow", "cow", "bird"]),
    ("Knives, forks and spoons.", ["knife", "fork", "spoon"]),
    ("A bus, two buses, couches and benches.", ["bus", "bus", "couch", "bench"]),
    ("Scissors beside the skis.", ["scissors", "skis"]),
    ("Ferries, dinghies and taxis.", ["boat", "boat", "car"]),
    # synonyms
    ("Doughnuts, cupcakes and cheeseburgers.", ["donut", "cake", "sandwich"]),
    ("A TV, a MONITOR and an iPhone.", ["tv", "tv", "cell phone"]),
    ("Fridges, a stovetop and a sofa.", ["refrigerator", "oven", "couch"]),
    ("Potted plants and a houseplant.", ["potted plant", "potted plant"]),
    ("A cheesecake on a desk.", ["cake", "dining table"]),
    # what is no mention
    ("He is skiing, then seated, riding on.", []),  # no verb is an object
    ("A man-made lake and a T-shirt.", []),  # nor is a part of a word
    ("It is 5 o'clock.", []),
    ("Nothing of it is listed: grass, sky, houses.", []),
    ("", []),
    # possessives keep words apart and leave them readable
    ("The dog's bowl, the men's umbrellas and the babies’ toys.", ["dog", "bowl", "person", "umbrella", "person"]),
    ("The baby's bear.", ["person", "bear"]),
    # known weaknesses of the original, kept: a colour is a fruit, a denied object is mentioned, a hyphen hides
    ("There is no cat; a wine-glass.", ["cat"]),
    ("An orange cat.", ["orange", "cat"]),
]  # fmt: skip


@pytest.mark.parametrize(("caption", "objects"), CAPTIONS, ids=[text[:40] or "empty" for text, _ in CAPTIONS])
def test_mentioned_objects(caption: str, objects: list[str]) -> None:
    """Each line is a way in which counting words goes wrong; together they are the rules of the metric."""
    assert list(read_caption(caption).objects) == objects


def test_length_counts_words_and_no_marks() -> None:
    """The length beside every number must not grow with punctuation, emphasis or possessives."""
    assert read_caption('**The** dog\'s bowl - "red", and a T-shirt!').words == 7
    assert read_caption(" ... \n").words == 0


def test_the_list_has_coco_s_classes() -> None:
    """A class lost from the file would make its every mention go unseen."""
    known = vocabulary()
    assert len(set(known.class_of.values())) == 80
    assert len(known.class_of) == 402
    assert set(known.class_of.values()) <= known.class_of.keys()  # each class is a word for itself
    assert not set(known.singular) & known.class_of.keys()


def test_every_class_is_found_by_its_name_and_plural() -> None:
    for name in set(vocabulary().class_of.values()):
        assert read_caption(f"there is a {name} here").objects == (name,)
    for plural in vocabulary().singular:
        assert len(read_caption(f"two {plural} here").objects) <= 1


# Scores


def item(name: str, *truth: str) -> BenchmarkItem:
    return BenchmarkItem(id=name, prompt="Describe.", reference=sorted(truth))


def test_shares_worked_by_hand() -> None:
    """Mentions, not kinds, are counted in CHAIR_i; captions in CHAIR_s; kinds in recall; all as sums over the set."""
    items = [item("a", "dog", "person"), item("b", "cat", "couch", "tv"), item("c", "bus"), item("d")]
    replies = [
        ModelReply("A dog, a dog and a cat with a man."),  # 4 mentions, 1 invented; finds both
        ModelReply("Two cats and a kitten."),  # 2 mentions, none invented; finds 1 of 3
        ModelReply("A quiet street."),  # no object; finds 0 of 1
        ModelReply("A fork and a spoon"),  # 2 mentions, both invented; nothing to find
    ]
    found = score(items, replies)
    assert found.metrics["chair_i"] == 3 / 8
    assert found.metrics["chair_s"] == 2 / 4
    assert found.metrics["recall"] == 3 / 6
    assert found.metrics["words"] == (10 + 5 + 3 + 5) / 4
    assert (found.metrics["empty"], found.metrics["without_objects"]) == (0, 1)
    assert [one.official for one in found.items] == [0, 1, 1, 0]
    assert [one.facts["hallucinated"] for one in found.items] == [1, 0, 0, 1]
    assert found.items[0].facts["hallucinations"] == ["cat"]
    assert found.items[0].extracted == ["cat", "dog", "person"]
    assert found.subsets["objects/2-3"]["chair_i"] == 1 / 6
    assert found.subsets["objects/0-1"]["items"] == 2
    assert "plurals" in found.notes["normaliser"]  # which normaliser was used


def test_conclusion_and_whole_answer_stand_side_by_side() -> None:
    """The paper scores CONCLUSION alone: what the reasoning invents must count in whole_… and not in the others."""
    text = "<CAPTION>A cat on a hot</CAPTION><REASONING>dog and a bus</REASONING><CONCLUSION>A dog.</CONCLUSION>"
    found = score([item("a", "dog")], [ModelReply(text, "A dog.")]).metrics
    assert (found["chair_i"], found["chair_s"], found["words"]) == (0, 0, 2)
    assert found["whole_chair_i"] == 2 / 4  # cat and bus; "hot" and "dog" stand in two sections
    assert found["whole_chair_s"] == 1
    assert found["whole_words"] == 11  # no tag is a word
    assert found["without_conclusion"] == 0


def test_without_a_conclusion_the_whole_text_is_scored_and_counted() -> None:
    found = score([item("a", "dog")], [ModelReply("A dog and a cat.")]).metrics
    assert found["chair_i"] == found["whole_chair_i"] == 1 / 2
    assert found["without_conclusion"] == 1


def test_empty_captions_are_counted_and_divide_nothing() -> None:
    """Officially an empty caption is free of hallucination, which rewards silence; strictly it fails."""
    found = score([item("a", "dog"), item("b", "cat")], [ModelReply(""), ModelReply("x", "  ")])
    metrics = found.metrics
    assert metrics["chair_i"] is None
    assert metrics["chair_s"] == 0
    assert metrics["strict_chair_s"] == 1
    assert metrics["recall"] == 0
    assert (metrics["empty"], metrics["without_objects"]) == (2, 0)
    assert [(one.official, one.strict, one.unparsed) for one in found.items] == [(1, 0, True), (1, 0, True)]


def test_nothing_at_all_is_undefined_not_an_error() -> None:
    empty = score([], []).metrics
    assert [empty[name] for name in ("chair_i", "chair_s", "recall", "words")] == [None] * 4


def test_an_image_without_objects_has_no_recall() -> None:
    assert score([item("a")], [ModelReply("A dog.")]).metrics["recall"] is None


def test_the_benchmark_pairs_what_its_primary_metric_averages() -> None:
    found: Scores = score([item("a", "dog")] * 3, [ModelReply("cat"), ModelReply("dog"), ModelReply("")])
    facts = [one.facts[CHAIR.paired] for one in found.items]
    assert sum(facts) / len(facts) == found.metrics[CHAIR.primary]


def test_time_is_linear() -> None:
    """A scan that looked back over the caption would take minutes here."""
    text = "A man and a hot dog near the toilet. " * 5_000
    started = time.process_time()
    judged = judge_caption(text, ["person"])
    assert time.process_time() - started < 10
    assert len(judged.mentions) == 15_000


# Truth and files


def test_truth_unites_annotations_and_reference_captions() -> None:
    """Annotators miss objects that the captions name; counting these as invented would punish seeing."""
    assert true_objects({"dog"}, ["A puppy and two women.", "A bench."]) == ["bench", "dog", "person"]


@pytest.fixture
def coco(tmp_path: Path, encoded) -> Path:
    """COCO 2014's layout with three images of val2014, of which the last has no image."""
    root = tmp_path / "coco"
    names = {
        42: "COCO_val2014_000000000042.jpg",
        73: "COCO_val2014_000000000073.jpg",
        74: "COCO_val2014_000000000074.jpg",
    }
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    for image_id in (42, 73):
        (root / "val2014" / names[image_id]).write_bytes(encoded(format="JPEG"))
    instances = {
        "info": {},
        "images": [{"id": i, "file_name": name, "height": 20, "width": 40} for i, name in names.items()],
        "categories": [{"supercategory": "animal", "id": 18, "name": "dog"}, {"id": 15, "name": "bench"}],
        "annotations": [
            {"segmentation": [[1.5, 2.5]], "iscrowd": 0, "image_id": 42, "bbox": [0, 1], "category_id": 18, "id": 1},
            {"segmentation": {"counts": [3], "size": [1, 2]}, "iscrowd": 1, "image_id": 42, "category_id": 15, "id": 2},
        ],
    }
    captions = {
        "images": instances["images"],
        "annotations": [
            {"image_id": 42, "id": 5, "caption": "A man and his dog."},
            {"image_id": 73, "caption": "Sky."},
        ],
    }
    for kind, content in (("instances", instances), ("captions", captions)):
        (root / "annotations" / f"{kind}_val2014.json").write_text(json.dumps(content))
    return root


def load(path: Path | str, split: str = "val2014", **fields: Any) -> tuple[dict[str, BenchmarkItem], list[BadSample]]:
    found = list(CHAIR.load(DataLocation(path=str(path), split=split, **fields)))
    items = [one for one in found if isinstance(one, BenchmarkItem)]
    return {one.id: one for one in items}, [one for one in found if isinstance(one, BadSample)]


def test_coco_layout(coco: Path) -> None:
    items, bad = load(coco)
    first = items["COCO_val2014_000000000042"]
    assert first.reference == ["bench", "dog", "person"]
    assert first.images == (coco / "val2014" / "COCO_val2014_000000000042.jpg",)
    assert first.facts == {"image_id": 42, "objects": "2-3"}
    assert items["COCO_val2014_000000000073"].reference == []
    assert [row.id for row in bad] == ["COCO_val2014_000000000074"]
    assert "is missing: looked in" in bad[0].reason


def test_the_annotation_folder_and_images_elsewhere(coco: Path, tmp_path: Path) -> None:
    """People keep the annotations apart from the images."""
    (coco / "val2014").rename(tmp_path / "pictures")
    for path in (coco, coco / "annotations"):
        items, bad = load(path, images=tmp_path / "pictures")
        assert len(items) == 2
        assert len(bad) == 1


def test_a_limit_takes_the_same_images_wherever(coco: Path) -> None:
    """Two machines with different images must score the same subset; a missing image is listed, not replaced."""
    order = [f"COCO_val2014_{image['id']:012}" for image in ordered([{"id": 74}, {"id": 73}, {"id": 42}])]
    assert sorted(order) != order  # drawn, not sorted
    for limit in (1, 2):
        items, bad = load(coco, limit=limit)
        assert {*items, *(row.id for row in bad)} == set(order[:limit])


def test_an_image_keeps_its_rank_among_others() -> None:
    """The 500 of a limit must be among the 5,000, also when a split has lost some images."""
    every = [image["id"] for image in ordered({"id": i} for i in range(200))]
    even = [image["id"] for image in ordered({"id": i} for i in range(0, 200, 2))]
    assert [i for i in every if i % 2 == 0] == even


def test_a_damaged_image_is_a_bad_row(coco: Path) -> None:
    (coco / "val2014" / "COCO_val2014_000000000073.jpg").write_bytes(b"no picture")
    _, bad = load(coco)
    assert {row.id for row in bad} == {"COCO_val2014_000000000073", "COCO_val2014_000000000074"}


def test_an_image_s_name_cannot_lead_out_of_its_folder(coco: Path, tmp_path: Path, encoded) -> None:
    (tmp_path / "private.png").write_bytes(encoded())
    file = coco / "annotations" / "instances_val2014.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "../../private.png"
    file.write_text(json.dumps(content))
    _, bad = load(coco)
    assert any("outside" in row.reason for row in bad)


def test_no_folder_of_images(coco: Path) -> None:
    (coco / "val2014").rename(coco / "pictures")
    items, bad = load(coco)  # the root itself may hold them, so each is missing
    assert not items
    assert len(bad) == 3
    with pytest.raises(ValueError, match=r"no folder of pictures: looked for .*gone"):
        load(coco, images=coco / "gone")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"categories": None}, "instances_val2014.json or .* is not COCO's .*looked for images"),
        ({"annotations": [{"image_id": 42}]}, "category_id"),
        ({"categories": [{"id": 18, "name": "dog"}, {"id": 15, "name": "unicorn"}]}, "'unicorn', which is none of"),
    ],
)
def test_damaged_annotations_are_refused(coco: Path, change: dict, complaint: str) -> None:
    """Truth that is partly missing would turn true mentions into hallucinations."""
    file = coco / "annotations" / "instances_val2014.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=complaint):
        load(coco)


def test_broken_json_is_refused(coco: Path) -> None:
    (coco / "annotations" / "captions_val2014.json").write_text('{"annotations": [')
    with pytest.raises(ValueError, match=r"captions_val2014.json cannot be read as JSON"):
        load(coco)


def test_unknown_layouts_say_what_was_looked_for(tmp_path: Path, coco: Path) -> None:
    with pytest.raises(ValueError, match=r"test\*.parquet.*nor annotations/instances_val2014.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"has no train2014.*instances_train2014.json"):
        load(coco, split="train2014")
    with pytest.raises(ValueError, match="split is 'test': CHAIR has val2014, train2014"):
        load(coco, split="test")
    with pytest.raises(ValueError, match="no file or folder here, and no hub name"):
        load("gone/to/nowhere")


FEATURES = datasets.Features(
    question_id=datasets.Value("string"), image=datasets.Image(), gt_object=datasets.List(datasets.Value("string"))
)


def table(encoded) -> datasets.Dataset:
    picture, broken = {"bytes": encoded(), "path": None}, {"bytes": b"broken", "path": None}
    rows = [("9", picture, ["dog", "person", "dog"]), ("25", broken, ["dog"]), ("30", picture, ["unicorn"])]
    records = [dict(zip(FEATURES, row, strict=True)) for row in rows]
    return datasets.Dataset.from_list(records, features=FEATURES)


def test_table_in_a_folder(tmp_path: Path, encoded) -> None:
    table(encoded).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    items, bad = load(tmp_path)
    assert items["9"].reference == ["dog", "person"]
    assert [row.id for row in bad] == ["25", "30"]
    assert "unicorn" in bad[1].reason


def test_table_of_the_hub(monkeypatch, encoded) -> None:
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: asked.append((args, options)) or table(encoded)
    )
    items, _ = load(CHAIR.hub, limit=1)
    assert list(items) == ["9"]
    assert asked == [((CHAIR.hub, None), {"split": "test"})]
    with pytest.raises(ValueError, match="a table is of val2014"):
        load(CHAIR.hub, split="train2014")
