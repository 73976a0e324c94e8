"""How harnesses of others see a model of ours: lmms-eval (``lmms``), CLIP_benchmark (``clip``)."""

from typing import Any


def lmms_eval_models() -> Any:
    """What the entry point group ``lmms_eval.models`` gives lmms-eval; nothing heavy is imported until it is chosen."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="sensorium",
        chat_class_path="sensorium.evals.bridge.lmms.ChatModel",
        simple_class_path="sensorium.evals.bridge.lmms.SimpleModel",
    )
