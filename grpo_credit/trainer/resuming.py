"""`ResumableTrainer`: whole checkpoints, and no step beyond the last one.

Extends these of transformers' methods with `super()`: `_save_checkpoint` (see
`grpo_credit.records.checkpoints`), `train`, `get_batch_samples`, `_maybe_log_save_evaluate`, `log`.
"""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

from grpo_credit.records import checkpoints
from grpo_credit.records.ranks import on_main
from grpo_credit.trainer.collector import GatheringTrainer

logger = logging.get_logger(__name__)


class ResumableTrainer(GatheringTrainer):
    """TRL's `GRPOTrainer`, whose resumed training is what it would have been undisturbed."""

    args: Any
    control: Any
    _over: bool = False  # nothing was left to train
    _synced: frozenset[Path] | set[Path] = frozenset()  # tables that are on disk

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train as transformers does, from a checkpoint that is undamaged.

        Raises:
            ValueError: if a file of the checkpoint is not what was written.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir) or True
        if resume_from_checkpoint and resume_from_checkpoint is not True:
            self._expect_whole(Path(resume_from_checkpoint))
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._over = False

    def _expect_whole(self, checkpoint: Path) -> None:
        if wrong := on_main(checkpoints.damage, checkpoint):  # what it reads is read once
            raise ValueError(f"{checkpoint} cannot be resumed: {wrong}; name an earlier one.")
        if lacking := checkpoints.missing_state(checkpoint, self.args.world_size):
            logger.warning(f"{checkpoint}: {lacking}; the training will not be the undisturbed one")

    # ---- no step beyond the last ----------------------------------------------------------------

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Give no batch beyond the last step; transformers would train before it looks."""
        if self.is_in_train and self.state.global_step >= self.state.max_steps:
            self._over = self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if not self._over:  # else an epoch that ended before would end a second time
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, but no mean loss over no step."""
        if not self._over:
            super().log(logs, start_time)

    # ---- whole checkpoints ----------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(self._get_output_dir(trial=trial))
        with self._whole(run / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    @contextmanager
    def _whole(self, checkpoint: Path) -> Generator[None, None, None]:
        """Make what the body writes a whole checkpoint; older ones stay until it is one."""
        replaced = checkpoint.with_name(checkpoints.REPLACED + checkpoint.name)
        if self.args.should_save and (checkpoint / checkpoints.LIST).exists():
            shutil.rmtree(replaced, ignore_errors=True)
            checkpoint.rename(replaced)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # every rank has written its part
        if self.args.should_save:
            self._sync_tables()
            checkpoints.seal(checkpoint)
            shutil.rmtree(replaced, ignore_errors=True)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(checkpoint.parent), limit, best, use_mtime=True)

    def _sync_tables(self) -> None:
        """Have TRL's tables on disk, as ours are: a resumed run does not write them again."""
        folder = Path(self.args.output_dir) / "completions"
        tables = set(folder.glob("*.parquet"))
        for path in [*(tables - self._synced), *([folder] if tables else [])]:
            checkpoints.sync(path)
        self._synced = tables
