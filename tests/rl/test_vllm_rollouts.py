"""Rollouts by vLLM against a server of the standard library that answers as vLLM 0.32 was seen to."""

from __future__ import annotations

import base64
import copy
import io
import json
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from look_again.clients.vllm_answers import VllmError
from look_again.core.reattention import Reattention
from look_again.data.sample import Sample
from look_again.rl.rollouts import sample_groups
from look_again.rl.vllm_messages import MARKER, write_weights
from look_again.rl.vllm_rollouts import VllmEngine, VllmRollouts, VllmServer, VllmServers, cut_evenly, stop_ids
from look_again.tabletop.tiny import build_image_processor
from look_again.training.batches import Codec
from look_again.training.module import Reattending
from look_again.training.selection import select_visual_tokens

TEXT, COPY = Reattention(mode="text"), Reattention(mode="copy")
ROUTE = Reattention(mode="route", layout="strip")
GROUP, LENGTH = 2, 6
DEVELOPER = {
    "/is_sleeping": {"is_sleeping": False},
    "/wake_up": {"status": "awake"},
    "/sleep": {"status": "sleeping"},
    "/collective_rpc": {"results": [None]},
    "/reset_mm_cache": None,
    "/reset_encoder_cache": None,
    "/reset_prefix_cache": {"success": True},
}


@dataclass
class FakeVllm:
    """What it was asked, in order, and what it answers. generate: from a request to an answer, or (status, bytes)."""

    codec: Codec
    generate: object = None
    answers: dict = field(default_factory=lambda: dict(DEVELOPER))
    asked: list = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: dict | None) -> object:
        self.asked.append((path, body))
        if urlparse(path).path == "/inference/v1/generate":
            return (self.generate or self.made_up)(body)
        return self.answers.get(urlparse(path).path, (404, b'{"detail":"Not Found"}'))

    def made_up(self, body: dict) -> dict:
        """Answers of different lengths, the last of a group first; the second one never ends."""
        sampling, end = body["sampling_params"], self.codec.tokenizer.eos_token_id
        ids = [[40, 41, end], list(range(50, 50 + sampling["max_tokens"]))] * sampling["n"]
        choices = [choice(index, ids[index], "length" if index % 2 else "stop") for index in range(sampling["n"])]
        return {"prompt_token_ids": self.expand(body), "choices": choices[::-1]}

    def expand(self, body: dict) -> list[int]:
        """The server's part of a prompt: as many tokens per picture as its own processor makes of the bytes."""
        if places := body.get("features", {}).get("mm_placeholders"):
            assert sum(place["length"] for place in places["image"]) == body["token_ids"].count(
                self.codec.config.image_token_id
            )
            return list(body["token_ids"])
        parts = iter(body.get("content_parts", []))
        ids = []
        for token in body["token_ids"]:
            count = 1
            if token == self.codec.config.image_token_id:
                width, height = png(next(parts)).size
                count = self.codec.image_processor.get_number_of_image_patches(height, width, {}) // 4
            ids += [token] * count
        assert next(parts, None) is None
        return ids


def choice(index: int, ids: list[int], reason: str) -> dict:
    content = [{"token_id": id, "logprob": -0.25 * (index + 1), "top_logprobs": []} for id in ids]
    return {"index": index, "token_ids": ids, "finish_reason": reason, "logprobs": {"content": content}}


def png(part: dict) -> Image.Image:
    assert part["type"] == "image_url"
    head, data = part["url"].split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def fake(codec):
    """The server, and the object that answers for it."""
    with answering(FakeVllm(codec)) as vllm:
        yield vllm


@pytest.fixture
def other(codec):
    """A second one."""
    with answering(FakeVllm(codec)) as vllm:
        yield vllm


@contextmanager
def answering(vllm):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.respond(None)

        def do_POST(self) -> None:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body: dict | None) -> None:
            found = vllm.answer(self.path, body)
            status, data = found if isinstance(found, tuple) else (200, b"" if found is None else encoded(found))
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # clients that give up are part of the tests
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    vllm.url = f"http://127.0.0.1:{server.server_port}"
    yield vllm
    server.shutdown()
    server.server_close()


def encoded(answer: object) -> bytes:
    return json.dumps(answer).encode()


@pytest.fixture(scope="module")
def codec(model, tokenizer):
    processor = build_image_processor()
    processor.size = {"shortest_edge": 56 * 56, "longest_edge": 84 * 140}
    return Codec.of(model.config, tokenizer, processor)


@pytest.fixture(scope="module")
def rows():
    """None, one and two pictures; none of them at a size that the processor leaves alone."""
    pictures = [Image.fromarray(noise(seed, *size)) for seed, size in enumerate([(61, 140), (200, 90), (35, 50)])]
    return [
        Sample(id="one", question="Where?", images=(pictures[0],), source="s"),
        Sample(id="none", question="How many?", source="s"),
        Sample(id="two", question="Same?", images=(pictures[1], pictures[2]), source="s"),
    ]


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sample(fake, codec, rows, **changes):
    server = VllmServer(fake.url, timeout=20, stop_token_ids=(99,))
    return server.sample_groups(codec, rows, TEXT, **{"group": GROUP, "max_new_tokens": LENGTH} | changes)


def requests(fake):
    return [body for path, body in fake.asked if path == "/inference/v1/generate"]


def test_groups_are_in_order(fake, codec, rows):
    """Would catch answers credited to another question or another place of the group, which come in any order."""
    found = sample(fake, codec, rows)
    assert [rollout.sample.id for rollout in found] == ["one", "one", "none", "none", "two", "two"]
    end = codec.tokenizer.eos_token_id
    assert [rollout.completion_ids for rollout in found] == [[40, 41, end], list(range(50, 56))] * 3
    assert [rollout.finished for rollout in found] == [True, False] * 3
    assert [rollout.log_probs for rollout in found] == [[-0.25] * 3, [-0.5] * 6] * 3


def test_a_rollout_is_the_decoding_loops(fake, model, codec, rows):
    """Field by field, with reflections in it: would catch a lost end-of-turn token, other text, another prompt."""
    ends = {"group": GROUP, "max_new_tokens": 24, "generator": torch.Generator().manual_seed(2)}
    expected = sample_groups(model, codec, rows, TEXT, **ends)
    prompts = [rollout.example.prompt_ids for rollout in expected]

    def replay(body):
        first = prompts.index(fake.expand(body))
        reasons = ["stop" if rollout.finished else "length" for rollout in expected]
        group = [choice(i, expected[first + i].completion_ids, reasons[first + i]) for i in range(GROUP)]
        return {"prompt_token_ids": prompts[first], "choices": group}

    fake.generate = replay
    found = VllmServer(fake.url, stop_token_ids=stop_ids(model)).sample_groups(
        codec, rows, TEXT, group=GROUP, max_new_tokens=24
    )
    for ours, served in zip(expected, found, strict=True):
        for name in ("sample", "text", "completion_ids", "finished"):
            assert getattr(ours, name) == getattr(served, name), name
        assert ours.example == served.example
        if ours.item.pixel_values is not None:
            assert torch.equal(ours.item.pixel_values, served.item.pixel_values)
            assert torch.equal(ours.item.image_grid_thw, served.item.image_grid_thw)


def test_reflections_are_counted_as_the_decoding_loop_counts_them(fake, codec, rows):
    tag = codec.tag_ids["<REFLECTION>"]
    ids = [tag, 40, tag, 41]
    fake.generate = lambda body: {
        "prompt_token_ids": fake.expand(body),
        "choices": [choice(0, ids, "length"), choice(1, [40] * 4, "length")],
    }
    found = sample(fake, codec, rows[1:2], max_new_tokens=4)
    assert [rollout.example.chosen for rollout in found] == [[[], []], []]
    assert found[0].text.count("<REFLECTION>") == 2


def test_a_picture_is_one_token_and_the_pixels_of_the_loss_pass(fake, codec, rows):
    """Would catch a server that resizes otherwise: what it is sent, its processor leaves as it is, bit by bit."""
    found = sample(fake, codec, rows)
    for rollout in found[::GROUP]:
        body = next(body for body in requests(fake) if fake.expand(body) == rollout.example.prompt_ids)
        assert body["token_ids"].count(codec.config.image_token_id) == len(rollout.sample.images)
        pictures = [png(part) for part in body.get("content_parts", [])]
        if pictures:
            seen = codec.image_processor(images=pictures, return_tensors="pt")
            assert torch.equal(seen["pixel_values"], rollout.item.pixel_values)
            assert torch.equal(seen["image_grid_thw"], rollout.item.image_grid_thw)


def test_a_picture_that_would_be_scaled_twice_is_refused(fake, codec, rows):
    """Bounds with nothing between them: the size that fills them is not the size that stays."""
    processor = copy.deepcopy(codec.image_processor)
    processor.size = {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}
    narrow = replace(codec, image_processor=processor)
    with pytest.raises(ValueError, match=r"row 'one': .*84 x 28 pixels.*would be scaled again"):
        sample(fake, narrow, rows[:1])
    assert fake.asked == []


def test_everything_that_shapes_sampling_is_spelled_out(fake, codec, rows):
    """Would catch the server's own top-k, penalty, length or end of turn, and a vision token that may be sampled."""
    sample(fake, codec, rows[:1], temperature=0.7, seed=3)
    config, end = codec.config, codec.tokenizer.eos_token_id
    never = (config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id)
    assert requests(fake)[0]["return_token_ids"] is True
    assert requests(fake)[0]["sampling_params"] == {
        "n": 2,
        "max_tokens": 6,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "ignore_eos": True,
        "stop_token_ids": sorted({end, 99}),
        "logit_bias": {str(token): -1e9 for token in never},
        "logprobs": 0,
        "detokenize": False,
        "seed": 6,
    }


def test_no_two_answers_share_a_seed(fake, codec, rows):
    """vLLM gives answer g of a question the request's seed + g: neighbouring seeds would repeat whole answers."""
    for seed in range(4):
        sample(fake, codec, rows, seed=seed)
    first = [body["sampling_params"]["seed"] for body in requests(fake)]
    assert len({start + g for start in first for g in range(GROUP)}) == 4 * len(rows) * GROUP
    sample(fake, codec, rows[:1], seed=10**30)
    assert 0 <= requests(fake)[-1]["sampling_params"]["seed"] < 2**63 - GROUP


def test_questions_are_under_way_at_once(fake, codec, rows):
    """Would catch one request after another: each is answered only when all have come."""
    together = threading.Barrier(len(rows))

    def wait(body):
        together.wait(timeout=10)
        return fake.made_up(body)

    fake.generate = wait
    assert len(sample(fake, codec, rows)) == len(rows) * GROUP


def test_proxies_of_the_environment_are_not_asked(fake, codec, rows, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(sample(fake, codec, rows[:1])) == GROUP


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Reattention(mode="vision"), "'vision' needs rollouts: decoding"),
        (Reattention(mode="route"), "in a strip; .* needs rollouts: decoding"),
        (replace(ROUTE, ranking="diversity"), "by relevance, in a strip; .* needs rollouts: decoding"),
        (ROUTE, "the policy's model to rank with"),
    ],
    ids=["vision", "grid", "diversity", "no model"],
)
def test_a_policy_that_a_server_cannot_carry_out_is_refused(fake, codec, rows, policy, said):
    """Would catch answers without re-insertion that the loss pass reads with it."""
    with pytest.raises(ValueError, match=said):
        VllmServer(fake.url).sample_groups(codec, rows, policy, group=2, max_new_tokens=6)
    assert fake.asked == []


def test_an_engine_shows_no_chosen_rows(codec, rows, model):
    with pytest.raises(ValueError, match="ROUTE by vLLM needs a server"):
        VllmEngine(None).sample_groups(codec, rows, ROUTE, group=2, max_new_tokens=6, model=model)


@pytest.mark.parametrize(
    "policy", [Reattention(mode="copy", layout="strip"), Reattention(control="blank-image")], ids=str
)
def test_copies_that_differ_from_the_prompts_images_are_refused(fake, codec, rows, policy):
    with pytest.raises(ValueError, match="puts whole images back as it first showed them"):
        VllmServer(fake.url).sample_groups(codec, rows, policy, group=2, max_new_tokens=6)
    assert fake.asked == []


class Replay:
    """Goes on with a scripted answer to each prompt as vLLM would: up to a stop token, or as far as it may."""

    def __init__(self, fake, codec, scripts):
        tokens = codec.family.vision_tokens(codec.config)
        self.fake, self.scripts, self.vision = fake, scripts, {tokens.image, tokens.start, tokens.end}
        self.read = {}  # by prompt, the longest sequence with what was sampled behind it

    def __call__(self, body):
        ids, sampling = self.fake.expand(body), body["sampling_params"]
        prompt, script = next((p, s) for p, s in self.scripts.items() if tuple(ids[: len(p)]) == p)
        written = [token for token in ids[len(prompt) :] if token not in self.vision]
        assert written == script[: len(written)]
        rest = script[len(written) :][: sampling["max_tokens"]]
        stop = next((i for i, token in enumerate(rest) if token in sampling["stop_token_ids"]), None)
        rest = rest if stop is None else rest[: stop + 1]
        self.read[prompt] = [*ids, *rest]
        content = choice(0, rest, "length" if stop is None else "stop")
        return {"prompt_token_ids": ids, "choices": [content]}


@pytest.fixture
def replay(fake, codec, rows):
    """Answers with looks at their beginning, next to each other and at the very end."""
    tag, end = codec.tag_ids["<REFLECTION>"], codec.tokenizer.eos_token_id
    scripts = [[40, tag, 41, 42, tag, 43, end], [tag, 44, end], [tag, tag, 45, 46, 47, 48, 49, tag]]
    prompts = [tuple(codec.item(row, COPY).example.prompt_ids) for row in rows]
    fake.generate = Replay(fake, codec, dict(zip(prompts, scripts, strict=True)))
    return fake.generate


def test_answers_look_again_in_the_sequence_that_the_loss_reads(fake, model, codec, rows, replay):
    """Would catch an image put back at another place than in the loss, a tag asked for twice, a lost token."""
    found = VllmServer(fake.url, timeout=20).sample_groups(codec, rows, COPY, group=GROUP, max_new_tokens=8)
    module = Reattending(model, codec.tag_ids).eval()
    for rollout in found:
        prompt = tuple(rollout.example.prompt_ids)
        script = replay.scripts[prompt]
        assert rollout.completion_ids == script
        assert rollout.finished == (script[-1] == codec.tokenizer.eos_token_id)
        assert len(rollout.log_probs) == len(script)
        visual = prompt.count(codec.config.image_token_id)
        looks = [list(range(visual))] * script.count(codec.tag_ids["<REFLECTION>"])
        if not rollout.finished:
            looks[-1] = []  # the last token that may be sampled: nothing would read the images
        assert rollout.example.chosen == looks
        images = dict(rollout.item.images.tensors)
        features, _ = module.features([rollout.example], **images)
        [slots] = module.sequences([rollout.example], features)
        assert slots.token_ids.tolist() == replay.read[prompt]


@pytest.mark.parametrize("policy", [TEXT, COPY], ids=["text", "copy"])
def test_servers_share_the_answers_of_one(fake, other, codec, rows, replay, policy):
    """Would catch answers in another order, a question asked twice, a server that is left out or gets other seeds."""
    asking = {"group": GROUP, "max_new_tokens": 8, "seed": 3}
    if not policy.inserts:
        fake.generate = None
    other.generate = fake.generate
    alone = VllmServers.at([fake.url]).sample_groups(codec, rows, policy, **asking)
    asked = requests(fake)
    fake.asked.clear()
    shared = VllmServers.at([fake.url, other.url]).sample_groups(codec, rows, policy, **asking)
    assert [rollout.completion_ids for rollout in shared] == [rollout.completion_ids for rollout in alone]
    assert [rollout.log_probs for rollout in shared] == [rollout.log_probs for rollout in alone]
    assert requests(fake)
    assert requests(other)
    assert sorted(map(json.dumps, [*requests(fake), *requests(other)])) == sorted(map(json.dumps, asked))


def test_all_servers_read_the_weights_and_sleep(fake, other, model, tmp_path):
    servers = VllmServers.at([fake.url, other.url])
    servers.check()
    servers.push_weights(model, tmp_path / "weights")
    servers.sleep()
    assert [path for path, _ in fake.asked] == [path for path, _ in other.asked]
    reading = dict(other.asked)["/collective_rpc"]
    assert reading["kwargs"] == {"weights_path": str(tmp_path / "weights")}


def test_a_server_that_is_gone_is_named_among_others(fake, codec, rows):
    with pytest.raises(VllmError, match=r"127\.0\.0\.1:9"):
        VllmServers.at([fake.url, "http://127.0.0.1:9"]).check()


@pytest.mark.parametrize(("count", "parts"), [(7, 3), (2, 4), (0, 2), (6, 2)])
def test_work_is_cut_evenly(count, parts):
    cut = cut_evenly(range(count), parts)
    assert [value for part in cut for value in part] == list(range(count))
    assert len(cut) == parts
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


@pytest.mark.parametrize("keep", [50, 100])
def test_rows_are_chosen_as_the_loss_chooses_them(fake, model, codec, rows, replay, keep):
    """Would catch a ranking that reads another answer, or rows that are shown and not remembered."""
    asking = {"group": GROUP, "max_new_tokens": 8, "model": model}
    policy = replace(ROUTE, keep=keep)
    found = VllmServer(fake.url, timeout=20).sample_groups(codec, rows, policy, **asking)
    module, tag = Reattending(model, codec.tag_ids).eval(), codec.tag_ids["<REFLECTION>"]
    shown = [body for body in requests(fake) if codec.config.image_token_id in body["token_ids"]]
    assert shown
    assert all("features" in body for body in shown)  # files would give whole images the positions of a grid
    for rollout in found:
        prompt, example, images = tuple(rollout.example.prompt_ids), rollout.example, dict(rollout.item.images.tensors)
        assert rollout.completion_ids == replay.scripts[prompt]
        features, _ = module.features([example], **images)
        if example.grids:
            [chosen] = select_visual_tokens(model, [replace(example, chosen=None)], features, tag)
            looks = [list(look) for look in example.chosen]
            assert looks == (chosen if rollout.finished else [*chosen[:-1], []])
            visual = prompt.count(codec.config.image_token_id)
            assert {len(look) for look in looks} <= {0, -(-visual * keep // 100)}
        [slots] = module.sequences([example], features)
        assert slots.token_ids.tolist() == replay.read[prompt]


def test_requests_of_an_answer_draw_from_seeds_of_their_own(fake, codec, rows, replay):
    VllmServer(fake.url, timeout=20).sample_groups(codec, rows, COPY, group=GROUP, max_new_tokens=8, seed=3)
    seeds = [body["sampling_params"]["seed"] for body in requests(fake)]
    assert len(set(seeds)) == len(seeds) == GROUP * (3 + 1 + 3)


def test_an_engine_goes_on_with_all_answers_in_rounds(fake, codec, rows, replay):
    """An engine answers one call at a time; the answers are the server's."""
    served = VllmServer(fake.url, timeout=20).sample_groups(codec, rows, COPY, group=GROUP, max_new_tokens=8)
    calls = []

    class Engine(VllmServer):
        complete = VllmRollouts.complete

        def generate(self, questions):
            calls.append(len(questions))
            return super().generate(questions)

    found = Engine(fake.url, timeout=20).sample_groups(codec, rows, COPY, group=GROUP, max_new_tokens=8)
    assert [rollout.completion_ids for rollout in found] == [rollout.completion_ids for rollout in served]
    assert calls == [6, 4, 4]


def test_a_server_that_samples_past_a_tag_is_not_believed(fake, codec, rows, replay):
    """What comes behind the tag was drawn without the images."""
    scripted = replay.__call__

    def careless(body):
        tag = codec.tag_ids["<REFLECTION>"]
        stops = [token for token in body["sampling_params"]["stop_token_ids"] if token != tag]
        return scripted({**body, "sampling_params": {**body["sampling_params"], "stop_token_ids": stops}})

    fake.generate = careless
    with pytest.raises(VllmError, match=r"went on after a tag|ended an answer"):
        VllmServer(fake.url, timeout=20).sample_groups(codec, rows[:1], COPY, group=2, max_new_tokens=8)


def test_a_server_without_the_token_endpoint_is_named(fake, codec, rows):
    fake.generate = lambda body: (404, b'{"detail":"Not Found"}')
    with pytest.raises(VllmError, match=r"404 .*--enable-scale-out"):
        VllmServer(fake.url, timeout=20).sample_groups(codec, rows, COPY, group=2, max_new_tokens=8)


def broken(change):
    """An answer of the fake after `change` of it, or of its first choice."""

    def generate(fake, body):
        answer = fake.made_up(body)
        answer["choices"].sort(key=lambda c: c["index"])
        return change(answer) or answer

    return generate


def of_first(**values):
    return broken(lambda answer: answer["choices"][0].update(values))


MALFORMED = {
    "another prompt": (broken(lambda a: a["prompt_token_ids"].append(5)), "another prompt for row 'one'"),
    "no prompt": (broken(lambda a: {"choices": a["choices"]}), "no 'prompt_token_ids'"),
    "no choices": (broken(lambda a: {**a, "choices": None}), "no 'choices'"),
    "too few": (broken(lambda a: a["choices"].pop() and None), "1 answers for row 'one', asked for 2"),
    "one twice": (of_first(index=1), "2 answers"),
    "a list": (broken(lambda a: [a]), "malformed answer"),
    "a string": (broken(lambda a: {**a, "choices": ["x", "y"]}), "no 'index'"),
    "no ids": (of_first(token_ids=None), "no 'token_ids'"),
    "no log-probs": (of_first(logprobs=None), "no 'logprobs'"),
    "aborted": (of_first(finish_reason="abort"), "as 'abort' after 3 tokens"),
    "empty": (of_first(token_ids=[], logprobs={"content": []}), "after 0 tokens"),
    "log-probs of other tokens": (of_first(logprobs={"content": []}), "after 3 tokens"),
    "stopped without a stop token": (of_first(**choice(0, [40, 41], "stop")), "as 'stop' after 2 tokens"),
    "went on after a stop token": (of_first(**choice(0, [40] * 7, "length")), "after 7 tokens"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_answer_to_something_else_is_refused(fake, codec, rows, name):
    """Would catch training on what was not asked for."""
    generate, message = MALFORMED[name]
    fake.generate = lambda body: generate(fake, body)
    with pytest.raises(VllmError, match=message):
        sample(fake, codec, rows[:1])


def test_a_sampled_vision_token_is_refused(fake, codec, rows):
    """Would catch a server that ignores logit_bias: the loss would take the logarithm of nothing."""
    ids = [40, codec.config.image_token_id, codec.tokenizer.eos_token_id]
    change = of_first(**choice(0, ids, "stop"))
    fake.generate = lambda body: change(fake, body)
    with pytest.raises(VllmError, match="sampled the vision tokens"):
        sample(fake, codec, rows[:1])


REFUSALS = {
    "old server": ((404, b'{"detail":"Not Found"}'), "answered 404.*--enable-scale-out"),
    "switched off": ((403, encoded({"error": {"message": "Restart it"}})), "403 Forbidden, 'Restart it'.*--enable-sc"),
    "group too large": ((400, encoded({"error": {"message": "n must be"}})), "answered 400 Bad Request, 'n must be'$"),
    "dead engine": ((500, b"EngineCore died"), "answered 500.*EngineCore died"),
    "no JSON": ((200, b"<html>"), "not JSON"),
    "nothing": ((200, b""), "malformed answer of vLLM: no 'prompt_token_ids' in None"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_to_do(fake, codec, rows, name):
    answer, message = REFUSALS[name]
    fake.generate = lambda body: answer
    with pytest.raises(VllmError, match=message):
        sample(fake, codec, rows)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://no.such.host.invalid:80"])
def test_a_server_that_is_not_there_is_named(codec, rows, url):
    with pytest.raises(VllmError, match=rf"no answer from {url}/inference\S* \(.*start `vllm serve`"):
        VllmServer(url).sample_groups(codec, rows, TEXT, group=2, max_new_tokens=6)


def test_a_server_that_does_not_answer_is_given_up(fake, codec, rows):
    """Would catch a run that hangs for good."""
    waiting = threading.Event()
    fake.generate = lambda body: waiting.wait(10) and None
    with pytest.raises(VllmError, match=r"within 0\.2 s"):
        VllmServer(fake.url, timeout=0.2).sample_groups(codec, rows[:1], TEXT, group=2, max_new_tokens=6)
    waiting.set()


def test_pushed_weights_are_whole_and_everything_of_the_old_ones_is_dropped(fake, model, tmp_path):
    """The tied head is in the file too: a vLLM that packs a copy of it would go on with that of the first weights."""
    folder = tmp_path / "weights"
    for _ in range(2):  # the second time over the first
        VllmServer(fake.url).push_weights(model, folder)
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(stored["lm_head.weight"], model.lm_head.weight)
    assert torch.equal(stored["model.embed_tokens.weight"], model.get_input_embeddings().weight)
    assert len(stored) == len(list(model.named_parameters())) + 1
    reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
    once = ["/is_sleeping", "/collective_rpc", "/reset_mm_cache", "/reset_encoder_cache", "/reset_prefix_cache"]
    assert [path for path, _ in fake.asked] == once * 2
    assert fake.asked[1] == ("/collective_rpc", reload)


def test_weights_can_be_stored_small_and_come_from_a_gathered_state(model, tmp_path):
    state = {name: value + 1 for name, value in model.state_dict().items()}
    write_weights(model, tmp_path / "new", state=state, dtype=torch.bfloat16)
    stored = load_file(tmp_path / "new" / "model.safetensors")
    expected = (model.get_input_embeddings().weight + 1).bfloat16()
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert torch.equal(stored["model.embed_tokens.weight"], expected)
    assert model.dtype == torch.float32


def test_a_sleeping_server_wakes_around_the_new_weights(fake, model, tmp_path):
    """Memory for the cache only once the weights are in; a server that stays asleep would never answer."""
    fake.answers["/is_sleeping"] = {"is_sleeping": True}
    server = VllmServer(fake.url)
    server.sleep()
    server.push_weights(model, tmp_path / "weights")
    order = ["/sleep?level=2", "/is_sleeping", "/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]
    assert [path for path, _ in fake.asked][:5] == order


def test_a_cache_that_stays_is_an_error(fake, model, tmp_path):
    fake.answers["/reset_prefix_cache"] = {"success": False}
    with pytest.raises(VllmError, match="prefix cache"):
        VllmServer(fake.url).push_weights(model, tmp_path / "weights")


def test_a_server_without_development_mode_is_told_so(fake, model, tmp_path):
    fake.answers.clear()
    with pytest.raises(VllmError, match=r"is_sleeping answered 404.*VLLM_SERVER_DEV_MODE=1"):
        VllmServer(fake.url).push_weights(model, tmp_path / "weights")


def test_folders_of_others_are_left_alone(fake, model, tmp_path):
    """Would catch a run that replaces the base it started from."""
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(ValueError, match="holds other files"):
        VllmServer(fake.url).push_weights(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "precious"
    assert not (tmp_path / MARKER).exists()
    assert fake.asked == []


def test_a_folder_without_weights_never_reaches_the_server(fake, tmp_path):
    """vLLM drops its weights before it looks for new ones, and dies at the next question."""
    with pytest.raises(ValueError, match="no weights"):
        VllmServer(fake.url).read_weights(tmp_path)
    assert fake.asked == []


class FakeLlm:
    """`vllm.LLM` as far as it is used; notes what it was told."""

    def __init__(self, fake: FakeVllm) -> None:
        self.fake, self.told, self.llm_engine = fake, [], self

    def generate(self, prompts, sampling, use_tqdm):
        return [self.output(*pair) for pair in zip(prompts, sampling, strict=True)]

    def output(self, prompt, sampling):
        pictures = prompt.get("multi_modal_data", {}).get("image", [])
        parts = []
        for image in pictures:
            file = io.BytesIO()
            image.save(file, "PNG")
            url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
            parts.append({"type": "image_url", "url": url})
        body = {"token_ids": prompt["prompt_token_ids"], "sampling_params": vars(sampling), "content_parts": parts}
        answer = self.fake.made_up(body)
        for made in answer["choices"]:
            known = [entry["logprob"] for entry in made["logprobs"]["content"]]
            made["logprobs"] = [
                {id: SimpleNamespace(logprob=value)} for id, value in zip(made["token_ids"], known, strict=True)
            ]
        outputs = [SimpleNamespace(**made) for made in answer["choices"]]
        return SimpleNamespace(prompt_token_ids=answer["prompt_token_ids"], outputs=outputs)

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.told.append((name, args, kwargs)) or True


def test_the_engine_in_this_process_gives_what_the_server_does(fake, codec, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    engine = VllmEngine(FakeLlm(fake), stop_token_ids=(99,))
    found = engine.sample_groups(codec, rows, TEXT, group=GROUP, max_new_tokens=LENGTH)
    for here, there in zip(found, sample(fake, codec, rows), strict=True):
        assert (here.sample.id, here.completion_ids, here.log_probs) == (
            there.sample.id,
            there.completion_ids,
            there.log_probs,
        )
        assert here.example == there.example


def test_the_engine_wakes_around_new_weights(fake, model, tmp_path):
    engine = VllmEngine(FakeLlm(fake))
    engine.sleep()
    for _ in range(2):
        engine.push_weights(model, tmp_path / "weights")
    reload = ("collective_rpc", ("reload_weights",), {"kwargs": {"weights_path": str(tmp_path / "weights")}})
    drop = [(name, (), {}) for name in ("reset_mm_cache", "reset_encoder_cache", "reset_prefix_cache")]
    weights, cache = (("wake_up", (), {"tags": [tag]}) for tag in ("weights", "kv_cache"))
    assert engine.llm.told == [("sleep", (), {"level": 2}), weights, reload, cache, *drop, reload, *drop]


@pytest.mark.parametrize(("told", "expected"), [(None, ()), (7, (7,)), ([7, 8], (7, 8))])
def test_stop_ids_are_those_of_generation(told, expected):
    assert stop_ids(SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=told))) == expected
