#!/usr/bin/env python3
"""Golden values for common/schedule, by the formulas of DeepSpeed's schedulers (its 0.19 code) in Python's doubles.

tools/reference/lr_schedules.py >tests/common/schedule/golden.txt

A line that begins with "schedule" names one and its parameters. Each line below it is one value: the update's number from 0,
learning rate and beta1 (0 but for OneCycle), in hexadecimal.
"""
import math


def warm(it, steps, kind):
    return math.log(it + 1) * (1.0 / math.log(steps)) if kind == "log" else it / steps


def warmup_lr(it, low, high, steps, kind, total=None):
    steps = max(2, steps)
    if it < 0:
        return low
    if it < steps:
        return low + (high - low) * warm(it, steps, kind)
    if total is None:
        return low + (high - low)
    return low + (high - low) * max(0.0, (total - it) / max(1.0, total - steps))


def warmup_cosine(it, lr, total, low, steps, floor, kind):
    steps = max(2, steps)
    if it < 0:
        return 0.0
    if it < steps:
        return lr * (low + warm(it, steps, kind) * (1.0 - low))
    progress = min(1.0, (it - steps + 1) / max(1, total - steps))
    return lr * max(0.0, floor + (1.0 - floor) * ((1 + math.cos(math.pi * progress)) / 2))


def range_test(it, low, size, rate, stairs):
    if it < 0:
        return low
    units = (it + 1) / size
    return low * (1 + rate * (math.floor(units) if stairs else units))


def one_cycle(it, low, high, first, second, stairs, unit, lr_rate, low_beta, high_beta, beta_rate):
    total = first + second
    if it < 0:
        return low, low_beta
    if it < total:
        batch = it + 1
        x = 1.0 + batch / total - math.floor(1 + batch / total)
        ratio = first / total
        scale = x / ratio if x <= ratio else (x - 1) / (ratio - 1)
        if stairs > 0:
            at = batch % total
            scale = math.floor(at * stairs / first if at <= first else (total - at) * stairs / second) / stairs
        return low + (high - low) * scale, high_beta - (high_beta - low_beta) * scale
    after = (it - total + 1) / unit if unit else 0.0
    return low / (1 + lr_rate * after), min(max(high_beta * (1 + beta_rate * after), 0.0), 0.999)


def steps():
    return list(range(0, 24)) + list(range(24, 10000, 997)) + [9999, 10000, 10001, 10002]


def main():
    def put(name, params, values):
        text = ",".join(f"{key}={value!r}" for key, value in params.items())
        print("schedule", name, text)
        for step, value in values:
            lr, beta = value if isinstance(value, tuple) else (value, 0.0)
            print(step, float(lr).hex(), float(beta).hex())

    for kind in ("log", "linear"):
        code = 0 if kind == "log" else 1
        for low, high, count in ((0.0, 1e-3, 10), (1e-5, 3e-4, 1000), (0.0, 2e-3, 1), (1e-6, 6e-4, 7000)):
            base = {"warmup_min_lr": low, "warmup_max_lr": high, "warmup_num_steps": count, "warmup_type": code}
            put("WarmupLR", base, [(s, warmup_lr(s - 1, low, high, count, kind)) for s in steps()])
            for total in (10, 10000):
                put("WarmupDecayLR", base | {"total_num_steps": total},
                    [(s, warmup_lr(s - 1, low, high, count, kind, total)) for s in steps()])
        for lr, total, low, count, floor in ((1e-3, 10, 0.0, 4, 1e-4), (6e-4, 10000, 0.01, 500, 0.1)):
            put("WarmupCosineLR",
                {"lr": lr, "total_num_steps": total, "warmup_min_ratio": low, "warmup_num_steps": count,
                 "cos_min_ratio": floor, "warmup_type": code},
                [(s, warmup_cosine(s - 1, lr, total, low, count, floor, kind)) for s in steps()])
    for low, size, rate, stairs in ((1e-3, 5, 1.0, 0), (1e-4, 2000, 5.0, 1), (1e-4, 2000, 5.0, 0)):
        put("LRRangeTest",
            {"lr_range_test_min_lr": low, "lr_range_test_step_size": size, "lr_range_test_step_rate": rate,
             "lr_range_test_staircase": stairs}, [(s, range_test(s - 1, low, size, rate, stairs)) for s in steps()])
    for low, high, first, second, stairs, unit, lr_rate, beta_rate in (
        (1e-4, 1e-3, 4, 4, 0, 2, 0.5, 0.0), (1e-4, 1e-3, 2000, 3000, 0, 0, 0.0, 0.0),
        (1e-5, 6e-4, 1700, 2300, 5, 100, 0.01, 0.001), (1e-4, 1e-3, 30, 17, 3, 7, 0.0, 0.01)):
        put("OneCycle",
            {"cycle_min_lr": low, "cycle_max_lr": high, "cycle_first_step_size": first, "cycle_second_step_size": second,
             "cycle_first_stair_count": stairs, "decay_step_size": unit, "decay_lr_rate": lr_rate,
             "decay_mom_rate": beta_rate},
            [(s, one_cycle(s - 1, low, high, first, second, stairs, unit, lr_rate, 0.8, 0.9, beta_rate))
             for s in steps()])


if __name__ == "__main__":
    main()
