"""The errors of the training code; every message says what was wrong and what to do about it."""


class TrainingError(Exception):
    """Base of all errors of the training code."""


class DataError(TrainingError):
    """A data set that is missing or not as it should be."""


class RecipeError(TrainingError):
    """A recipe that cannot be used, or a stage that is asked for before what it needs."""


class WeightsError(TrainingError):
    """A weights file that is not ours or does not fit the network."""


class ExportError(TrainingError):
    """A network that cannot be exported, or an export that does not compute the same."""


class QuantizationError(TrainingError):
    """A network that cannot be quantized as asked."""


class LossError(TrainingError):
    """A distillation loss that is unknown, wrongly set, or given tensors that do not fit each other."""


class PruneError(TrainingError):
    """A network that cannot be pruned as asked."""


class StudyError(TrainingError):
    """A study that cannot be run as asked."""


class FitError(TrainingError):
    """A training that cannot be started as asked, or cannot go on."""


class FirstProcessFailed(TrainingError):  # noqa: N818 – the first process says what was wrong
    """In the other processes of a run: the first one, for which they wait, has failed."""


class Interrupted(TrainingError):  # noqa: N818 – asked for, not an error
    """A training that was stopped from outside; its checkpoint lets it go on."""
