"""DeepSpeed's side: ZeRO stage --stage (1) on the CPU accelerator. Rank 0 prints "step N loss L" as each step ends."""

import deepspeed
import torch
import torch.distributed as dist
from byte_gpt2 import Gpt2, arguments, batch, text


def main():
    options = arguments()
    deepspeed.init_distributed("gloo")
    torch.manual_seed(1)
    data = text(options.data)
    model = Gpt2(options.layers, options.width, options.heads, options.length, 256)
    config = {
        "train_micro_batch_size_per_gpu": options.batch,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": options.stage},
        "optimizer": {"type": "AdamW", "params": {"lr": options.lr, "betas": [0.9, 0.95], "torch_adam": True}},
        "steps_per_print": 1000000,
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    for step in range(options.steps):
        tokens, targets = batch(data, options, dist.get_rank(), step)
        loss = engine(tokens, targets)
        engine.backward(loss)
        engine.step()
        if dist.get_rank() == 0:
            print(f"step {step + 1} loss {loss.item():.4f}", flush=True)


main()
