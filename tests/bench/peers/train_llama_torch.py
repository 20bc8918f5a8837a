#!/usr/bin/python3
"""The PyTorch peer of `ballot bench model`: AdamW steps of a plain PyTorch Llama on the CPU, tokens per second.

Prints one JSON line: tokens_per_second per mode (fp32, and bf16 by autocast), the losses, what a 1024^3 fp32 product
reaches on the same threads, and the versions. Runs with Debian's python3-torch (1.13).

  OMP_WAIT_POLICY=passive /usr/bin/python3 train_llama_torch.py --batch 8 --length 256 --steps 5
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, width, epsilon=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        h = x.float()
        return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight).to(x.dtype)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Layer(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.heads, self.kv_heads, self.head_size = o.heads, o.kv_heads, o.hidden // o.heads
        self.input_norm, self.mlp_norm = RMSNorm(o.hidden), RMSNorm(o.hidden)
        self.q = nn.Linear(o.hidden, o.heads * self.head_size, bias=False)
        self.k = nn.Linear(o.hidden, o.kv_heads * self.head_size, bias=False)
        self.v = nn.Linear(o.hidden, o.kv_heads * self.head_size, bias=False)
        self.o = nn.Linear(o.heads * self.head_size, o.hidden, bias=False)
        self.gate = nn.Linear(o.hidden, o.mlp, bias=False)
        self.up = nn.Linear(o.hidden, o.mlp, bias=False)
        self.down = nn.Linear(o.mlp, o.hidden, bias=False)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        h = self.input_norm(x)
        q = rotate(self.q(h).view(b, t, self.heads, self.head_size).transpose(1, 2), cos, sin)
        k = rotate(self.k(h).view(b, t, self.kv_heads, self.head_size).transpose(1, 2), cos, sin)
        v = self.v(h).view(b, t, self.kv_heads, self.head_size).transpose(1, 2)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.transpose(2, 3) / self.head_size**0.5 + mask
        y = F.softmax(scores.float(), dim=-1).to(v.dtype) @ v
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        h = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.table = nn.Embedding(o.vocabulary, o.hidden)
        self.layers = nn.ModuleList(Layer(o) for _ in range(o.layers))
        self.norm = RMSNorm(o.hidden)
        self.head = nn.Linear(o.hidden, o.vocabulary, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        size = o.hidden // o.heads
        angle = torch.outer(torch.arange(o.length).float(), 10000.0 ** (-torch.arange(0, size, 2).float() / size))
        angle = torch.cat((angle, angle), dim=-1)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        self.register_buffer("mask", torch.full((o.length, o.length), float("-inf")).triu(1))

    def forward(self, tokens, targets):
        x = self.table(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin, self.mask)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def median_seconds(run, count):
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def train(o, mode):
    torch.manual_seed(0)
    model = Llama(o)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    tokens = torch.randint(o.vocabulary, (o.batch, o.length + 1))
    losses = []

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "bf16"):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 4))

    step()  # memory and kernels are made here
    seconds = median_seconds(step, o.steps)
    parameters = sum(p.numel() for p in model.parameters())
    return o.batch * o.length / seconds, losses, parameters


def matmul_gflops(size=1024):
    a, b = torch.rand(size, size), torch.rand(size, size)
    c = torch.empty(size, size)
    torch.matmul(a, b, out=c)
    return 2 * size**3 / median_seconds(lambda: torch.matmul(a, b, out=c), 9) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 8), ("length", 256), ("steps", 5), ("hidden", 512), ("layers", 8), ("heads", 8),
                        ("kv-heads", 4), ("mlp", 1408), ("vocabulary", 4096), ("threads", 0)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--modes", default="fp32,bf16", help="comma-separated: fp32, bf16")
    o = parser.parse_args()
    if o.threads:
        torch.set_num_threads(o.threads)
    result = {"peer": "torch", "version": torch.__version__, "threads": torch.get_num_threads(), "batch": o.batch,
              "length": o.length, "steps": o.steps, "matmul_1024_gflops": round(matmul_gflops(), 1),
              "tokens_per_second": {}, "losses": {}}
    for mode in o.modes.split(","):
        if mode not in ("fp32", "bf16"):
            parser.error(f"--modes {mode}, expected fp32 or bf16")
        speed, losses, parameters = train(o, mode)
        result["parameters"] = parameters
        result["tokens_per_second"][mode] = round(speed, 1)
        result["losses"][mode] = losses
    print(json.dumps(result))


if __name__ == "__main__":
    main()
