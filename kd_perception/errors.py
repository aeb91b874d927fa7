"""The errors that the core raises; every message says what was wrong and what to do about it."""


class KdPerceptionError(Exception):
    """Base of all errors of this package."""


class ImageError(KdPerceptionError):
    """An image that cannot be used. The frame is dropped as *undecodable*; nothing else stops."""


class UnsupportedEncodingError(ImageError):
    """The image's encoding or compression format is not one that we decode."""


class MalformedImageError(ImageError):
    """Size, row step and data of the image contradict each other, or its compressed stream is broken."""


class ImageTooLargeError(ImageError):
    """The image's declared size is over the limit; it was refused before decoding."""


class BundleError(KdPerceptionError):
    """A model bundle that is missing, malformed, altered, or that reaches outside its folder."""


class EngineError(KdPerceptionError):
    """An inference engine that cannot be loaded, or that failed during a frame."""


class DeviceMemoryError(EngineError):
    """The device's memory does not suffice for the network. Trying again does not help before something else frees memory."""


class OutputLayoutError(EngineError):
    """The network's outputs do not have the shapes that the bundle's output layout promises."""


class BagError(KdPerceptionError):
    """A bag that cannot be read or written: not a bag, damaged, without images, or with several image topics and none chosen."""


class GroundTruthError(KdPerceptionError):
    """Ground truth that cannot be used: malformed, without stamps, or of classes that the detector does not know."""


class EvaluationError(KdPerceptionError):
    """An evaluation that cannot go on, such as a journal on a full disk."""
