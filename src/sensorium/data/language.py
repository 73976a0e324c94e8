"""Which language a text is in, by the library `py3langid` (the extra `curate`)."""

from collections.abc import Callable


def language_detector() -> Callable[[str], tuple[str, float]] | None:
    """text -> (language, confidence from 0 to 1) by the library `py3langid`; None where it is not installed."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def detect(text: str) -> tuple[str, float]:
        language, confidence = identifier.classify(text)
        return str(language), float(confidence)

    return detect
