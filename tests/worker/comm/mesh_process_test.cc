// Process groups of meshes whose ranks are real processes, on several nodes as PlaceRanks puts
// them: shared memory inside a node, TCP between nodes, and the coordinator's own table between all
// of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/topology/placement.h"
#include "common/topology/process_group.h"
#include "launcher/coordinator/rendezvous_table.h"
#include "tests/worker/comm/line_process.h"
#include "tests/worker/comm/mesh_program.h"
#include "tests/worker/comm/rank_threads.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

struct Done {
  std::string code;
  int peer = -2;
  std::string message;
};

// The ranks of one mesh, and what the coordinator does for them.
class MeshOfProcesses {
 public:
  // On nodes of `slots` slots each.
  MeshOfProcesses(const MeshShape& shape, int slots, uint64_t seed) {
    std::vector<NodeSlots> nodes;
    const int ranks = shape.tp * shape.cp * shape.dp * shape.pp;
    for (int node = 0; node * slots < ranks; ++node) {
      nodes.push_back({NodeId(node), {}});
      for (int slot = 0; slot < slots; ++slot) nodes.back().slots.push_back(Slot(slot));
    }
    absl::StatusOr<Placement> placement = PlaceRanks(nodes, shape, shape.dp);
    EXPECT_TRUE(placement.ok()) << placement.status();
    placement_ = std::make_unique<Placement>(*std::move(placement));
    table_.Reset(size());
    for (const RankPlace& place : placement_->ranks) {
      ranks_.push_back(std::make_unique<LineProcess>(std::vector<std::string>{
          "tests/worker/comm/mesh_rank_process", std::to_string(place.rank.value()),
          std::to_string(shape.tp), std::to_string(shape.cp), std::to_string(shape.ep),
          std::to_string(placement_->mesh.shape().dp), std::to_string(shape.pp), shape.order,
          absl::StrCat("127.0.0.", 1 + place.node.value()), std::to_string(seed)}));
      ranks_.back()->Say("key");
    }
    RunRanks(size(), [&](int rank) { Serve(rank); });
  }

  const Mesh& mesh() const { return placement_->mesh; }
  int size() const { return placement_->mesh.size(); }
  LineProcess& At(int rank) { return *ranks_[static_cast<size_t>(rank)]; }

  // Whether they differ along one axis alone.
  bool Shares(int rank, int other) const {
    const Coordinates a = mesh().CoordinatesOf(Rank(rank));
    const Coordinates b = mesh().CoordinatesOf(Rank(other));
    return (a.tp != b.tp) + (a.cp != b.cp) + (a.dp != b.dp) + (a.pp != b.pp) == 1;
  }

  Done HearDone(int rank) {
    std::istringstream words(At(rank).Hear());
    std::string word;
    Done done;
    words >> word >> done.code >> done.peer;
    std::getline(words, done.message);
    EXPECT_EQ(word, "DONE") << "of rank " << rank;
    return done;
  }
  void ExpectLeave(int rank) {
    At(rank).Say("LEAVE");
    EXPECT_EQ(At(rank).Hear(), "LEFT");
    At(rank).ExpectEnd();
  }

 private:
  // Passes on what `rank` puts, until it has all its groups.
  void Serve(int rank) {
    for (std::string line = At(rank).Hear(); line != "READY"; line = At(rank).Hear()) {
      std::istringstream words(line);
      std::string command, group, name, hex;
      words >> command >> group >> name >> hex;
      ASSERT_EQ(command, "PUT") << "of rank " << rank << ": " << line;
      const absl::StatusOr<ProcessGroup> of = GroupNamed(mesh(), group);
      ASSERT_TRUE(of.ok()) << of.status();
      ASSERT_TRUE(of->RankIn(Rank(rank)).has_value());
      MutexLock lock(mu_);
      const auto table = table_.Put(group, of->size(), Rank(rank), name, hex);
      if (!table) continue;
      std::string answer = absl::StrCat("TABLE ", table->group(), " ", table->name());
      for (const std::string& value : table->values()) absl::StrAppend(&answer, " ", value);
      for (const Rank member : of->ranks) At(member.value()).Say(answer);
    }
  }

  std::unique_ptr<Placement> placement_;
  std::vector<std::unique_ptr<LineProcess>> ranks_;
  Mutex mu_;
  launcher::RendezvousTable table_ ABSL_GUARDED_BY(mu_);
};

TEST(MeshProcessTest, AllAxesAtOnce_GiveWhatLoopsGive) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  MeshShape shape = RandomShape(random, 8, 12);
  shape.order = kDefaultMeshOrder;  // tensor parts inside a node
  const int slots = shape.tp * 2;
  std::cout << "seed " << seed << ": " << ShapeText(shape) << std::endl;
  for (const MeshShape& one : {shape, MeshShape{.tp = 2, .cp = 1, .ep = 3, .dp = 3, .pp = 2}}) {
    SCOPED_TRACE(ShapeText(one));
    MeshOfProcesses mesh(one, one.tp == shape.tp ? slots : one.tp * 2, seed);
    ASSERT_FALSE(HasFailure());
    for (int round = 0; round < 2; ++round) {
      for (int rank = 0; rank < mesh.size(); ++rank) mesh.At(rank).Say("RUN");
      for (int rank = 0; rank < mesh.size(); ++rank) {
        const Done done = mesh.HearDone(rank);
        EXPECT_EQ(done.code, "OK") << "rank " << rank << ":" << done.message;
      }
    }
    for (int rank = 0; rank < mesh.size(); ++rank) mesh.ExpectLeave(rank);
  }
}

// Who shares a group with the dead one names it, as a rank of the world; all others finish.
TEST(MeshProcessTest, ARankKilled_IsNamedByThoseWhoShareAGroupWithIt) {
  MeshOfProcesses mesh({.tp = 2, .dp = 2, .pp = 2}, 4, /*seed=*/1);
  ASSERT_FALSE(HasFailure());
  constexpr int kVictim = 5;
  for (int rank = 0; rank < mesh.size(); ++rank) {
    if (rank != kVictim) mesh.At(rank).Say("RUN");
  }
  for (int rank = 0; rank < mesh.size(); ++rank) {
    if (!mesh.Shares(rank, kVictim)) continue;
    ASSERT_TRUE(mesh.At(rank).WaitUntilBlocked());
  }
  mesh.At(kVictim).Kill();
  for (int rank = 0; rank < mesh.size(); ++rank) {
    if (rank == kVictim) continue;
    const Done done = mesh.HearDone(rank);
    if (mesh.Shares(rank, kVictim)) {
      EXPECT_EQ(done.code, "UNAVAILABLE") << "rank " << rank << ":" << done.message;
      EXPECT_EQ(done.peer, kVictim) << done.message;
      EXPECT_THAT(done.message, HasSubstr("is rank 5 of all"));
    } else {
      EXPECT_EQ(done.code, "OK") << "rank " << rank << ":" << done.message;
    }
  }
  for (int rank = 0; rank < mesh.size(); ++rank) {
    if (rank != kVictim) mesh.ExpectLeave(rank);
  }
}

// A stopped rank answers nobody and is not gone: one Abort wakes all lanes that wait for it.
TEST(MeshProcessTest, ARankStopped_AbortWakesAllLanes) {
  MeshOfProcesses mesh({.tp = 2, .dp = 2, .pp = 2}, 4, /*seed=*/1);
  ASSERT_FALSE(HasFailure());
  constexpr int kVictim = 5;
  mesh.At(kVictim).Stop();
  for (int rank = 0; rank < mesh.size(); ++rank) {
    if (rank != kVictim) mesh.At(rank).Say("RUN");
  }
  for (int rank = 0; rank < mesh.size(); ++rank) {
    if (!mesh.Shares(rank, kVictim)) continue;
    ASSERT_TRUE(mesh.At(rank).WaitUntilBlocked());
    mesh.At(rank).Say("ABORT");
    const Done done = mesh.HearDone(rank);
    EXPECT_EQ(done.code, "ABORTED") << "rank " << rank << ":" << done.message;
    mesh.ExpectLeave(rank);
  }
}

}  // namespace
}  // namespace dsrun::worker
