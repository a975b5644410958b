// Process groups of random meshes, their ranks threads of the test.

#include "worker/comm/core/process_groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "tests/worker/comm/mesh_program.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/comm/in_process/in_process_communicator.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

// Hands out in-process groups by their names. Thread-safe.
class GroupSource {
 public:
  GroupConnector Connector() {
    return [this](const ProcessGroup& group, int rank,
                  const std::string& name) -> absl::StatusOr<std::unique_ptr<Communicator>> {
      MutexLock lock(mu_);
      Group& ranks = groups_[name];
      if (ranks.empty()) {
        ranks = CreateInProcessGroup(group.size(), InProcessOptions{absl::Seconds(20)});
      }
      order_[group.ranks[static_cast<size_t>(rank)]].push_back(name);
      return std::move(ranks[static_cast<size_t>(rank)]);
    };
  }
  size_t groups() {
    MutexLock lock(mu_);
    return groups_.size();
  }
  // The names that a rank has asked for, in order.
  std::map<Rank, std::vector<std::string>> order() {
    MutexLock lock(mu_);
    return order_;
  }

 private:
  Mutex mu_;
  std::map<std::string, Group> groups_ ABSL_GUARDED_BY(mu_);
  std::map<Rank, std::vector<std::string>> order_ ABSL_GUARDED_BY(mu_);
};

Mesh MakeMesh(const MeshShape& shape) {
  const absl::StatusOr<Mesh> mesh = Mesh::Create(shape);
  EXPECT_TRUE(mesh.ok()) << mesh.status();
  return *mesh;
}

TEST(ProcessGroups, OfRandomMeshes_AllAxesAtOnce_GiveWhatLoopsGive) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 12; ++round) {
    const Mesh mesh = MakeMesh(RandomShape(random, 1, 12));
    SCOPED_TRACE(ShapeText(mesh.shape()));
    GroupSource source;
    RunRanks(mesh.size(), [&](int rank) {
      const auto groups =
          ProcessGroups::Create(mesh, Rank(rank), MeshLanes(mesh), source.Connector());
      ASSERT_TRUE(groups.ok()) << groups.status();
      const absl::Status status = RunMeshProgram(**groups, mesh, Rank(rank), seed);
      EXPECT_TRUE(status.ok()) << "rank " << rank << ": " << status;
    });
  }
}

TEST(ProcessGroups, AreMadeInOneOrder_WhateverTheyAreAskedForIn) {
  const Mesh mesh = MakeMesh({.tp = 2, .cp = 2, .dp = 2});
  std::vector<GroupLane> lanes = MeshLanes(mesh);
  std::mt19937_64 random(7);
  GroupSource source;
  for (int rank = 0; rank < mesh.size(); ++rank) {
    std::shuffle(lanes.begin(), lanes.end(), random);
    ASSERT_TRUE(ProcessGroups::Create(mesh, Rank(rank), lanes, source.Connector()).ok());
  }
  // Whoever shares two groups makes them in the same order: positions are those of all names.
  std::map<std::string, size_t> position;
  for (const auto& [rank, names] : source.order()) {
    for (size_t i = 0; i < names.size(); ++i) {
      EXPECT_EQ(position.try_emplace(names[i], i).first->second, i) << names[i];
    }
  }
  EXPECT_EQ(position.size(), source.groups());
  EXPECT_EQ(source.order()[Rank(0)].front(), "cp@0/gather");
  EXPECT_EQ(source.order()[Rank(7)].back(), "tp@6/sums");
}

TEST(ProcessGroups, AnError_NamesTheRankOfTheWorld) {
  const Mesh mesh = MakeMesh({.tp = 2, .dp = 2});
  GroupSource source;
  std::vector<std::unique_ptr<ProcessGroups>> ranks;
  for (int rank = 0; rank < mesh.size(); ++rank) {
    auto groups = ProcessGroups::Create(mesh, Rank(rank), {{{Axis::kTp}, "a"}, {{Axis::kDp}, "a"}},
                                        source.Connector());
    ASSERT_TRUE(groups.ok()) << groups.status();
    ranks.push_back(*std::move(groups));
  }
  char byte = 0;
  AsyncCommunicator& tp = ranks[3]->At({Axis::kTp}, "a");
  AsyncCommunicator& dp = ranks[3]->At({Axis::kDp}, "a");
  const CommEvent of_tp = tp.Enqueue({}, {{0, &byte, 1}}, "hidden states");
  const CommEvent of_dp = dp.Enqueue({}, {{0, &byte, 1}}, "gradients");
  ranks[2].reset();
  const absl::Status gone = tp.Await(of_tp);
  EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable) << gone;
  EXPECT_EQ(PeerRank(gone), 2);
  EXPECT_THAT(std::string(gone.message()),
              HasSubstr("group tp@2, whose rank 0 is rank 2 of all: rank 0 is gone"));
  EXPECT_EQ(ranks[3]->AsyncError(), gone);
  // The other group is well, and waits: until all are aborted.
  EXPECT_TRUE(dp.AsyncError().ok());
  ranks[3]->Abort("its generation is over");
  const absl::Status aborted = dp.Await(of_dp);
  EXPECT_EQ(aborted.code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(aborted.message().find(" of rank 3 of all") != std::string::npos) << aborted;
}

TEST(ProcessGroups, WhatCannotBe_IsRefused) {
  const Mesh mesh = MakeMesh({.tp = 2, .dp = 2});
  GroupSource source;
  const auto message = [&](std::vector<GroupLane> lanes) {
    const auto groups = ProcessGroups::Create(mesh, Rank(0), std::move(lanes), source.Connector());
    EXPECT_EQ(groups.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(groups.status().message());
  };
  EXPECT_THAT(message({{{Axis::kTp}, "a"}, {{Axis::kDp}, "a"}, {{Axis::kTp}, "a"}}),
              HasSubstr("lane \"a\" of \"tp\" is asked for twice"));
  EXPECT_THAT(message({{{Axis::kTp}, ""}}), HasSubstr("expected a name without '/'"));
  EXPECT_THAT(message({{{Axis::kTp}, "a/b"}}), HasSubstr("expected a name without '/'"));
  EXPECT_THAT(message({{{Axis::kCp, Axis::kEp}, "a"}}), HasSubstr("there are no groups"));
  EXPECT_EQ(source.groups(), 0u);
}

}  // namespace
}  // namespace dsrun::worker
