"""Makes `vocos.npz`: what the package `vocos` gives for a shrunken random checkpoint.

pip install vocos==0.1.0 torchaudio     (in an environment of its own)
python make_vocos.py vocos.npz
"""

import sys

import numpy as np
import torch
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone


def main(path: str) -> None:
    torch.manual_seed(0)
    model = Vocos(
        MelSpectrogramFeatures(), VocosBackbone(100, 4, 6, 2), ISTFTHead(4, 1024, 256, padding="center")
    ).eval()
    for name, parameter in model.named_parameters():
        # As made, most of the network is nearly zero: a wrong norm or gate would not show.
        torch.nn.init.normal_(parameter, std=0.3 if name.endswith("weight") and parameter.ndim > 1 else 0.5)
        parameter.data = parameter.data.half().float()  # stored in half precision, without loss
    wave = 0.2 * torch.randn(1, 9 * 256)
    mel = model.feature_extractor(wave)
    with torch.inference_mode():
        sound = model.decode(mel)
    state = {f"state.{k}": v.numpy() for k, v in model.state_dict().items()}
    for name, _ in model.named_parameters():
        state[f"state.{name}"] = state[f"state.{name}"].astype(np.float16)
    np.savez_compressed(path, wave=wave[0].numpy(), log_mel=mel[0].T.numpy(), sound=sound[0].numpy(), **state)


if __name__ == "__main__":
    main(sys.argv[1])
