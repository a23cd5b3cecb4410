"""Where a run comes from: time, machine, commit and command line, without secrets; no torch."""

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
HIDDEN = "<hidden>"

# A key is taken into words: "hub_token", "WANDB_API_KEY", "apiKey". One that ends in "token" or
# "key" hides its value unless the word before says that it is a tokenizer's, or names data.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ALWAYS = re.compile(
    "secrets?|passwords?|passwd|passphrase|credentials?|authorization|cookies?|apikey|authtoken|"
    "accesstoken|hftoken"
)
_ACCOUNTS = re.compile("access|api|auth|bearer|hf|hub|huggingface|refresh|session|wandb")
_HARMLESS = {  # the word before
    "token": re.compile(
        "added|assistant|audio|begin|blank|bos|boa|boi|break|cls|current|end|eoa|eoi|eos|fake|"
        "first|global|image|img|last|latent|mask|new|next|pad|patch|per|placeholder|sep|separator|"
        "special|start|stop|task|think|thinking|tile|tool|unk|utterance|video|vision"
    ),
    "key": re.compile(
        "|answer|batch|cache|column|completion|config|data|dataset|dict|example|field|foreign|"
        "group|image|index|input|label|lookup|messages|metric|output|partition|primary|prompt|"
        "public|query|question|response|reward|row|sample|sort|split|state|target|task|text|type"
    ),
}
_SECRET_TEXT = re.compile(r"hf_[A-Za-z0-9]{16,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def now() -> str:
    """UTC time in ISO format, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_command(command: Sequence[str]) -> dict[str, Any]:
    """Return a command line as a list and as text for a shell, without its secrets."""
    words = list(command)
    for index, word in enumerate(words):
        flag, equals, _ = word.partition("=")
        if not flag.startswith("--") or not is_secret(flag):
            continue
        if equals:
            words[index] = f"{flag}={HIDDEN}"
        elif index + 1 < len(words) and not words[index + 1].startswith("--"):
            words[index + 1] = HIDDEN
    words = [_hide_in_word(word) for word in words]
    return {"argv": words, "shell": shlex.join(words)}


def _hide_in_word(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{flag}{equals}{hide_in_text(value)}"


def is_secret(key: str) -> bool:
    """Whether the text under a key is a credential, by the key's name.

    Example:
        >>> [is_secret(key) for key in ("hub_token", "wandb_key", "eos_token", "num_tokens")]
        [True, True, False, False]
    """
    words = [word.lower() for word in _WORD.findall(key)]
    while words and words[-1] in ("id", "value"):
        words.pop()
    before, last = ["", "", *words][-2:]
    if any(map(_ALWAYS.fullmatch, words)):
        return True
    if last in _HARMLESS:
        return not _HARMLESS[last].fullmatch(before)
    return last in ("tokens", "keys") and bool(_ACCOUNTS.fullmatch(before))


def hide_secrets(value: Any, key: str = "") -> Any:
    """Replace the secrets in a JSON value; see `is_secret`."""
    if isinstance(value, dict):
        under = key if is_secret(key) else ""
        return {name: hide_secrets(entry, under or name) for name, entry in value.items()}
    if isinstance(value, list):
        return [hide_secrets(entry, key) for entry in value]
    if isinstance(value, str):
        return HIDDEN if is_secret(key) else hide_in_text(value)
    return value


def hide_in_text(text: str) -> str:
    """Replace what looks like a Hub token, the login part of a URL, or a secret in JSON."""
    try:
        value = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    if value is not None and (hidden := hide_secrets(value)) != value:
        return json.dumps(hidden)
    return _SECRET_TEXT.sub(HIDDEN, text)


def git_state(file: Path) -> dict[str, Any] | None:
    """Return which commit a file belongs to; None outside a repository or without git.

    Returns:
        "commit"; "tracked", whether the file is under version control; "dirty", whether the tree
        has changes or untracked files that are not ignored. A value that git did not give within
        two seconds is None.
    """
    folder = file.resolve().parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain")
    tracked = _git(folder, "ls-files", "--", str(file.resolve()))
    return {
        "commit": commit,
        "tracked": None if tracked is None else bool(tracked),
        "dirty": None if changes is None else bool(changes),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def one_line(error: BaseException) -> str:
    """Kind and first line of an exception, up to 300 characters, without secrets."""
    text = next(iter(str(error).strip().splitlines()), "")
    return hide_in_text(f"{type(error).__name__}: {text}".removesuffix(": "))[:300]
