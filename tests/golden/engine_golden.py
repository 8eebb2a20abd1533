"""What the engine gives, for every language it is written in: `engine.json`, and the code that writes it.

Token ids, the likeliest next words of 200 prompts and greedy continuations, on both bundled models as int8 artifacts. Logits differ in
their last bits from CPU to CPU, so prompts were kept only where the choices stand clear of each other.

    python tests/golden/engine_golden.py    # writes engine.json anew
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgelm import artifact, manifest, pipeline, source
from edgelm.artifact import Artifact
from edgelm.recipe import load
from edgelm.runtime.predict import complete, suggest
from edgelm.runtime.sampling import GREEDY
from edgelm.runtime.session import Session, open_session
from edgelm.text.tokenizer import Tokenizer

FILE = Path(__file__).with_name("engine.json")
MODELS = ("keyboard-lstm", "chat-transformer")
PROMPTS = 200
SUGGESTIONS = 3
CONTINUATIONS = 3
CONTINUED_TOKENS = 24

CLEAR = 0.02
"""Least gap between neighbouring probabilities as a share of the larger, and between logits: a hundred times what other kernels change."""

SENTENCES = (
    "I would like to find a place to eat in the city centre with some friends tonight",
    "Can you tell me what time the next bus to the airport leaves from here today",
    "Please book a table for four people at seven in the evening on Friday",
    "That sounds great, what is the phone number and the address of the hotel",
    "I am looking for a cheap one way flight from Berlin to New York next week",
    "Sure, the total price for two tickets is 46 dollars, do you want me to buy them",
    "No thanks, that is all I need for now, have a nice day",
    "What is the weather going to be like in San Francisco tomorrow morning",
    "I want to watch a movie with my brother this weekend, something funny if possible",
    "Could you play the new song by that band on the speaker in my bedroom",
    "How many stars does it have and do they allow smoking or pets there",
    "Let me check that for you, please confirm the following details before I go on",
    "My sister will be in town from the 3rd of March until the 12th, she needs a car",
    "Is there a doctor near my house who can see me on Monday afternoon at 2 pm",
    "Send 200 dollars to Mary from my savings account and show me the balance",
    "We'd rather stay at a house with a washing machine and a kitchen, what do you have",
    "They don't serve alcohol but they have live music and outdoor seating every night",
    "The play starts at 8:30 pm at the theater on Broadway, shall I get you two seats",
    "It isn't far from the station, you can walk there in ten minutes or take a cab",
    "I've changed my mind, please make it three people instead of two and half past six",
    "Do you know any good museums or parks that are free for kids under twelve",
    "Add dinner with my parents to my calendar for Saturday at a quarter to eight",
    "The salon on Main Street has a rating of 4.2 and is open until nine",
    "Which airline is it with and will I have to change planes on the way",
    "Hello, I need some help with my plans for the holidays, are you there",
    "Hallo, ich möchte heute Abend in Köln essen gehen, hast du eine Idee für uns",
    "明日の朝、東京の天気はどうですか。",
)

TEXTS = (
    "I'd like to book a table for two at 8:30 pm, please! 👍🏽",
    "Die Straße führt über Köln nach Übersee; das kostet 12,50 €.",
    "東京は日本の首都です。ラーメンが食べたい！",
    "  Cafe\u0301 ﬁne\r\n\tİstanbul \u0000 end  ",
)


def built(name: str) -> Artifact:
    """A bundled model as its int8 artifact, without the proofs of a conversion."""
    model = source.load(name).model
    recipe = load("int8")
    made = pipeline.build(model, recipe, cache=None)
    facts = manifest.build(made.model, recipe, "android-arm64", made.tflite, made.encodings)
    packed = artifact.pack(made.tflite, facts, model.tokenizer)
    return Artifact(Path(name), packed, json.loads(artifact.encode_json(facts)), model.tokenizer)


def prompts() -> Iterator[str]:
    """Every beginning of every sentence, the longest last."""
    words = [sentence.split() for sentence in SENTENCES]
    for length in range(1, max(map(len, words)) + 1):
        yield from (" ".join(sentence[:length]) for sentence in words if len(sentence) >= length)


def of_model(name: str) -> dict[str, Any]:
    """The golden of one model."""
    made = built(name)
    session, tokenizer = open_session(made.tflite), Tokenizer.from_json(made.tokenizer or "")
    suggestions: dict[str, list[str]] = {}
    for prompt in prompts():
        words = suggest(session, tokenizer, prompt, SUGGESTIONS + 1)
        chances = [word.probability for word in words]
        clear = all(after < before * (1 - CLEAR) for before, after in itertools.pairwise(chances))
        if clear and len(suggestions) < PROMPTS:
            suggestions[prompt] = [word.text for word in words[:SUGGESTIONS]]
    longest_first = reversed(list(prompts()))
    beginnings = itertools.islice((text for text in longest_first if stands_clear(session, tokenizer, text)), CONTINUATIONS)
    return {
        "ids": {text: tokenizer.encode(text) for text in TEXTS},
        "suggestions": suggestions,
        "continuations": {text: "".join(complete(session, tokenizer, text, CONTINUED_TOKENS, GREEDY)) for text in beginnings},
    }


def stands_clear(session: Session[Any], tokenizer: Tokenizer, text: str) -> bool:
    """Whether each token of the greedy continuation is clearly the likeliest, and there are some."""
    written = tokenizer.encode("".join(complete(session, tokenizer, text, CONTINUED_TOKENS, GREEDY)))
    ids = [*([] if tokenizer.start_id is None else [tokenizer.start_id]), *tokenizer.encode(text)]
    session.reset()
    rows = [session.prefill(ids).copy(), *(session.step(i).copy() for i in written)]
    gaps = [float(row.max() - sorted(row)[-2]) for row in rows]
    return len(written) >= CONTINUED_TOKENS // 4 and min(gaps) > CLEAR


if __name__ == "__main__":
    golden = {name: of_model(name) for name in MODELS}
    FILE.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
