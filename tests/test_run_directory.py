"""The run directory: claimed once, resumed only by the same configuration."""

import contextlib
import json

import pytest
import torch
from datasets import Dataset
from run_helpers import add_checkpoint, describe, interrupted_run, write_metrics

from grpo_credit.records import directory, manifest


def test_an_empty_or_missing_directory_is_claimed_with_its_manifest(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/new"):
        assert directory.claim(tmp_path / name, describe(), resume=False) is None
        assert manifest.read_manifest(tmp_path / name)["status"] == "running"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "manifest.json",
            r"another run \(manifest.json\); use --resume .* or another --output_dir",
        ),
        ("metrics.jsonl", r"another run \(metrics.jsonl\); use another --output_dir"),
        ("checkpoint-8/x", r"another run \(checkpoint-8\); use another --output_dir"),
        ("thesis.tex", r"other files \(thesis.tex\); use another --output_dir"),
    ],
)
def test_a_taken_directory_is_refused_and_left_alone(tmp_path, content, message):
    file = tmp_path / "run" / content
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(directory.RunExists, match=message):
        directory.claim(tmp_path / "run", describe(), resume=False)
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "precious"


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(directory.RunExists, match="it is a file; use another"):
        directory.claim(tmp_path / "run", describe(), resume=False)


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"nothing to resume: .* has no manifest.json"):
        directory.claim(tmp_path, describe(), resume=True)
    interrupted_run(tmp_path / "run")
    manifest.set_status(tmp_path / "run", "finished", 3)
    with pytest.raises(ValueError, match=r"nothing to resume: the run in .* is finished"):
        directory.claim(tmp_path / "run", describe(), resume=True)


def test_resume_lists_every_key_that_differs(tmp_path):
    interrupted_run(
        tmp_path / "run", training={"learning_rate": 1e-3, "beta": 0.0, "run_name": "a"}
    )
    changed = describe(training={"learning_rate": 1e-4, "run_name": "b", "alpha": True})
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="configured differently") as error:
        directory.claim(tmp_path / "run", {**changed, "seed": 1, "world_size": 2}, resume=True)
    assert str(error.value).splitlines()[1:-1] == [
        "  seed: 0 in the run, 1 now;",
        "  training.alpha: not set in the run, true now;",
        "  training.beta: 0.0 in the run, not set now;",
        "  training.learning_rate: 0.001 in the run, 0.0001 now;",
        "  world_size: 1 in the run, 2 now.",
    ]
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("place", ["train", "test"])
@pytest.mark.parametrize("rows", [[{"a": 1}, {"a": 3}], [{"a": 2}, {"a": 1}], [{"a": 1}]])
def test_resume_refuses_other_rows_at_the_same_place(tmp_path, place, rows):
    def made(rows):
        data = Dataset.from_list(rows) if place == "train" else rows
        return {**describe(), "datasets": {place: manifest.dataset_fingerprint(data)}}

    directory.claim(tmp_path, made([{"a": 1}, {"a": 2}]), resume=False)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=f"have changed since it began: {place}. Resume with"):
        directory.claim(tmp_path, made(rows), resume=True)
    assert (tmp_path / "manifest.json").read_bytes() == before
    directory.claim(tmp_path, made([{"a": 1}, {"a": 2}]), resume=True)


def test_a_run_whose_manifest_tells_nothing_of_its_rows_is_resumed(tmp_path):
    told = {"train": {"rows": 2, "fingerprint": "x"}}
    directory.claim(tmp_path, {**describe(), "datasets": told}, resume=False)
    now = {"train": manifest.dataset_fingerprint(Dataset.from_list([{"a": 1}]))}
    directory.claim(tmp_path, {**describe(), "datasets": now}, resume=True)


@pytest.mark.parametrize(("refers", "frozen", "refused"), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_weights_that_no_checkpoint_has_must_be_those_of_the_first_attempt(
    tmp_path, refers, frozen, refused
):
    def model(seed):
        torch.manual_seed(seed)
        made = torch.nn.Linear(2, 2)
        made.bias.requires_grad_(not frozen)
        return made

    directory.claim(tmp_path, describe(), resume=False)
    manifest.set_model(tmp_path, model(0), refers)
    directory.claim(tmp_path, describe(), resume=True)
    manifest.set_model(tmp_path, model(0), refers)
    directory.claim(tmp_path, describe(), resume=True)
    refusal = pytest.raises(ValueError, match=r"not those that the run in .* began with")
    with refusal if refused else contextlib.nullcontext():
        manifest.set_model(tmp_path, model(1), refers)


def test_resume_moves_metrics_beyond_the_checkpoint_aside(tmp_path):
    interrupted_run(tmp_path)
    add_checkpoint(tmp_path, 2)
    torn = '{"step": 1, "lo'
    write_metrics(tmp_path, 1, 2, 3, torn=torn)
    assert directory.claim(tmp_path, describe(), resume=True) is not None
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == [1, 2]
    dropped = json.dumps({"step": 3, "time_s": 1.5}) + "\n" + torn
    assert (tmp_path / "metrics.jsonl.bak-1").read_text() == dropped
    # Nothing to drop the second time: no second copy.
    directory.claim(tmp_path, describe(), resume=True)
    assert not (tmp_path / "metrics.jsonl.bak-2").exists()


def test_resume_sets_completions_beyond_the_checkpoint_aside(tmp_path):
    interrupted_run(tmp_path)
    add_checkpoint(tmp_path, 2)
    (tmp_path / "completions").mkdir()
    for name in ("completions_00002.parquet", "completions_00003.parquet", "README.md"):
        (tmp_path / "completions" / name).touch()
    directory.claim(tmp_path, describe(), resume=True)
    kept = sorted(path.name for path in (tmp_path / "completions").iterdir())
    assert kept == ["README.md", "completions_00002.parquet"]
    assert (tmp_path / "completions.bak-1" / "completions_00003.parquet").exists()


def test_resume_without_a_checkpoint_begins_again_and_loses_nothing(tmp_path):
    interrupted_run(tmp_path)
    old = write_metrics(tmp_path, 0, 1)
    assert directory.claim(tmp_path, describe(), resume=True) is None
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert (tmp_path / "metrics.jsonl.bak-1").read_text() == old


def test_a_resumed_run_keeps_the_manifests_of_its_earlier_attempts(tmp_path):
    interrupted_run(tmp_path)
    for _ in range(2):
        directory.claim(tmp_path, describe(), resume=True)
    earlier = manifest.read_manifest(tmp_path)["earlier"]
    assert [attempt["status"] for attempt in earlier] == ["interrupted", "running"]
    assert all("earlier" not in attempt for attempt in earlier)


def test_ranks_without_a_process_group_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="2 ranks, but no process group yet; make the training"):
        directory.fresh_name(tmp_path, "x")


def test_fresh_names_do_not_collide(tmp_path, monkeypatch):
    class Clock(directory.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 3, 4, 5, 6, 7)

    monkeypatch.setattr(directory, "datetime", Clock)
    for suffix in ("", "-2", "-3"):
        name = directory.fresh_name(tmp_path, "regex")
        assert name == tmp_path / f"regex-20250304-050607{suffix}"
        name.mkdir()


def test_the_latest_unfinished_run_of_the_stem_is_found(tmp_path):
    for name in (
        "a-20250101-000000",
        "a-20250102-000000",
        "a-20250102-000000-10",
        "a-20250103-000000",
    ):
        interrupted_run(tmp_path / name)
    interrupted_run(tmp_path / "a-b-20250109-000000")  # another stem
    (tmp_path / "a-20250108-000000").mkdir()  # no manifest
    manifest.set_status(tmp_path / "a-20250103-000000", "finished", 3)
    assert directory.latest_unfinished(tmp_path, "a") == tmp_path / "a-20250102-000000-10"
    assert directory.latest_unfinished(tmp_path / "nowhere", "a") is None
