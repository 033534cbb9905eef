"""Training in this process, with the parts that a run of forget.py is put together of, so that they can be watched."""

from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.config.trainer_arguments import training_arguments
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.load import load_dataset, load_reference, load_trained
from safeeraser.unlearn.run import build_trainer
from safeeraser.unlearn.trainer import UnlearnTrainer


def load_trainer(settings: Settings) -> UnlearnTrainer:
    """The trainer of a run in one process; its `save_dir` is there."""
    job, engine = prepare(settings), Engine()
    dataset, arguments = load_dataset(settings, job), training_arguments(settings, engine, job.schedule)
    model = load_trained(settings, engine, arguments)
    return build_trainer(settings, arguments, model, load_reference(settings, engine, arguments, model), dataset)
