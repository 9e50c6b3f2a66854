"""Silero VAD: says how likely a 32 ms chunk of 16 kHz audio is to hold speech.

Publication: Silero Team, "Silero VAD: pre-trained enterprise-grade Voice Activity Detector", 2021-2025,
github.com/snakers4/silero-vad, file `tinygrad_model.py` of release 6.2.3. Weights: `silero_vad_16k.safetensors` of the
same release, MIT licence. They are another training than the release's `.jit` and `.onnx` files.
"""

import torch
from torch import nn

_BINS = 129  # real and imaginary parts of a 256-point Fourier transform
_HIDDEN = 128


class SileroVAD(nn.Module):
    """Convolutional Fourier transform, four convolutions, one LSTM cell; streams by handing its state on.

    The first chunk's context and state are zeros. Later ones get the last 64 samples of the chunk before, and the
    state that the chunk before returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * _BINS, kernel_size=256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(_BINS, 128, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, _HIDDEN, kernel_size=3, padding=1)
        self.lstm_cell = nn.LSTMCell(_HIDDEN, _HIDDEN)
        self.final_conv = nn.Conv1d(_HIDDEN, 1, kernel_size=1)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the probability of speech, `[batch, 1]`, and the new state, `[2, batch, 128]`.

        `x` holds float samples in [-1, 1], `[batch, 576]`: 64 of context, then the 512 of the chunk. `state` is float
        `[2, batch, 128]`: the LSTM cell's h and c.
        """
        padded = nn.functional.pad(x.unsqueeze(1), (0, 64), mode="reflect")
        real, imaginary = self.stft_conv(padded).chunk(2, dim=1)
        features = torch.sqrt(real * real + imaginary * imaginary)
        features = torch.relu(self.conv1(features))
        features = torch.relu(self.conv2(features))
        features = torch.relu(self.conv3(features))
        features = torch.relu(self.conv4(features))
        h, c = self.lstm_cell(features.squeeze(-1), (state[0], state[1]))
        probability = torch.sigmoid(self.final_conv(torch.relu(h).unsqueeze(-1))).squeeze(-1)
        return probability, torch.stack((h, c))
