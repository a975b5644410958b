#!/usr/bin/env python3
"""Does PyTorch take the same steps? Loads the checkpoints of a dsrun run that saved every step
(--save-interval 1), computes loss, gradient norm and AdamW update of the next step with PyTorch from the same weights,
moments and data, and compares them with what dsrun did.

    dsrun --num_gpus=2 --run-dir R train --data TEXT --model gpt2-nano --train-iters 14 --save-interval 1 --metrics R/m.jsonl
    bench/peers/check_step.py --checkpoints R/checkpoints --metrics R/m.jsonl --data TEXT

Exit code 0: all compared steps agree (loss and norm to 1e-5 relative, parameters to 1e-5 absolute)."""

import argparse
import json
import math
import os
import sys

import torch
import torch.nn.functional as F

MASK = 0xFFFFFFFF
DATA_ORDER = 2  # RandomPurpose::kDataOrder


def philox4x32(counter, key):
    """Philox4x32-10 (Salmon et al., 2011)."""
    counter, key = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & MASK, (a >> 32) ^ counter[3] ^ key[1], a & MASK]
        key = [(key[0] + 0x9E3779B9) & MASK, (key[1] + 0xBB67AE85) & MASK]
    return counter


def read_text(paths):
    files = []
    for path in paths:
        if os.path.isfile(path):
            files.append(path)
        for folder, _, names in os.walk(path, followlinks=True):
            files += [os.path.join(folder, name) for name in names]
    files.sort(key=os.fsencode)
    return b"".join(open(name, "rb").read() for name in files)


def manifests(folder):
    """{step: manifest}, the newest generation of each step."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith("manifest.step-") and name.endswith(".json"):
            manifest = json.load(open(os.path.join(folder, name)))
            found[int(name.split("-")[1].split(".")[0])] = manifest
    return found


def shapes(manifest):
    if "layout" not in manifest:
        return {tensor["name"]: tensor["shape"] for tensor in manifest["tensors"]}
    layout = manifest["layout"]
    found = {single["name"]: single["shape"] for single in layout["singles"]}
    for slot in layout["slots"]:
        found.update({slot + "/" + one["name"]: one["shape"] for one in layout["parameters"]})
    return found


def load(folder, manifest):
    """{name: tensor}, from the headers of the shards: an entry is "<tensor>@<begin>:<end>"."""
    data = {name: bytearray(4 * math.prod(shape)) for name, shape in shapes(manifest).items()}
    for facts in manifest["files"]:
        with open(os.path.join(folder, facts["name"]), "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            file.seek(8)
            header = json.loads(file.read(start - 8))
            for entry, one in header.items():
                if "@" not in entry:
                    continue  # metadata, checksums
                name, _, elements = entry.rpartition("@")
                begin, end = [4 * int(number) for number in elements.split(":")]
                file.seek(start + one["data_offsets"][0])
                data[name][begin:end] = file.read(end - begin)
    return {name: torch.frombuffer(data[name], dtype=torch.float32).reshape(shape).clone()
            for name, shape in shapes(manifest).items()}


def batch(text, step, size, length, seed):
    tokens, targets = [], []
    for sample in range((step - 1) * size, step * size):
        word = philox4x32([sample & MASK, sample >> 32, 0, DATA_ORDER], [seed & MASK, seed >> 32])
        start = ((word[1] << 32) | word[0]) % (len(text) - length)
        tokens.append(list(text[start:start + length]))
        targets.append(list(text[start + 1:start + length + 1]))
    return torch.tensor(tokens), torch.tensor(targets)


def loss_of(p, tokens, targets, layers, heads):
    rows, length = tokens.shape
    width = p["model/wte.weight"].shape[1]
    x = p["model/wte.weight"][tokens] + p["model/wpe.weight"][:length]
    for layer in range(layers):
        def w(name, layer=layer):
            return p[f"model/h.{layer}.{name}"]
        y = F.layer_norm(x, (width,), w("ln_1.weight"), w("ln_1.bias"))
        qkv = (y @ w("attn.c_attn.weight") + w("attn.c_attn.bias")).split(width, 2)
        q, k, v = [t.view(rows, length, heads, -1).transpose(1, 2) for t in qkv]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, length, width)
        x = x + y @ w("attn.c_proj.weight") + w("attn.c_proj.bias")
        y = F.layer_norm(x, (width,), w("ln_2.weight"), w("ln_2.bias"))
        y = F.gelu(y @ w("mlp.c_fc.weight") + w("mlp.c_fc.bias"), approximate="tanh")
        x = x + y @ w("mlp.c_proj.weight") + w("mlp.c_proj.bias")
    x = F.layer_norm(x, (width,), p["model/ln_f.weight"], p["model/ln_f.bias"])
    return F.cross_entropy((x @ p["model/wte.weight"].T).flatten(0, 1), targets.flatten())


def updated(p, name, grad, step, lr):
    """AdamW as dsrun's defaults have it: betas 0.9, 0.95, eps 1e-8, decay 0.1 of matrices."""
    old = p["model/" + name].detach()
    m = 0.9 * p["state/exp_avg/" + name] + 0.1 * grad
    v = 0.95 * p["state/exp_avg_sq/" + name] + 0.05 * grad * grad
    decay = 0.1 if old.dim() == 2 else 0.0
    return old - lr * (m / (1 - 0.9**step) / ((v / (1 - 0.95**step)).sqrt() + 1e-8) + decay * old)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", required=True)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--data", required=True, nargs="+")
    args = parser.parse_args()
    text = read_text(args.data)
    found = manifests(args.checkpoints)
    did = {row["step"]: row for row in map(json.loads, open(args.metrics))}
    compared = 0
    worst = 0.0
    for step in sorted(found):
        if step + 1 not in did or step + 1 not in found:
            continue
        facts = found[step]
        p = load(args.checkpoints, facts)
        names = [name[len("model/"):] for name in p if name.startswith("model/")]
        for name in names:
            p["model/" + name].requires_grad_(True)
        tokens, targets = batch(text, step + 1, facts["batch"]["global_batch_size"], facts["model"]["seq_length"],
                                int(facts["batch"]["seed"]))
        loss = loss_of(p, tokens, targets, facts["model"]["num_layers"], facts["model"]["num_attention_heads"])
        loss.backward()
        norm = math.sqrt(sum(float((p["model/" + name].grad.double()**2).sum()) for name in names))
        after = load(args.checkpoints, found[step + 1])
        drift = max(float((updated(p, name, p["model/" + name].grad * min(1.0, 1.0 / norm), step + 1,
                                   did[step + 1]["lr"]) - after["model/" + name]).abs().max()) for name in names)
        row = did[step + 1]
        worst = max(worst, abs(loss.item() / row["loss"] - 1), abs(norm / row["grad_norm"] - 1), drift)
        compared += 1
        print(f"step {step + 1}: loss {loss.item():.7f} / {row['loss']:.7f}  grad norm {norm:.7f} / "
              f"{row['grad_norm']:.7f}  largest parameter difference {drift:.1e}  (PyTorch {torch.__version__} / dsrun)")
    if compared == 0:
        sys.exit("check_step: no two checkpoints of successive steps in " + args.checkpoints)
    print(f"{compared} steps compared, worst difference {worst:.1e}")
    sys.exit(0 if worst < 1e-5 else 1)


if __name__ == "__main__":
    main()
