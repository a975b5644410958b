// What the host gives this machine at this moment, on all cores at once, in a fifth of a second:
// multiply-adds in registers, and products that live in the level 2 cache. On a shared host the
// second often runs a quarter below the first for seconds to minutes (as if somebody else had part
// of our cores' caches), and at times both halve (as if two of our cores were one). A step time on
// such a machine says little without them.
//
//   bazel run //bench:host_probe       prints one JSON object, GFLOP/s of all cores together

#include <algorithm>
#include <barrier>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include "bench/fma_peak.h"
#include "common/base/clock.h"
#include "worker/device/cpu/cpu_matmul.h"

namespace dsrun {
namespace {

constexpr int kRounds = 10;
constexpr absl::Duration kPiece = absl::Milliseconds(10);
constexpr int64_t kRows = 128;
constexpr int64_t kWidth = 192;

// GFLOP/s of `work`, which does `flops` a call, called again and again for a piece of time.
double Rate(double flops, const std::function<void()>& work) {
  const SteadyTime begin = Clock::Real().SteadyNow();
  absl::Duration took;
  double done = 0;
  do {
    work();
    done += flops;
    took = Clock::Real().SteadyNow() - begin;
  } while (took < kPiece);
  return done / absl::ToDoubleNanoseconds(took);
}

struct Rates {
  double fma = 0;
  double product = 0;
};

// One core's part of round after round; all cores begin each piece together.
void ProbeCore(std::barrier<>& together, std::vector<Rates>& rounds) {
  std::vector<float> a(kRows * kWidth, 0.5f), b(kWidth * kWidth, 0.25f), c(kRows * kWidth);
  const auto multiply = [&] {
    worker::SerialMatmul(kRows, kWidth, kWidth, 1, {a.data(), kWidth}, {b.data(), kWidth}, 0,
                         c.data(), kWidth);
  };
  constexpr int64_t kLoop = 3000;
  multiply();  // the library's code generation
  for (Rates& rates : rounds) {
    together.arrive_and_wait();
    rates.fma = Rate(kLoop * bench::FmaLoopFlops(), [] { bench::RunFmaLoop(kLoop); });
    together.arrive_and_wait();
    rates.product = Rate(2.0 * kRows * kWidth * kWidth, multiply);
  }
}

// The middle one of the rounds, each the sum over all cores.
double Middle(const std::vector<std::vector<Rates>>& cores, double Rates::*what) {
  std::vector<double> sums(kRounds, 0);
  for (const std::vector<Rates>& rounds : cores) {
    for (size_t i = 0; i < rounds.size(); ++i) sums[i] += rounds[i].*what;
  }
  std::sort(sums.begin(), sums.end());
  return sums[sums.size() / 2];
}

void Probe() {
  const auto count = std::max(1u, std::thread::hardware_concurrency());
  std::barrier<> together(count);
  std::vector<std::vector<Rates>> cores(count, std::vector<Rates>(kRounds));
  std::vector<std::thread> threads;
  for (std::vector<Rates>& rounds : cores) {
    threads.emplace_back([&] { ProbeCore(together, rounds); });
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("{\"fma\": %.0f, \"product\": %.0f}\n", Middle(cores, &Rates::fma),
              Middle(cores, &Rates::product));
}

}  // namespace
}  // namespace dsrun

int main() { dsrun::Probe(); }
