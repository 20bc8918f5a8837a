#!/usr/bin/python3
"""The gloo peer of `ballot bench vote`: PyTorch's fp32 all-reduce over TCP, verified, then timed.

One process per node, told its place by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; rank 0 prints one JSON line.
Times are the slowest rank's, per all-reduce. Runs with Debian's python3-torch (1.13).

  tests/support/slownet each 4 /usr/bin/python3 tests/bench/peers/all_reduce_gloo.py --elements 64000000
"""

import argparse
import datetime
import fcntl
import json
import os
import socket
import statistics
import struct
import time

import torch
import torch.distributed as dist


def interface_towards(address):
    """The interface whose address reaches `address`: gloo would ask for the host's name, which a namespace lacks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                packed = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
            except OSError:
                continue
            if socket.inet_ntoa(packed[20:24]) == own:
                return name
    raise SystemExit(f"no interface has the address {own} that reaches {address}")


def sent_bytes(interface):
    with open(f"/sys/class/net/{interface}/statistics/tx_bytes") as file:
        return int(file.read())


def values(rank, count):
    """Whole numbers in [-7, 7], so that every sum of up to a million of them is exact in fp32."""
    i = torch.arange(count, dtype=torch.int64)
    return (((i * 2654435761 + rank * 40503) >> 7) % 15 - 7).float()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--elements", type=int, default=64_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--deadline", type=int, default=600, help="seconds for one all-reduce")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    interface = interface_towards(os.environ["MASTER_ADDR"])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=options.deadline))
    rank, size = dist.get_rank(), dist.get_world_size()

    mine = values(rank, options.elements)
    expected = sum(values(r, options.elements) for r in range(size))
    seconds, before = [], sent_bytes(interface)
    for repeat in range(options.repeats):
        buffer = mine.clone()
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(buffer)
        seconds.append(time.perf_counter() - start)
        if repeat == 0 and not torch.equal(buffer, expected):
            raise SystemExit(f"rank {rank}: gloo's sum is wrong")
    dist.barrier()
    sent = (sent_bytes(interface) - before) / options.repeats
    times = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    if rank == 0:
        median, formula = statistics.median(times.tolist()), 2 * (size - 1) / size * options.elements * 4
        print(json.dumps({
            "bench": "vote", "what": "all-reduce", "name": "fp32 gloo", "min_seconds": min(times.tolist()),
            "median_seconds": median, "wire_bus_bytes_per_second": formula / median, "formula_bytes": formula,
            "kernel_sent_bytes": sent, "kernel_bytes_over_formula": sent / formula,
            "verified_elements": options.elements, "elements": options.elements, "repeats": options.repeats,
            "workers": size, "torch": torch.__version__}), flush=True)
    dist.barrier()
    dist.destroy_process_group()


main()
