"""Any PyTorch network, in this process: python examples/own_network.py"""

import torch
from torch import nn

import resq_core

network = nn.Sequential(
    nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1)
).eval()
scene = torch.rand(1, 3, 96, 128)
video = [scene.clone() for _ in range(24)]
for i, frame in enumerate(video):
    frame[..., 30:50, 4 * i : 4 * i + 20] = 1.0  # a square that moves

q = resq_core.quantize(network, "W8A8->W8A{0,4,8}", period=8)
q.calibrate([video], samples=8)
stream = q.stream()
for frame in video:
    r = stream.step(frame)
    error = (r.output - network(frame)).abs().max().item()
    print(r.index, r.backend, f"{r.bops.saving:.1%} saved, off by {error:.3f}")
