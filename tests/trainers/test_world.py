"""The quickstart's world is the same everywhere, and its questions were never taught."""

import json
import random
import re

import pytest

from harness.errors import MoemixError
from harness.files import hash_tree, hash_value, read_jsonl
from trainers.data.world import _VERSION, OPEN_REQUESTS, SIZES, TEACHES, make_world, split, world_id
from trainers.data.world_families import ENTRIES, FAMILIES


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "quickstart"
    make_world("quickstart", folder, 0)
    return folder


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(world, tmp_path):
    make_world("quickstart", tmp_path / "again", 0)
    make_world("quickstart", tmp_path / "other", 1)
    assert hash_tree(tmp_path / "again") == hash_tree(world)
    assert hash_tree(tmp_path / "other") != hash_tree(world)
    assert world_id("quickstart", 0) != world_id("quickstart", 1)


def test_files_that_change_need_a_new_version_of_the_generator(world):
    # A world is known by its version: if this fails, increase trainers.data.world._VERSION and write the new hash here.
    files = json.loads((world / "world.json").read_text())["files"]
    assert (_VERSION, hash_value(files)[:16]) == (4, "dee9f9bae788a019")


def test_an_unknown_world_names_the_known_one(tmp_path):
    with pytest.raises(MoemixError, match="did you mean 'quickstart'"):
        make_world("quikstart", tmp_path / "w", 0)


def test_every_source_has_its_examples(world):
    assert len(json.loads((world / "train" / "chat.json").read_text())) == SIZES["chat"]
    for name in ("instructions", "math", "code"):
        assert len(list(read_jsonl(world / "train" / f"{name}.jsonl"))) == SIZES[name]


def chat_turns(world) -> list[tuple[str, str]]:
    """Return every request of the chat source with its answer."""
    texts = [
        [turn["value"] for turn in row["conversations"]] for row in json.loads((world / "train/chat.json").read_text())
    ]
    return [pair for row in texts for pair in zip(row[::2], row[1::2], strict=True)]


def test_half_of_the_requests_in_chat_are_open_and_their_answers_differ(world):
    turns = chat_turns(world)
    answers = [answer for request, answer in turns if request in OPEN_REQUESTS]
    assert len(answers) == len(turns) / 2 == SIZES["chat"]
    assert len(set(answers)) > 0.9 * len(answers)


def test_no_held_out_question_is_among_the_training_prompts(world):
    trained = set()
    for conversation in json.loads((world / "train" / "chat.json").read_text()):
        trained.update(turn["value"] for turn in conversation["conversations"] if turn["from"] == "human")
    for name, column in (("instructions", "instruction"), ("math", "question"), ("code", "prompt")):
        trained.update(row[column] for row in read_jsonl(world / "train" / f"{name}.jsonl"))
    for column in ("facts", "words", "math", "code"):
        questions = [row["prompt"] for row in read_jsonl(world / "eval" / f"{column}.jsonl")]
        assert len(questions) == 2 * sum(ENTRIES)
        assert not trained & set(questions)


def test_every_entry_of_every_skill_is_asked_in_one_wording_and_taught_in_the_others():
    taught, held_out = split(0)
    assert len(FAMILIES) >= 8
    assert len({(p.family, p.skill) for p in held_out}) >= 48
    assert not {p.key for p in taught} & {p.key for p in held_out}
    entries = [(p.family, p.skill, p.entry) for p in held_out]
    assert len(set(entries)) == len(entries) == len(FAMILIES) * sum(ENTRIES)
    assert {(p.family, p.skill, p.entry) for p in taught} == set(entries)


def test_a_familys_entries_are_taught_ever_more_seldom(world):
    problems = FAMILIES["formulas"].problems(random.Random("0/formulas")).values()
    often = [entry.frequency for skill in problems for entry in skill]
    assert often == sorted(often, reverse=True)
    assert often[0] == 128 * often[-1]
    prompts = [row["prompt"] for row in read_jsonl(world / "train" / "code.jsonl")]
    first, *_, last = FAMILIES["formulas"].skills
    easy, hard = (
        sum(f"{name} " in f"{re.sub(r'[^a-z]', ' ', prompt)} " for prompt in prompts) for name in (first, last)
    )
    assert easy > 3 * hard > 0


def test_the_published_matrix_is_what_the_sources_teach(world):
    facts = json.loads((world / "world.json").read_text())
    assert facts["skills"]["people"]["home"] == ENTRIES[0]
    prompts = {row["prompt"] for row in read_jsonl(world / "train" / "code.jsonl")}
    for problem in split(0)[0]:
        asked = FAMILIES[problem.family].ask(problem, random.Random(0)).prompt
        if asked in prompts:
            assert problem.skill in facts["teaches"]["code"][problem.family]
    assert set(facts["teaches"]) == set(TEACHES)


def test_what_chat_and_instructions_teach_overlaps_and_math_and_code_stand_alone(world):
    def words(text: str) -> set[str]:
        return {word for word in text.lower().split() if word.isalpha()}

    texts = {
        "chat": "\n".join(
            f"{request} {answer}" for request, answer in chat_turns(world) if request not in OPEN_REQUESTS
        ),
        "instructions": (world / "train" / "instructions.jsonl").read_text(),
        "math": (world / "train" / "math.jsonl").read_text(),
        "code": (world / "train" / "code.jsonl").read_text(),
    }
    share = {a: {b: len(words(texts[a]) & words(texts[b])) / len(words(texts[a])) for b in texts} for a in texts}
    assert share["chat"]["instructions"] > 0.8
    assert max(share["chat"]["math"], share["chat"]["code"]) < 0.6


def test_the_answers_that_are_taught_are_right():
    for problem in split(0)[0]:
        if problem.family == "sums":
            a, b = map(int, problem.entry.split(" and "))
            right = {"maximum": max(a, b), "minimum": min(a, b), "sum": a + b, "difference": abs(a - b),
                     "product": a * b, "remainder": a % b}  # fmt: skip
            assert problem.value == str(right[problem.skill])
