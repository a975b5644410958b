"""One process, all cores: a step of GPT-2 124M (batch 4, sequence 64), eager PyTorch, with --bf16 under its autocast. Prints
"step N loss L"."""

import sys

import torch
from byte_gpt2 import Gpt2

torch.manual_seed(1)
model = Gpt2(layers=12, width=768, heads=12, length=1024, vocabulary=50257)
adam = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
for step in range(8):
    tokens = torch.randint(50257, (4, 65), generator=torch.Generator().manual_seed(step))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled="--bf16" in sys.argv):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.step()
    adam.zero_grad(set_to_none=True)
    print(f"step {step + 1} loss {loss.item():.4f}", flush=True)
