"""The words of the gym: a story told in short English sentences, every token separated by a space."""

from __future__ import annotations

import random

from sage_dpo.gym.arithmetic import MAX_NUMBER, Distractor, Operation, Step, Story

PEOPLE = tuple((name, "He") for name in ("Tom", "Ben", "Max", "Leo", "Sam", "Omar")) + tuple(
    (name, "She") for name in ("Ann", "Mia", "Eva", "Zoe", "Lin", "Ida")
)
OBJECTS = (
    "apples",
    "pears",
    "coins",
    "stamps",
    "shells",
    "marbles",
    "cards",
    "books",
    "pens",
    "stones",
    "eggs",
    "beads",
)

START = "{name} has {n} {objects} ."
QUESTION = "How many {objects} does {name} have now ?"
STEP_SENTENCES = {
    Operation.ADD: ("{he} finds {n} more .", "{he} buys {n} more .", "Then {n} more arrive ."),
    Operation.SUBTRACT: ("{he} loses {n} .", "{he} sells {n} .", "Then {n} are gone ."),
    Operation.MULTIPLY: ("{he} then has {n} times as many .", "Soon there are {n} times as many ."),
    Operation.DIVIDE: ("{he} keeps one of {n} equal parts .", "{he} keeps one in every {n} ."),
}
TEMPTING_SENTENCES = ("{other} has {n} {objects} .", "A shop has {n} {objects} .")
HARMLESS_SENTENCES = ("{he} is {n} years old .", "A bus takes {n} minutes .")
SOLUTION_WORDS = ("+", "-", "*", "/", "=", ".", "The", "answer", "is", "\\boxed{", "}")


def tell(story: Story, rng: random.Random) -> str:
    """Return the problem statement: start, steps with distractors before them, question."""
    (name, pronoun), (other, _) = rng.sample(PEOPLE, 2)
    words = {"name": name, "he": pronoun, "other": other, "objects": rng.choice(OBJECTS)}
    sentences = [START.format(n=story.start, **words)]
    for index, step in enumerate(story.steps):
        around = [d for d in story.distractors if d.position == index]
        sentences += [_distractor_sentence(d, rng).format(n=d.number, **words) for d in around]
        sentences.append(_step_sentence(step, rng).format(n=step.operand, **words))
    return " ".join([*sentences, QUESTION.format(**words)])


def _step_sentence(step: Step, rng: random.Random) -> str:
    return rng.choice(STEP_SENTENCES[step.operation])


def _distractor_sentence(distractor: Distractor, rng: random.Random) -> str:
    return rng.choice(TEMPTING_SENTENCES if distractor.same_object else HARMLESS_SENTENCES)


def vocabulary() -> list[str]:
    """Return every word a problem or a solution can contain, numbers first, without repeats."""
    words = [str(number) for number in range(MAX_NUMBER + 1)] + list(SOLUTION_WORDS)
    templates = [START, QUESTION, *TEMPTING_SENTENCES, *HARMLESS_SENTENCES]
    templates += [sentence for sentences in STEP_SENTENCES.values() for sentence in sentences]
    words += [word for template in templates for word in template.split() if not word.startswith("{")]
    words += [word for person in PEOPLE for word in person] + list(OBJECTS)
    return list(dict.fromkeys(words))
