"""Damage for files, and how a reader is seen to hold."""

import copy
import random

from saved_helpers import PROMPTS, TOKENS, rollouts

from grpo_credit import CreditError
from grpo_credit.credit.saved import save_rollouts

VALUES = (
    None, True, -1, 10**18, 10**400, 1e308, float("nan"), "x", "", "\x1b[31m\ud800\0", [], ["x"],
    {}, {"x": [1]}, [[[[]]]],
)  # fmt: skip


def leaves(value, path=()):
    """Yield the path of every entry of JSON."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in entries:
        yield (*path, name)
        if isinstance(inner, dict | list):
            yield from leaves(inner, (*path, name))


def with_leaf(value, path, new):
    made = copy.deepcopy(value)
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = new
    return made


def mutations(value, count, seed=0):
    """Replace each entry once by something else, and some more than once."""
    draw = random.Random(seed)
    places = list(leaves(value))
    draw.shuffle(places)
    for place in (places * (1 + count // max(len(places), 1)))[:count]:
        yield place, with_leaf(value, place, draw.choice(VALUES))


def damaged(content, seed=0):
    """Cut a file, and put into it what no file of ours has."""
    draw = random.Random(seed)
    yield b""
    for _ in range(4):
        place = draw.randrange(len(content))
        yield content[:place]
        yield content[:place] + draw.choice([b"\0", b"\xff\xfe", b"[" * 5000]) + content[place:]
    yield b"[" * 200_000
    yield b'{"a":' * 500 + b"1" + b"}" * 500
    yield b"[" + b"9" * 5000 + b"]"
    yield b"null"


def holds(act, *files_named):
    """Whether something works, or is refused in a line that names a file."""
    try:
        act()
    except CreditError as error:
        told = str(error)
        assert any(name in told for name in files_named), told
        assert len(told) < 1000
        return False
    return True


def saved_run(folder, credit, options=None):
    (folder / "rollouts").mkdir(parents=True, exist_ok=True)
    path = folder / "rollouts" / "rollouts_00001.parquet"
    save_rollouts(path, rollouts(), PROMPTS, TOKENS, credit, options)
    return folder
