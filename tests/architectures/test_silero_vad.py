from __future__ import annotations

import numpy as np
import torch

from pipeline.architectures.silero_vad import SileroVAD

CHUNK, CONTEXT, RATE = 512, 64, 16000


def _convolve(x, weight, bias=None, *, stride=1, padding=0):
    """Convolve `[batch, channels, samples]` as a sum over windows."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2], axis=2)[:, :, ::stride]
    y = np.einsum("bctk,ock->bot", windows, weight)
    return y if bias is None else y + bias[:, None]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _reference(weights, x, state):
    """The published forward in numpy, layer by layer."""
    x = np.pad(x, ((0, 0), (0, 64)), mode="reflect")[:, None]
    x = _convolve(x, weights["stft_conv.weight"], stride=128)
    x = np.sqrt(x[:, :129] ** 2 + x[:, 129:] ** 2)
    for number, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        weight, bias = weights[f"conv{number}.weight"], weights[f"conv{number}.bias"]
        x = np.maximum(_convolve(x, weight, bias, stride=stride, padding=1), 0)
    gates = x[:, :, 0] @ weights["lstm_cell.weight_ih"].T + weights["lstm_cell.bias_ih"]
    gates = gates + state[0] @ weights["lstm_cell.weight_hh"].T + weights["lstm_cell.bias_hh"]
    i, f, g, o = np.split(gates, 4, axis=1)
    c = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(g)
    h = _sigmoid(o) * np.tanh(c)
    probability = _sigmoid(np.maximum(h, 0) @ weights["final_conv.weight"][0] + weights["final_conv.bias"])
    return probability, np.stack([h, c])


def _network(weights) -> SileroVAD:
    network = SileroVAD().eval()
    network.load_state_dict(weights("silero-vad"))
    return network


def _listen(network, samples):
    """Return the probability of speech, chunk by chunk."""
    padded = torch.nn.functional.pad(samples, (CONTEXT, 0))
    state = torch.zeros(2, 1, 128)
    probabilities = []
    for start in range(0, len(samples) - CHUNK + 1, CHUNK):
        with torch.no_grad():
            probability, state = network(padded[None, start : start + CONTEXT + CHUNK], state)
        probabilities.append(probability.item())
    return torch.tensor(probabilities)


def _vowel(pitch_hz=120.0):
    """One second of a sung "a": harmonics of a wavering pitch under three formants, swelling four times."""
    seconds = torch.arange(RATE) / RATE
    phase = torch.cumsum(2 * torch.pi * pitch_hz * (1 + 0.05 * torch.sin(8 * torch.pi * seconds)) / RATE, 0)
    formants = ((700, 90, 1.0), (1200, 110, 0.6), (2600, 160, 0.25))
    wave = torch.zeros(RATE)
    for harmonic in range(1, 40):
        gain = sum(gain / (1 + ((harmonic * pitch_hz - hz) / width) ** 2) for hz, width, gain in formants)
        wave += gain * torch.sin(harmonic * phase)
    return 0.2 * wave * (0.55 + 0.45 * torch.sin(8 * torch.pi * seconds))


def test_equals_the_published_forward_written_in_numpy(weights):
    network = _network(weights).double()
    rng = np.random.default_rng(0)
    x, state = 0.1 * rng.normal(size=(3, 576)), rng.uniform(-1, 1, size=(2, 3, 128))
    expected = _reference({key: value.numpy() for key, value in network.state_dict().items()}, x, state)
    with torch.no_grad():
        got = network(torch.from_numpy(x), torch.from_numpy(state))
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-12)


def test_silence_noise_and_a_pure_tone_are_no_speech_and_a_vowel_is(weights):
    network = _network(weights)
    seconds = torch.arange(RATE) / RATE
    noise = 0.01 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    for quiet in (torch.zeros(RATE), noise, 0.3 * torch.sin(880 * torch.pi * seconds)):
        assert _listen(network, quiet).max() < 0.1
    assert _listen(network, _vowel()).median() > 0.8
