#!/usr/bin/env python3
"""Does dsrun compute what Hugging Face's transformers compute? Random tiny models of every kind that our families hold,
initialised by transformers, go through our engine (bench/peers/dump_model.cc) and through transformers with PyTorch's AdamW:
logits of every position, loss, the gradient of every tensor, ten steps.

    compare_transformers.py --program DUMP_MODEL [--cases 8] [--seed 1] [--only llama,qwen3]

What is right is transformers in fp64 (their norms and rotary tables stay fp32 in it). Beside our distance from it stands
that of transformers in the same precision as ours. Distances: of logits, the largest difference by the largest logit; of the
loss, relative; of a gradient, the norm of the difference by the tensor's norm, of the worst tensor; of ten steps, the worst
relative difference of a step's loss and of its gradient norm, and after them as of gradients, by the way that all parameters
together, or the worst tensor, went.

What rounding does depends on the model: a gradient that nearly cancels is mostly rounding, and AdamW makes whole steps of it, in
the wrong direction if its sign is wrong. So a figure beyond the first number of its bound (BOUNDS) may be MOST_BY_THEIRS times that
of transformers in the same precision, and never beyond the second. That is wide; narrow is the bound of the middle one of all
models' ratios, ours by transformers' own (MIDDLE_BY_THEIRS): arithmetic that rounds more than it must is found there, and steps
that are a little other ones.

The same --seed makes the same models. Exit code 1: a figure is beyond its bound; the last line says what was found."""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

STEPS = 10
TRAINING = {"lr": 1e-3, "min_lr": 1e-3, "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_eps": 1e-8, "weight_decay": 0.1, "clip_grad": 1.0}
BOUNDS = {  # quantity: fp32, bf16, fp16
    "logits": ((1e-5, 1e-5), (0.01, 0.1), (0.002, 0.02)),
    "loss": ((1e-5, 1e-5), (0.005, 0.005), (0.001, 0.001)),
    "gradient": ((1e-5, 1e-3), (0.02, 1.0), (0.003, 1.0)),
    "loss of 10 steps": ((5e-4, 5e-4), (0.005, 0.005), (0.001, 0.001)),
    "norm of 10 steps": ((5e-3, 5e-3), (0.02, 0.1), (0.005, 0.05)),
    "parameters after 10": ((1e-2, 1e-2), (0.1, 0.5), (0.02, 0.2)),
    "worst tensor after 10": ((5e-2, 0.2), (0.2, 1.0), (0.1, 0.5)),
}
QUANTITIES, PRECISIONS = tuple(BOUNDS), ("fp32", "bf16", "fp16")
MOST_BY_THEIRS = 4
MIDDLE_BY_THEIRS, MODELS_FOR_MIDDLE = {"logits": 1.25, "gradient": 1.25, "parameters after 10": 1.5, "worst tensor after 10": 1.5}, 20
LOSS_SCALE = 1024.0  # of fp16: it moves nowhere in so few steps
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


class Case:
    """One model and its samples: a configuration of transformers, and the same as our job."""

    def __init__(self, seed, kind, index):
        self.name = f"{kind}-{index}"
        self.random = random.Random(f"{seed}/{self.name}")
        self.length = self.random.randint(8, 40)
        self.micro_batch, self.micro_batches = self.random.randint(1, 3), self.random.randint(1, 3)
        self.model = {"num_layers": self.random.randint(1, 3), "seq_length": self.length, "vocab_size": self.random.randint(67, 131)}
        self.config = self.gpt2() if kind == "gpt2" else self.rotated(kind, index)
        self.masked = self.chance(0.5)
        self.seed = self.random.getrandbits(32)

    def chance(self, probability):
        return self.random.random() < probability

    def shape(self):
        """Heads, and a width that they divide evenly."""
        heads = self.random.choice((2, 3, 4, 6))
        width = 2 * heads * self.random.randint(-(-48 // (2 * heads)), 96 // (2 * heads))
        self.model |= {"num_attention_heads": heads, "hidden_size": width}
        return heads, width

    def gpt2(self):
        heads, width = self.shape()
        self.model |= {"family": "gpt2"}
        return transformers.GPT2Config(
            vocab_size=self.model["vocab_size"], n_positions=self.length, n_embd=width, n_head=heads, n_layer=self.model["num_layers"],
            initializer_range=self.random.uniform(0.02, 0.15), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)

    def rotated(self, kind, index):
        """`index` walks through the scalings of positions, each with a tied head and with another; the rest is random."""
        heads, width = self.shape()
        groups = self.random.choice([n for n in range(1, heads + 1) if heads % n == 0])
        tied, epsilon = bool(index // 4 % 2), self.random.choice((1e-6, 1e-5, 1e-3))
        ours = {"family": "llama", "query_groups": groups, "ffn_hidden_size": self.random.randint(64, 200), "norm_epsilon": epsilon,
                "untied_output": not tied, "rope_base": self.random.choice((100.0, 1e4, 5e5, 1e6))}
        theirs = {"vocab_size": self.model["vocab_size"], "hidden_size": width, "num_hidden_layers": self.model["num_layers"],
                  "num_attention_heads": heads, "num_key_value_heads": groups, "intermediate_size": ours["ffn_hidden_size"],
                  "rms_norm_eps": epsilon, "tie_word_embeddings": tied, "initializer_range": self.random.uniform(0.02, 0.15),
                  "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
        if kind == "qwen3" or (kind != "qwen2" and self.chance(0.5)):
            ours["head_channels"] = theirs["head_dim"] = 2 * self.random.randint(4, 16)
        self.biases(kind, ours, theirs)
        if kind != "llama" and self.chance(0.6):
            ours["window"] = theirs["sliding_window"] = self.random.randint(2, self.length)
            theirs |= {} if kind == "mistral" else {"use_sliding_window": True, "max_window_layers": 0}
        elif kind == "mistral":
            theirs["sliding_window"] = None
        self.scaling(index % 4, ours, theirs)
        self.model |= ours
        return {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig, "qwen2": transformers.Qwen2Config,
                "qwen3": transformers.Qwen3Config}[kind](**theirs)

    def biases(self, kind, ours, theirs):
        of_attention, of_mlp = self.chance(0.5), self.chance(0.5)
        if kind == "llama":
            theirs |= {"attention_bias": of_attention, "mlp_bias": of_mlp}
            ours |= {"qkv_bias": of_attention, "attention_out_bias": of_attention, "mlp_bias": of_mlp}
        elif kind == "qwen2":
            ours |= {"qkv_bias": True}
        elif kind == "qwen3":
            theirs |= {"attention_bias": of_attention}
            ours |= {"qk_norm": True, "qkv_bias": of_attention, "attention_out_bias": of_attention}

    def scaling(self, which, ours, theirs):
        rope = {"rope_type": ("default", "linear", "llama3", "yarn")[which], "rope_theta": ours["rope_base"]}
        longest = self.length
        if which > 0:
            rope["factor"] = round(self.random.uniform(1.5, 8), 2)
            ours |= {"rope_scaling": rope["rope_type"], "rope_factor": rope["factor"]}
        if which > 1:
            original = self.random.randint(8, 64)
            low, high = self.random.choice(((1, 4), (1, 2), (2, 8))) if which == 2 else self.random.choice(((1, 32), (0.5, 4), (2, 8)))
            rope |= {"original_max_position_embeddings": original}
            rope |= {"low_freq_factor": low, "high_freq_factor": high} if which == 2 else {"beta_slow": low, "beta_fast": high}
            ours |= {"rope_low_turns": low, "rope_high_turns": high, "rope_original_length": original}
            longest = max(longest, int(original * rope["factor"]))
        if which == 3 and self.chance(0.5):
            ours["rope_magnitude"] = rope["attention_factor"] = round(self.random.uniform(0.8, 1.5), 3)
        theirs |= {"rope_parameters": rope, "max_position_embeddings": longest}

    def weights(self):
        """By transformers, but for biases and norms, which would be 0 and 1 and hide where they are used."""
        torch.manual_seed(self.seed)
        model = transformers.AutoModelForCausalLM.from_config(self.config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter += 0.2 * torch.randn_like(parameter)
        return model

    def samples(self):
        """Tokens and targets of all steps, (steps, sequences, length); -100 is masked, as transformers have it."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (STEPS, self.micro_batch * self.micro_batches, self.length + 1)
        text = torch.randint(self.model["vocab_size"], shape, generator=generator)
        targets = text[..., 1:].clone()
        if self.masked:
            targets[torch.rand(targets.shape, generator=generator) < 0.2] = -100
        return text[..., :-1].contiguous(), targets

    def job(self, precision):
        scaled = {"loss_scale": {"fixed": LOSS_SCALE}} if precision == "fp16" else {}
        return {**TRAINING, **scaled, "model": self.model, "train_iters": STEPS, "precision": precision,
                "micro_batch_size": self.micro_batch, "global_batch_size": self.micro_batch * self.micro_batches}

    def about(self):
        said = {key: value for key, value in self.model.items() if value not in (False, None)}
        short = {"num_layers": "layers", "hidden_size": "width", "num_attention_heads": "heads", "query_groups": "groups",
                 "head_channels": "head", "ffn_hidden_size": "mlp", "vocab_size": "vocab", "seq_length": "length"}
        return " ".join(f"{short.get(key, key)} {value}" for key, value in said.items() if key != "family") + \
            f" batch {self.micro_batches}x{self.micro_batch}" + (" masked" if self.masked else "")


def our_name(name):
    return name.removeprefix("transformer.")


class Found:
    """What one side has computed; tensors in fp64, by our names."""

    def __init__(self, logits, gradients, losses, norms, parameters):
        self.logits, self.gradients, self.losses, self.norms, self.parameters = logits, gradients, losses, norms, parameters


def ours(program, case, model, samples, precision):
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("job.json", "weights", "samples", "out")]
        with open(paths[0], "w", encoding="utf-8") as file:
            json.dump(case.job(precision), file)
        save_file({our_name(name): p.detach().contiguous() for name, p in model.named_parameters()}, paths[1])
        tokens, targets = samples
        save_file({"tokens": tokens.int(), "targets": targets.clamp(min=-1).int()}, paths[2])
        ran = subprocess.run([program, *paths], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if ran.returncode != 0:
            sys.exit(f"compare_transformers: {case.name}, {case.about()}: exit code {ran.returncode}: {ran.stderr}")
        out = {name: tensor.double() for name, tensor in load_file(paths[3]).items()}
    before, behind = "gradient/", f"@{STEPS}"
    return Found(out["logits"], {name.removeprefix(before): t for name, t in out.items() if name.startswith(before)},
                 out["loss"].tolist(), out["grad_norm"].tolist(),
                 {name.removesuffix(behind): t for name, t in out.items() if name.endswith(behind)})


def loss_of(model, logits, targets):
    if logits.dtype == torch.float64:  # their own loss would round to fp32
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return model.loss_function(logits=logits, labels=None, vocab_size=logits.shape[-1], shift_labels=targets)


def theirs(model, samples, precision):
    """Parameters are kept in fp32 (fp64) and read by the model in its precision, as ours are."""
    dtype, scale = DTYPES[precision], LOSS_SCALE if precision == "fp16" else 1.0
    kept = torch.promote_types(dtype, torch.float32)
    masters = {name: p.detach().to(kept).clone().requires_grad_() for name, p in model.named_parameters()}
    groups = [{"params": [p for p in masters.values() if p.dim() > 1], "weight_decay": TRAINING["weight_decay"]},
              {"params": [p for p in masters.values() if p.dim() == 1], "weight_decay": 0.0}]
    betas = TRAINING["adam_beta1"], TRAINING["adam_beta2"]
    optimizer = torch.optim.AdamW(groups, lr=TRAINING["lr"], betas=betas, eps=TRAINING["adam_eps"])
    losses, norms, first = [], [], None
    for tokens, targets in zip(*samples):
        read = {name: p.to(dtype) for name, p in masters.items()}
        logits = torch.func.functional_call(model, read, (tokens,), {"use_cache": False}).logits
        loss = loss_of(model, logits, targets)
        optimizer.zero_grad()
        (scale * loss).backward()
        for p in masters.values():
            p.grad /= scale
        losses.append(loss.item())
        norms.append(torch.linalg.vector_norm(torch.cat([p.grad.double().flatten() for p in masters.values()])).item())
        for p in masters.values():
            p.grad *= min(1.0, TRAINING["clip_grad"] / norms[-1])
        if first is None:
            first = logits.detach().double(), {our_name(name): p.grad.double().clone() for name, p in masters.items()}
        optimizer.step()
    return Found(*first, losses, norms, {our_name(name): p.detach().double() for name, p in masters.items()})


def worst(distances):
    """(the largest, its name); what is no number is infinitely far."""
    return max((math.inf if math.isnan(distance) else distance, name) for name, distance in distances.items())


def stepped(parameters):
    """What is compared after steps: all but the biases of keys. They shift all scores of a query alike, in part where keys are
    rotated, so much of their gradient is rounding error, of which AdamW makes whole steps."""
    compared = {name: p for name, p in parameters.items() if not name.endswith("k_proj.bias")}
    for name, p in compared.items():
        if name.endswith("attn.c_attn.bias"):
            queries, _, values = p.chunk(3)
            compared[name] = torch.cat((queries, values))
    return compared


def ratio(pairs):
    """The norm of all firsts together by that of all seconds."""
    differences, wholes = zip(*pairs)
    return (sum(d.square().sum() for d in differences) / sum(w.square().sum() for w in wholes)).sqrt().item()


def distances(found, right, start):
    """{quantity: (distance, where)}."""
    if found.gradients.keys() != right.gradients.keys():
        sys.exit(f"compare_transformers: other tensors: {sorted(found.gradients.keys() ^ right.gradients.keys())}")
    starts, goals, ends = stepped(start), stepped(right.parameters), stepped(found.parameters)
    ways = {name: (ends[name] - goal, goal - starts[name]) for name, goal in goals.items()}
    losses, norms = ({f"step {step + 1}": abs(a / b - 1) for step, (a, b) in enumerate(zip(*pair))}
                     for pair in ((found.losses, right.losses), (found.norms, right.norms)))
    return dict(zip(QUANTITIES, (
        worst({"": ((found.logits - right.logits).abs().max() / right.logits.abs().max()).item()}),
        worst({"": losses["step 1"]}),
        worst({name: ratio([(found.gradients[name] - g, g)]) for name, g in right.gradients.items()}),
        worst(losses),
        worst(norms),
        worst({"": ratio(ways.values())}),
        worst({name: ratio([way]) for name, way in ways.items()}))))


def compare(program, case):
    """{precision: (ours, theirs)}, each {quantity: (distance, where)}."""
    model, samples = case.weights(), case.samples()
    start = {our_name(name): p.detach().double() for name, p in model.named_parameters()}
    right = theirs(model, samples, "fp64")
    return {precision: (distances(ours(program, case, model, samples, precision), right, start),
                        distances(theirs(model, samples, precision), right, start)) for precision in PRECISIONS}


def bound(precision, quantity, of_theirs):
    always, never = BOUNDS[quantity][PRECISIONS.index(precision)]
    return min(never, max(always, MOST_BY_THEIRS * of_theirs))


class Report:
    """The table, a line as soon as a model is through, and what stands below it."""

    def __init__(self):
        self.models, self.beyond = 0, []
        self.ratios = {(precision, quantity): [] for precision in PRECISIONS for quantity in QUANTITIES}
        self.worst = {}  # by (precision, quantity, kind), kind "" of all: (ours, where), and theirs
        print("model, ours / transformers' own: " + ", ".join(QUANTITIES))

    def add(self, kind, case, found):
        self.models += 1
        for precision, (we, they) in found.items():
            print(f"{case.name:<11}{precision}  " + "  ".join(f"{we[q][0]:.1e} / {they[q][0]:.1e}" for q in QUANTITIES), flush=True)
            for quantity in QUANTITIES:
                (distance, where), of_theirs = we[quantity], they[quantity][0]
                for key in ((precision, quantity, kind), (precision, quantity, "")):
                    ours_before, theirs_before = self.worst.get(key, ((0.0, ""), 0.0))
                    self.worst[key] = max(ours_before, (distance, f"{case.name} {where}".strip())), max(theirs_before, of_theirs)
                self.ratios[precision, quantity].append(distance / of_theirs if of_theirs > 0 else math.inf)
                allowed = bound(precision, quantity, of_theirs)
                if not distance <= allowed:
                    figure = f"{precision} {quantity} {distance:.1e}, allowed {allowed:.1e}"
                    self.beyond.append(f"{case.name}: {figure} {where}: {case.about()}")

    def end(self, kinds):
        print("\nThe largest of each type, ours / transformers' own:\n\n| | | " + " | ".join(QUANTITIES) + " |")
        print("| --- " * (2 + len(QUANTITIES)) + "|")
        for kind in kinds:
            for precision in PRECISIONS:
                cells = [self.worst[precision, q, kind] for q in QUANTITIES]
                print(f"| {kind} | {precision} | " + " | ".join(f"{we[0]:.1e} / {they:.1e}" for we, they in cells) + " |")
        middles = {key: statistics.median(ratios) for key, ratios in self.ratios.items()}
        print("\nThe middle one of all models' ratios, ours by transformers' own: " + "; ".join(
            f"{precision} " + " ".join(f"{middles[precision, q]:.2f}" for q in QUANTITIES) for precision in PRECISIONS))
        for (precision, quantity), middle in middles.items():
            if self.models >= MODELS_FOR_MIDDLE and middle > MIDDLE_BY_THEIRS.get(quantity, math.inf):
                self.beyond.append(f"middle ratio of {precision} {quantity}: {middle:.2f}, allowed {MIDDLE_BY_THEIRS[quantity]}")
        whole = {key[:2]: we for key, (we, _) in self.worst.items() if not key[2]}
        print("\n" + "\n".join(f"largest {precision} {quantity}: {at}" for (precision, quantity), (_, at) in whole.items()))
        print("\n".join(["", *self.beyond]))
        largest = [f"{precision} " + " ".join(f"{whole[precision, q][0]:.1e}" for q in QUANTITIES) for precision in PRECISIONS]
        print(f"{self.models} models, {len(self.beyond)} figures beyond their bounds; largest differences of {', '.join(QUANTITIES)}: " +
              "; ".join(largest))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--cases", type=int, default=8, help="of each type of model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(TYPES), help="types, by commas")
    options = parser.parse_args()
    kinds = options.only.split(",")
    if set(kinds) - set(TYPES):
        parser.error(f"--only: expected some of {', '.join(TYPES)}, got {options.only}")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    print(f"seed {options.seed}, transformers {transformers.__version__}, PyTorch {torch.__version__}, {STEPS} steps")
    report = Report()
    for kind in kinds:
        for index in range(options.cases):
            case = Case(options.seed, kind, index)
            report.add(kind, case, compare(options.program, case))
    report.end(kinds)
    sys.exit(1 if report.beyond else 0)


if __name__ == "__main__":
    main()
