"""What each process of a group does with its shards; imports nothing that a test needs, since every process does."""

from __future__ import annotations

import torch
import torch.distributed as dist

from torchboard.sketch.table import SketchTable


def draw(seed: int, number: int = 3000) -> torch.Tensor:
    return torch.randn(number, generator=torch.Generator().manual_seed(seed))


def with_specials(seed: int) -> torch.Tensor:
    values = draw(seed)
    values[::7], values[3::11], values[5::13], values[::5], values[1::17] = torch.nan, torch.inf, -torch.inf, 0.0, -0.0
    return values


def shards(rank: int, size: int) -> list[torch.Tensor]:
    """The parts of one rank; together they are the same whatever the number of ranks."""
    wholes = [
        with_specials(0),
        1000 + draw(1),
        1 + 1e-3 * draw(2) * torch.linspace(1, 9, 3000),
        torch.cat([torch.zeros(100), draw(3).exp()]),
        torch.tensor([3.0]),
        draw(4).bfloat16(),
    ]
    return [whole.tensor_split(size)[rank] for whole in wholes]


def table_of(shards: list[torch.Tensor]) -> SketchTable:
    table = SketchTable()
    for _ in shards:
        table.add_row()
    table.observe_many_(range(len(shards)), shards)
    return table


def on_a_rank(rank: int, size: int, directory: str) -> None:
    """What each process does: all ranks together, then the first two as a group of their own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=size)
    pair = dist.new_group([0, 1])
    for group, number in ((None, size), (pair, 2)):
        if rank >= number:
            continue
        mine = shards(rank, number)
        table = SketchTable()
        rows = [table.add_row() for _ in mine]
        table.agree_(rows, mine, group)
        table.observe_many_(rows, mine)
        table.all_merge_(group)
        torch.save(table.read().buffers, f"{directory}/agreed-{number}-{rank}")
        table.observe_many_(rows, mine)
        table.all_merge_(group)
        torch.save(table.read().buffers, f"{directory}/merged-{number}-{rank}")
    dist.destroy_process_group()
