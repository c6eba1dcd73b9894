"""The networks of other projects, written again from their description: what their checkpoints hold and compute."""

import torch
from torch import nn


def encode(x, frequencies):
    return torch.cat([x] + [wave(2.0**k * x) for k in range(frequencies) for wave in (torch.sin, torch.cos)], -1)


class NeRF(nn.Module):
    """nerf-pytorch's: it reads [encoded position, encoded direction] and always holds views_linears."""

    def __init__(self, depth, width, position=63, direction=27, outputs=4, use_viewdirs=True):
        super().__init__()
        self.position, self.use_viewdirs = position, use_viewdirs
        direction = direction if use_viewdirs else 0
        sizes = [width + position if i == 5 else width for i in range(1, depth)]
        self.pts_linears = nn.ModuleList(nn.Linear(n, width) for n in [position, *sizes])
        self.views_linears = nn.ModuleList([nn.Linear(direction + width, width // 2)])
        if use_viewdirs:
            self.feature_linear = nn.Linear(width, width)
            self.alpha_linear = nn.Linear(width, 1)
            self.rgb_linear = nn.Linear(width // 2, 3)
        else:
            self.output_linear = nn.Linear(width, outputs)

    def forward(self, x):
        points, views = x[..., : self.position], x[..., self.position :]
        h = points
        for i, layer in enumerate(self.pts_linears):
            h = layer(torch.cat([points, h], -1) if i == 5 else h).relu()
        if not self.use_viewdirs:
            return self.output_linear(h)
        v = self.views_linears[0](torch.cat([self.feature_linear(h), views], -1)).relu()
        return torch.cat([self.rgb_linear(v), self.alpha_linear(h)], -1)


class Flexible(nn.Module):
    """The network of krrish94/nerf-pytorch or, with dfa, of the release built on it, its parts in their order."""

    def __init__(self, layers, width, position=63, direction=27, dfa=False, use_viewdirs=True):
        super().__init__()
        self.position, self.dfa, self.use_viewdirs = position, dfa, use_viewdirs
        self.layer1 = nn.Linear(position, width)
        self.layers_xyz = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        if not use_viewdirs:
            self.fc_out = nn.Linear(width, 4)
            return
        parts = {
            "layers_dir": nn.ModuleList([nn.Linear(direction + width, width // 2)]),
            "fc_alpha": nn.Linear(width, 1),
            "fc_rgb": nn.Linear(width // 2, 3),
            "fc_feat": nn.Linear(width, width),
        }
        order = ["fc_alpha", "fc_feat", "layers_dir", "fc_rgb"] if dfa else list(parts)
        for name in order:
            setattr(self, name, parts[name])

    def forward(self, x):
        points, views = x[..., : self.position], x[..., self.position :]
        h = self.layer1(points)
        h = h.relu() if self.dfa else h
        for layer in self.layers_xyz:
            h = layer(h).relu()
        if not self.use_viewdirs:
            return self.fc_out(h)
        v = self.layers_dir[0](torch.cat([self.fc_feat(h).relu(), views], -1)).relu()
        return torch.cat([self.fc_rgb(v), self.fc_alpha(h)], -1)


def randomised(network, scale=1.5, seed=0):
    """Weights large enough for the outputs to tell one network from another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * scale / p.shape[-1] ** 0.5)
    return network
