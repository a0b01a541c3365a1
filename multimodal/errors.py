"""Every error a person can meet, in one tree; each message names the thing and the way out.

Foreign exceptions are translated at the one border where they arise: the module that calls
the library. Nothing above the backends catches an exception of torch, Pillow or SQLAlchemy. The
status of HTTP is in `api/guard.py`.
"""


class MultimodalError(Exception):
    """Base of every error shown to a person. `str(error)` is one clear sentence."""


class RequestError(MultimodalError):
    """What the person sent cannot be used; nothing of it was lost (HTTP 400)."""


class MediaError(RequestError):
    """A picture or recording is broken, of an unknown kind, or out of bounds."""


class DataError(RequestError):
    """What a model is to be taught cannot be used; the message names file and line."""


class PromptError(RequestError):
    """A message is empty, or longer than the model reads."""


class TooLargeError(RequestError):
    """A body, or a file in it, is larger than what is taken (HTTP 413)."""


class ContextLengthError(PromptError):
    """A message, alone, is longer than the model reads."""


class UnsupportedFieldError(RequestError):
    """A request has a field that would change the result and is not honoured; `field` names it."""

    def __init__(self, sentence: str, field: str) -> None:
        super().__init__(sentence)
        self.field = field


class JobError(RequestError):
    """A job of the studio cannot be made, started, resumed, exported or imported as asked."""


class UnknownModelError(RequestError):
    """No card carries the name asked for; the message lists those that exist (HTTP 404)."""


class ConfigurationError(MultimodalError):
    """A file or an option that configures the program is wrong (exit status 2)."""


class CardError(ConfigurationError):
    """A model card or a profile is wrong; the message names file and field."""


class SettingsError(ConfigurationError):
    """A command line option or an environment variable is wrong."""


class RewardError(ConfigurationError):
    """A reward file of the person's own cannot be run, or one of its functions failed; the message
    names file and line."""


class ExtraError(ConfigurationError):
    """An optional part of the program is not installed; the message says how to get it."""


class WeightsError(MultimodalError):
    """Weights could not be fetched, verified or stored (HTTP 503)."""


class CapacityError(MultimodalError):
    """The memory budget, the disk or the waiting time does not allow it (HTTP 503)."""


class DeviceFullError(CapacityError):
    """The device itself had no memory left, whatever the budget says."""


class DeviceLostError(MultimodalError):
    """The device failed in a way that every later use fails, too, until the program is started
    again (HTTP 503)."""


class BackendError(MultimodalError):
    """An engine failed while it loaded or ran (HTTP 500)."""


class StoreError(MultimodalError):
    """The conversations cannot be read or written (HTTP 500)."""


class ConversationNotFoundError(StoreError):
    """No conversation of this owner has that id: it was deleted, or is somebody else's."""


class TurnStoppedError(MultimodalError):
    """The person stopped the turn; never shown as a failure."""
