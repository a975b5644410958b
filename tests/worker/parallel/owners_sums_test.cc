// Sums that lie with their owners alone have the bits of those that every rank holds, whatever the
// layers: tensors that are used several times anywhere in the arena, by one layer or by several,
// any buckets, any atoms on any rank. Collector, reducer and sums, as a trainer puts them together.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "common/base/cpu_isa.h"
#include "common/base/philox.h"
#include "common/model/model_plan.h"
#include "common/plan/gradient_space.h"
#include "common/plan/shard_plan.h"
#include "common/plan/sum_places.h"
#include "common/plan/zero_stage.h"
#include "tests/support/any_layers.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/cpu/thread_pool.h"
#include "worker/parallel/batch_sums.h"
#include "worker/parallel/comm_thread.h"
#include "worker/parallel/gradient_collector.h"
#include "worker/parallel/gradient_exponents.h"
#include "worker/parallel/gradient_reducer.h"

namespace dsrun::worker {
namespace {

constexpr unsigned kSeed = 20261128;
constexpr int kSteps = 2;

struct Job {
  std::vector<int64_t> sizes;               // of tensors
  std::vector<std::vector<size_t>> uses;    // by layer
  std::vector<std::vector<int64_t>> atoms;  // by rank
  int64_t bucket_bytes = 4096;
  ReduceRoute route = {};
  bool overlap = true;

  ModelPlan Model() const { return AnyLayers(sizes, uses); }
};

float GradientAt(int step, int64_t atom, size_t layer, size_t use, int64_t i) {
  const PhiloxBlock bits =
      RandomAt(static_cast<uint64_t>(100 * step + atom), RandomPurpose::kDataOrder,
               static_cast<uint32_t>(16 * layer + use), static_cast<uint64_t>(i));
  return static_cast<float>(static_cast<int32_t>(bits[0])) * 0x1p-34f;
}

// One rank's part of a job.
class OneRank {
 public:
  OneRank(const Job& job, Communicator& communicator, ZeroPart sums)
      : job_(job),
        communicator_(communicator),
        rank_(communicator.rank()),
        model_(job.Model()),
        layout_(model_.tensors),
        shards_(layout_, communicator.size(), job.bucket_bytes),
        space_(model_, layout_),
        places_(layout_, shards_, space_, Atoms().size(), sums),
        exponents_(space_.Contributions(AllAtoms()), /*guess=*/0) {
    std::vector<int64_t> counts;
    for (const auto& of_rank : job.atoms) counts.push_back(static_cast<int64_t>(of_rank.size()));
    rounds_ = RoundsOf(places_, counts);
    int64_t elements = places_.held_elements();
    for (size_t bucket = 0; sums == ZeroPart::kOwned && bucket < shards_.buckets().size();
         ++bucket) {
      if (!places_.IsSummed(bucket, rounds_)) continue;
      for (const Range& mine : shards_.Owned(rank_, shards_.buckets()[bucket])) {
        elements += mine.size();
      }
    }
    sums_memory_.resize(static_cast<size_t>(elements));
    slots_.resize(static_cast<size_t>(places_.slot_elements()), 77);  // what was there before
    window_.resize(static_cast<size_t>(space_.largest_window()));
    result_.resize(static_cast<size_t>(shards_.OwnedSize(rank_)));
    magnitudes_.resize(2 * layout_.trainable_count());
    const BatchSumsSetup setup{.layout = &layout_,
                               .shards = &shards_,
                               .places = &places_,
                               .atoms_of_rank = counts,
                               .rank = rank_,
                               .kernels = &kernels_,
                               .magnitudes = magnitudes_.data(),
                               .route = job.route,
                               .slots = slots_.data()};
    scratch_.resize(static_cast<size_t>(SumsScratch(setup, /*exact=*/true)), 77);
    batch_sums_ = ExactSums(setup, exponents_, sums_memory_.data(), scratch_);
  }

  // Of what the rank owns to its place in `arena`.
  void Step(int step, std::vector<float>& arena) {
    CommThread thread;
    GradientReducer reducer({.communicator = &communicator_,
                             .thread = &thread,
                             .shards = &shards_,
                             .places = &places_,
                             .rounds = rounds_,
                             .sums = batch_sums_.get(),
                             .result = result_.data(),
                             .compute = &kernels_.stream(),
                             .kernels = &comm_kernels_,
                             .overlap = job_.overlap,
                             .passing = places_.slot_elements() > 0,
                             .on_reduced = [](std::span<const float>) { return absl::OkStatus(); },
                             .on_span = nullptr});
    GradientCollector collector({.layout = &layout_,
                                 .space = &space_,
                                 .places = &places_,
                                 .kernels = &kernels_,
                                 .sums = batch_sums_.get(),
                                 .reducer = &reducer,
                                 .window = window_.data(),
                                 .atom = nullptr,
                                 .check = [] { return absl::OkStatus(); }});
    reducer.StartStep();
    batch_sums_->StartStep();
    const int64_t atoms = Atoms().size();
    int64_t next = 0;
    for (int64_t round = 0; round < rounds_; ++round) {
      if (round > 0) {
        ASSERT_TRUE(reducer.NextRound().ok());
      }
      const bool one_each = places_.of_owners();
      if (one_each && round < rounds_ - atoms) continue;
      for (bool last = false; !last; ++next) {
        last = one_each || next + 1 == atoms;
        collector.Start({.first_of_atom = true,
                         .last_of_atom = true,
                         .first_atom = one_each || next == 0,
                         .last = last});
        Backward(step, Atoms()[static_cast<size_t>(next)], collector);
      }
    }
    const absl::Status status = reducer.Finish();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(batch_sums_->Magnitudes().ok());
    const float* from = result_.data();
    for (const Range& mine : shards_.Owned(rank_)) {
      std::copy_n(from, mine.size(), arena.data() + mine.begin);
      from += mine.size();
    }
  }

  int64_t arena_size() const { return layout_.size(); }

 private:
  struct List {
    const std::vector<int64_t>& all;
    int64_t size() const { return static_cast<int64_t>(all.size()); }
    int64_t operator[](size_t i) const { return all[i]; }
  };
  List Atoms() const { return {job_.atoms[static_cast<size_t>(rank_)]}; }
  int64_t AllAtoms() const {
    size_t atoms = 0;
    for (const auto& of_rank : job_.atoms) atoms += of_rank.size();
    return static_cast<int64_t>(atoms);
  }

  void Backward(int step, int64_t atom, GradientCollector& collector) {
    for (size_t layer = space_.layers(); layer-- > 0;) {
      const std::span<float* const> to = collector.Begin(layer);
      for (size_t use = 0; use < to.size(); ++use) {
        const int64_t size = job_.sizes[job_.uses[layer][use]];
        for (int64_t i = 0; i < size; ++i) to[use][i] = GradientAt(step, atom, layer, use, i);
      }
      const absl::Status status = collector.End(layer);
      ASSERT_TRUE(status.ok()) << status;
    }
  }

  const Job& job_;
  Communicator& communicator_;
  const int rank_;
  const ModelPlan model_;
  const FlatLayout layout_;
  const ShardPlan shards_;
  const GradientSpace space_;
  const SumPlaces places_;
  const GradientExponents exponents_;
  int64_t rounds_ = 1;
  ThreadPool pool_{1};
  ThreadPool comm_pool_{1};
  CpuKernels kernels_{pool_, BestIsa()};
  CpuKernels comm_kernels_{comm_pool_, BestIsa()};
  std::vector<uint64_t> sums_memory_;
  std::vector<float> slots_;
  std::vector<float> window_;
  std::vector<float> result_;
  std::vector<uint32_t> magnitudes_;
  std::vector<uint64_t> scratch_;
  std::unique_ptr<BatchSums> batch_sums_;
};

// The reduced gradients of all steps.
std::vector<std::vector<float>> Reduced(const Job& job, ZeroPart sums) {
  const auto width = static_cast<int>(job.atoms.size());
  Group group = MakeGroup(Backend::kInProcess, width);
  std::vector<std::vector<float>> arenas(kSteps);
  {
    const ModelPlan model = job.Model();
    for (auto& arena : arenas) arena.resize(static_cast<size_t>(FlatLayout(model.tensors).size()));
  }
  RunRanks(width, [&](int rank) {
    OneRank mine(job, *group[static_cast<size_t>(rank)], sums);
    for (int step = 0; step < kSteps; ++step) mine.Step(step, arenas[static_cast<size_t>(step)]);
  });
  return arenas;
}

void ExpectSameBits(const Job& job) {
  const auto held = Reduced(job, ZeroPart::kAll);
  const auto owned = Reduced(job, ZeroPart::kOwned);
  for (size_t step = 0; step < held.size(); ++step) {
    ASSERT_EQ(held[step].size(), owned[step].size());
    for (size_t i = 0; i < held[step].size(); ++i) {
      ASSERT_EQ(std::memcmp(&held[step][i], &owned[step][i], sizeof(float)), 0)
          << "step " << step << ", element " << i << ": " << held[step][i] << " and "
          << owned[step][i];
    }
  }
}

// A tensor that three layers use begins in the middle of a bucket, before one and behind one that
// are used once.
TEST(OwnersSumsTest, TensorUsedThriceInTheMiddleOfABucket_HasTheBitsOfHeldSums) {
  Job job{.sizes = {1500, 3000, 2000},
          .uses = {{0, 1}, {1}, {2, 1}},
          .atoms = {{0}, {1, 3, 5}, {4, 2}},
          .bucket_bytes = 1 << 20};
  for (const bool overlap : {true, false}) {
    job.overlap = overlap;
    ExpectSameBits(job);
  }
  job.atoms = {{0}, {1}, {2}};  // one round
  ExpectSameBits(job);
  job.atoms = {{3, 1, 2}};  // one rank
  ExpectSameBits(job);
}

TEST(OwnersSumsTest, AnyLayersBucketsRoutesAndAtoms_HaveTheBitsOfHeldSums) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  constexpr ReduceRoute kRoutes[] = {
      {ReduceWay::kDirect}, {ReduceWay::kRing}, {ReduceWay::kTree}, {ReduceWay::kTwoLevel, 2}};
  for (int round = 0; round < 60; ++round) {
    Job job;
    for (size_t tensor = 0; tensor < 1 + random() % 6; ++tensor) {
      job.sizes.push_back(1 + static_cast<int64_t>(random() % 5000));
    }
    job.uses.resize(1 + random() % 4);
    for (size_t tensor = 0; tensor < job.sizes.size(); ++tensor) {
      for (size_t use = 1 + (random() % 3 == 0 ? random() % 3 : 0); use-- > 0;) {
        job.uses[random() % job.uses.size()].push_back(tensor);
      }
    }
    job.atoms.resize(1 + random() % 4);
    int64_t next = 0;
    for (auto& of_rank : job.atoms) {
      for (size_t i = 0; i < 1 + random() % 3; ++i) of_rank.push_back(next++);
    }
    job.bucket_bytes = 4096 * (1 + static_cast<int64_t>(random() % 6));
    job.route = kRoutes[random() % std::size(kRoutes)];
    job.overlap = random() % 2 == 0;
    ExpectSameBits(job);
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
}

}  // namespace
}  // namespace dsrun::worker
