"""`Resuming`: whole checkpoints, and no step beyond the last."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

from grpo_credit.records import checkpoints
from grpo_credit.records.ranks import on_main
from grpo_credit.trainer.seams import Host

logger = logging.get_logger(__name__)


class Resuming:
    """Makes a resumed training what it would have been undisturbed.

    Args:
        host: the trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.over = False  # nothing was left to train
        self._synced: set[Path] = set()  # tables that are on disk

    @contextmanager
    def from_whole(self, checkpoint: Any) -> Generator[Any, None, None]:
        """Let the body train from a checkpoint that is undamaged; True for the last one.

        Raises:
            ValueError: if a file of the checkpoint is not what was written.
        """
        if checkpoint is True:
            checkpoint = get_last_checkpoint(self._host.args.output_dir) or True
        if checkpoint and checkpoint is not True:
            self._expect_whole(Path(checkpoint))
        try:
            yield checkpoint
        finally:
            self.over = False

    def _expect_whole(self, checkpoint: Path) -> None:
        if wrong := on_main(checkpoints.damage, checkpoint):  # what it reads is read once
            raise ValueError(f"{checkpoint} cannot be resumed: {wrong}; name an earlier one.")
        if lacking := checkpoints.missing_state(checkpoint, self._host.args.world_size):
            logger.warning(f"{checkpoint}: {lacking}; the training will not be the undisturbed one")

    def is_over(self) -> bool:
        """Return whether the last step was trained; transformers would train before it looks."""
        host = self._host
        if host.is_in_train and host.state.global_step >= host.state.max_steps:
            self.over = host.control.should_training_stop = True
        return self.over

    @contextmanager
    def whole(self, trial: Any) -> Generator[None, None, None]:
        """Make what the body writes a whole checkpoint; older ones stay until it is one."""
        host = self._host
        run = Path(host._get_output_dir(trial=trial))
        checkpoint = run / f"checkpoint-{host.state.global_step}"
        replaced = checkpoint.with_name(checkpoints.REPLACED + checkpoint.name)
        if host.args.should_save and (checkpoint / checkpoints.LIST).exists():
            shutil.rmtree(replaced, ignore_errors=True)
            checkpoint.rename(replaced)
        host.accelerator.wait_for_everyone()
        limit, host.args.save_total_limit = host.args.save_total_limit, None
        try:
            yield
        finally:
            host.args.save_total_limit = limit
        host.accelerator.wait_for_everyone()  # every rank has written its part
        if host.args.should_save:
            self._sync_tables()
            checkpoints.seal(checkpoint)
            shutil.rmtree(replaced, ignore_errors=True)
            best = host.state.best_model_checkpoint
            written = [path.stat().st_mtime for path in run.glob("checkpoint-*")]
            # Within a second transformers orders by number in any case, with a warning.
            rotate_checkpoints(str(run), limit, best, use_mtime=max(written) - min(written) >= 1)

    def _sync_tables(self) -> None:
        """Have TRL's tables on disk, as ours are: a resumed run does not write them again."""
        folder = Path(self._host.args.output_dir) / "completions"
        tables = set(folder.glob("*.parquet"))
        for path in [*(tables - self._synced), *([folder] if tables else [])]:
            checkpoints.sync(path)
        self._synced = tables
