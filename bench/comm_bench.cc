// What the ranks of a CPU job pay to talk: latency of a small exchange and of a barrier, and time
// of a reduce-scatter of 64-bit sums by each route, at 2 and 4 ranks, through Gloo on loopback and
// through memory; and of single contributions, sent as floats and as integers, through shared
// memory. Ranks are threads of this process, each Gloo rank with its own sockets. Prints numbers
// only.
//
//   comm_bench [repetitions of the small operations, default 2000]

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/cpu_isa.h"
#include "common/base/range.h"
#include "tests/worker/comm/barrier.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/comm/core/reduce_scatter.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/cpu/thread_pool.h"

namespace dsrun::worker {
namespace {

void Add(int64_t n, const uint64_t* __restrict src, uint64_t* __restrict dst) {
  for (int64_t i = 0; i < n; ++i) dst[i] += src[i];
}

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

// Microseconds of each of `count` calls on rank 0; all ranks call.
std::vector<double> Measure(Group& group, int count,
                            const std::function<absl::Status(Communicator&)>& call) {
  std::vector<double> us;
  RunRanks(static_cast<int>(group.size()), [&](int rank) {
    Communicator& comm = *group[static_cast<size_t>(rank)];
    for (int i = -count / 10 - 1; i < count; ++i) {  // the first ones warm up
      const SteadyTime start = Clock::Real().SteadyNow();
      Require(call(comm));
      if (rank == 0 && i >= 0) {
        us.push_back(absl::ToDoubleMicroseconds(Clock::Real().SteadyNow() - start));
      }
    }
  });
  std::sort(us.begin(), us.end());
  return us;
}

void Print(Backend backend, size_t ranks, const std::string& what, const std::vector<double>& us,
           double bytes_moved) {
  const double p50 = us[us.size() / 2];
  std::printf("%-10s %zu ranks  %-28s p50 %10.1f us   p99 %10.1f us", BackendName(backend).c_str(),
              ranks, what.c_str(), p50, us[us.size() * 99 / 100]);
  if (bytes_moved > 0) std::printf("   %6.2f GB/s received by each rank", bytes_moved / p50 / 1e3);
  std::printf("\n");
}

const char* Name(ReduceWay way) {
  switch (way) {
    case ReduceWay::kDirect:
      return "direct";
    case ReduceWay::kRing:
      return "ring";
    case ReduceWay::kTree:
      return "tree";
    case ReduceWay::kTwoLevel:
      return "two-level";
  }
  return "";
}

void BenchReduceScatter(Backend backend, Group& group, ReduceWay way, int64_t bytes, int count) {
  const auto width = static_cast<int64_t>(group.size());
  const ReduceRoute route{.way = way, .node_size = 2};
  const int64_t elements = bytes / static_cast<int64_t>(sizeof(uint64_t));
  Owners owners;
  for (int64_t rank = 0; rank < width; ++rank) owners.push_back({EvenPart(elements, width, rank)});
  std::vector<std::vector<uint64_t>> sums(group.size(),
                                          std::vector<uint64_t>(static_cast<size_t>(elements), 1));
  std::vector<std::vector<uint64_t>> scratch(group.size());
  for (int rank = 0; rank < width; ++rank) {
    scratch[static_cast<size_t>(rank)].resize(
        static_cast<size_t>(ReduceScratchElements(route, owners, rank)));
  }
  const auto us = Measure(group, count, [&](Communicator& comm) {
    const auto i = static_cast<size_t>(comm.rank());
    return ReduceScatterSums<uint64_t>(comm, route, owners, sums[i].data(), scratch[i], Add,
                                       "bench");
  });
  Print(backend, group.size(), absl::StrCat("reduce-scatter ", bytes >> 20, " MB ", Name(way)), us,
        static_cast<double>(bytes) * static_cast<double>(width - 1) / static_cast<double>(width));
}

// A step's sums of one bucket on ranks that have a single contribution each: from the gradients to
// the totals, sent as integers, which were made before, or as the floats that they are.
void BenchSingles(Backend backend, Group& group, bool as_floats, int64_t elements, int count) {
  const auto width = static_cast<int64_t>(group.size());
  const ReduceRoute route{};
  Owners owners;
  for (int64_t rank = 0; rank < width; ++rank) owners.push_back({EvenPart(elements, width, rank)});
  const RanksHave have(as_floats ? group.size() : 0, RankHas::kSingle);
  const auto size = static_cast<size_t>(elements);
  const std::vector<std::vector<float>> gradients(group.size(), std::vector<float>(size, 0.5f));
  std::vector<std::vector<float>> slots(group.size(), std::vector<float>(as_floats ? size : 0));
  std::vector<std::vector<uint64_t>> sums(group.size(),
                                          std::vector<uint64_t>(as_floats ? 0 : size));
  std::vector<std::vector<uint64_t>> scratch(group.size());
  for (int rank = 0; rank < width; ++rank) {
    scratch[static_cast<size_t>(rank)].resize(
        static_cast<size_t>(ReduceScratchElements(route, owners, rank, have)));
  }
  std::vector<std::unique_ptr<ThreadPool>> pools;
  std::vector<std::unique_ptr<CpuKernels>> kernels;
  for (int rank = 0; rank < width; ++rank) {
    pools.push_back(std::make_unique<ThreadPool>(1));
    kernels.push_back(std::make_unique<CpuKernels>(*pools.back(), BestIsa()));
  }
  constexpr int kScale = 40;
  std::vector<uint32_t> magnitudes(kernels.size());  // by rank
  const auto us = Measure(group, count, [&](Communicator& comm) {
    const auto i = static_cast<size_t>(comm.rank());
    if (as_floats) {
      std::copy(gradients[i].begin(), gradients[i].end(), slots[i].begin());
    } else {
      kernels[i]->StoreFixed(elements, kScale, gradients[i].data(), sums[i].data(), &magnitudes[i]);
    }
    const SingleParts parts{
        .have = have,
        .own = {slots[i].data()},
        .fix =
            [&](Range range, const float* x, bool first, uint64_t* to) {
              if (first) {
                kernels[i]->StoreFixed(range.size(), kScale, x, to, &magnitudes[i]);
              } else {
                kernels[i]->AccumulateFixed(range.size(), kScale, x, to, &magnitudes[i]);
              }
            },
        .total = [](Range, const uint64_t*) {},
    };
    return ReduceScatterSingles(comm, route, owners, parts, sums[i].data(), scratch[i], Add,
                                "bench");
  });
  Print(backend, group.size(),
        absl::StrCat("single, ", elements >> 20, " M as ", as_floats ? "floats" : "integers"), us,
        static_cast<double>(elements * (as_floats ? 4 : 8)) * static_cast<double>(width - 1) /
            static_cast<double>(width));
}

int Main(int repetitions) {
  for (const int ranks : {2, 4}) {
    Group group = MakeGroup(Backend::kSharedMemory, ranks);
    for (int round = 0; round < 3; ++round) {  // in turn: the machine changes, too
      for (const bool as_floats : {false, true}) {
        BenchSingles(Backend::kSharedMemory, group, as_floats, int64_t{1} << 20, 100);
        BenchSingles(Backend::kSharedMemory, group, as_floats, int64_t{6} << 20, 20);
      }
    }
  }
  for (const Backend backend : {Backend::kInProcess, Backend::kGloo, Backend::kCheckedGloo}) {
    for (const int ranks : {2, 4}) {
      Group group = MakeGroup(backend, ranks);
      Print(backend, group.size(), "barrier (1 byte to all)",
            Measure(group, repetitions, [](Communicator& c) { return Barrier(c, "bench"); }), 0);
      for (const ReduceWay way : {ReduceWay::kDirect, ReduceWay::kRing, ReduceWay::kTree}) {
        BenchReduceScatter(backend, group, way, int64_t{1} << 20, 100);
        BenchReduceScatter(backend, group, way, int64_t{32} << 20, 10);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace dsrun::worker

int main(int count, char** args) {
  return dsrun::worker::Main(count > 1 ? std::max(1, std::atoi(args[1])) : 2000);
}
