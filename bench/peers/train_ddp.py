"""torchrun's side: DistributedDataParallel over Gloo. Rank 0 prints "step N loss L" as each step ends."""

import os

import torch
import torch.distributed as dist
from byte_gpt2 import Gpt2, arguments, batch, text
from torch.nn.parallel import DistributedDataParallel


def main():
    options = arguments()
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(1)
    data = text(options.data)
    plain = Gpt2(options.layers, options.width, options.heads, options.length, 256)
    model = DistributedDataParallel(plain)
    adam = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), fused=True)
    step = 0
    if options.checkpoint and os.path.exists(options.checkpoint):
        saved = torch.load(options.checkpoint)
        plain.load_state_dict(saved["model"])
        adam.load_state_dict(saved["adam"])
        step = saved["step"]
    while step < options.steps:
        tokens, targets = batch(data, options, rank, step)
        loss = model(tokens, targets)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        step += 1
        if rank == 0:
            print(f"step {step} loss {loss.item():.4f} norm {norm.item():.3f} pid {os.getpid()}", flush=True)
            if options.checkpoint:
                torch.save({"model": plain.state_dict(), "adam": adam.state_dict(), "step": step}, options.checkpoint + ".new")
                os.replace(options.checkpoint + ".new", options.checkpoint)
    dist.destroy_process_group()


main()
