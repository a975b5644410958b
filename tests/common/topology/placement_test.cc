#include "common/topology/placement.h"

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/topology/plan_places.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

NodeSlots Node(int id, std::vector<int> slots) {
  NodeSlots out{NodeId(id), {}};
  for (const int slot : slots) out.slots.push_back(Slot(slot));
  return out;
}

absl::StatusOr<std::vector<RankPlace>> TableOf(std::vector<NodeSlots> nodes) {
  absl::StatusOr<Placement> placement = PlaceRanks(std::move(nodes));
  if (!placement.ok()) return placement.status();
  EXPECT_TRUE(placement->spares.empty());
  return placement->ranks;
}

TEST(PlaceRanks, HeterogeneousSlotsKeepLocalRanksPerNode) {
  const auto table = TableOf({Node(0, {0, 1, 2}), Node(1, {0, 1})});
  ASSERT_TRUE(table.ok()) << table.status();
  const std::vector<std::tuple<int, int, int, int>> want = {
      {0, 0, 0, 3}, {0, 1, 1, 3}, {0, 2, 2, 3}, {1, 0, 0, 2}, {1, 1, 1, 2}};
  ASSERT_EQ(table->size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const RankPlace& p = (*table)[i];
    EXPECT_EQ(p.rank, Rank(static_cast<int>(i)));
    EXPECT_EQ(std::make_tuple(p.node.value(), p.slot.value(), p.local_rank, p.local_size), want[i]);
    EXPECT_EQ(p.cross_rank, p.node.value());
    EXPECT_EQ(p.cross_size, 2);
  }
}

TEST(PlaceRanks, LostNodesLeaveNoHoleInRanks) {
  const auto table = TableOf({Node(5, {3, 1}), Node(2, {7})});
  ASSERT_TRUE(table.ok());
  ASSERT_EQ(table->size(), 3u);
  EXPECT_EQ((*table)[0].worker(), (WorkerId{NodeId(2), Slot(7)}));
  EXPECT_EQ((*table)[1].worker(), (WorkerId{NodeId(5), Slot(1)}));
  EXPECT_EQ((*table)[2].worker(), (WorkerId{NodeId(5), Slot(3)}));
  EXPECT_EQ((*table)[2].cross_rank, 1);
  EXPECT_EQ((*table)[2].local_rank, 1);
}

// All worlds of up to four nodes with up to four slots each.
TEST(PlaceRanks, AllSmallWorlds) {
  for (int shape = 1; shape < 5 * 5 * 5 * 5; ++shape) {
    std::vector<NodeSlots> nodes;
    int world = 0;
    for (int n = 0, rest = shape; n < 4; ++n, rest /= 5) {
      std::vector<int> slots;
      for (int s = 0; s < rest % 5; ++s) slots.push_back(s);
      world += static_cast<int>(slots.size());
      if (!slots.empty()) nodes.push_back(Node(n, slots));
    }
    const auto table = TableOf(nodes);
    ASSERT_TRUE(table.ok()) << table.status();
    ASSERT_EQ(static_cast<int>(table->size()), world);
    std::set<WorkerId> workers;
    for (int r = 0; r < world; ++r) {
      const RankPlace& p = (*table)[static_cast<size_t>(r)];
      ASSERT_EQ(p.rank, Rank(r));
      ASSERT_LT(p.local_rank, p.local_size);
      ASSERT_LT(p.cross_rank, p.cross_size);
      if (r > 0) {
        ASSERT_LT((*table)[static_cast<size_t>(r) - 1].worker(), p.worker());
      }
      workers.insert(p.worker());
    }
    ASSERT_EQ(static_cast<int>(workers.size()), world);
  }
}

// The slots of `ranks`, as node.slot.
std::string Places(const Placement& placement, const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) {
    const WorkerId worker = placement.ranks[static_cast<size_t>(rank)].worker();
    text += (text.empty() ? "" : " ") + std::to_string(worker.node.value()) + "." +
            std::to_string(worker.slot.value());
  }
  return text;
}

TEST(PlaceRanks, WithAMesh_RanksStandWhereMegatronPutsThem) {
  const auto placement =
      PlaceRanks({Node(0, {0, 1, 2, 3}), Node(1, {0, 1, 2, 3})}, {.tp = 2, .pp = 2});
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->mesh.shape().dp, 2);
  EXPECT_TRUE(placement->spares.empty());
  const RankPlace& six = placement->ranks[6];
  EXPECT_EQ(six.worker(), (WorkerId{NodeId(1), Slot(2)}));
  EXPECT_EQ(six.at, (Coordinates{.tp = 0, .dp = 1, .pp = 1, .edp = 1}));
  EXPECT_EQ(six.local_rank, 2);
}

// A slot of the first replica is lost: those behind it move up, the spare fills the hole, and only
// without one the job has a replica less.
TEST(PlaceRanks, ASpareFillsAHole) {
  const MeshShape shape = {.tp = 2};
  const auto whole = PlaceRanks({Node(0, {0, 1, 2, 3}), Node(1, {0, 1, 2, 3})}, shape, 3);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->mesh.shape().dp, 3);
  EXPECT_EQ(whole->spares, (std::vector<WorkerId>{{NodeId(1), Slot(2)}, {NodeId(1), Slot(3)}}));
  NodeSlots hurt = Node(0, {0, 2, 3});
  hurt.of = 4;
  const auto filled = PlaceRanks({hurt, Node(1, {0, 1, 2, 3})}, shape, 3);
  ASSERT_TRUE(filled.ok()) << filled.status();
  EXPECT_EQ(filled->mesh.shape().dp, 3);
  EXPECT_EQ(Places(*filled, {0, 1, 2, 3, 4, 5}), "0.0 0.2 1.0 1.1 1.2 1.3");
  EXPECT_EQ(filled->spares, (std::vector<WorkerId>{{NodeId(0), Slot(3)}}));
  const auto narrower = PlaceRanks({hurt, Node(1, {0, 1})}, shape, 3);
  ASSERT_TRUE(narrower.ok()) << narrower.status();
  EXPECT_EQ(narrower->mesh.shape().dp, 2);
}

TEST(PlaceRanks, ReplicasThatShareExperts_ComeTogether) {
  // 4 parts of experts over cp 2: two replicas hold all of them.
  const auto placement =
      PlaceRanks({Node(0, {0, 1, 2, 3}), Node(1, {0, 1, 2, 3})}, {.cp = 2, .ep = 4}, 3);
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->mesh.shape().dp, 2);
  EXPECT_EQ(placement->spares.size(), 4u);
}

// What is accepted is placed after a loss, too: such an order would be refused only then.
TEST(PlaceRanks, AnOrderThatALossWouldBreak_IsRefusedAtTheStart) {
  const auto refused = [](const MeshShape& shape) {
    const auto placement = PlaceRanks({Node(0, {0, 1, 2, 3}), Node(1, {0, 1, 2, 3})}, shape);
    return absl::IsInvalidArgument(placement.status());
  };
  EXPECT_TRUE(refused({.tp = 2, .cp = 2, .order = "cp-tp-dp"}));
  EXPECT_TRUE(refused({.tp = 2, .pp = 2, .order = "pp-tp-dp"}));
  EXPECT_TRUE(refused({.tp = 2, .cp = 2, .pp = 2, .order = "dp-tp-cp-pp"}));
  EXPECT_FALSE(refused({.tp = 2, .order = "cp-pp-ep-tp-dp"})) << "those are of size 1";
  EXPECT_FALSE(refused({.cp = 2, .order = "cp-tp-dp"})) << "nothing is divided";
}

// Random clusters with lost slots, random meshes: what must hold whatever they are.
TEST(PlaceRanks, RandomClusters_KeepTheRules) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto draw = [&](int from, int to) {
    return std::uniform_int_distribution<int>(from, to)(random);
  };
  int placed = 0, spared = 0;
  for (int round = 0; round < 400; ++round) {
    MeshShape shape{.tp = draw(1, 3), .cp = draw(1, 2), .ep = draw(1, 3), .pp = draw(1, 3)};
    std::vector<std::string> axes = {"cp", "dp", "pp"};
    if (shape.ep == 1) std::shuffle(axes.begin(), axes.end(), random);
    if (shape.tp == 1) axes.insert(axes.begin() + draw(0, 3), "tp");
    if (shape.tp > 1) axes.insert(axes.begin(), "tp");
    axes.insert(std::find(axes.begin(), axes.end(), "dp") + draw(0, 1), "ep");
    shape.order = absl::StrJoin(axes, "-");
    SCOPED_TRACE("order " + shape.order);
    const int max_width = draw(0, 3);
    std::vector<NodeSlots> nodes;
    int64_t usable = 0;
    std::set<WorkerId> alive;
    for (int n = 0; n < 5; ++n) {
      NodeSlots node;
      node.node = NodeId(n);
      node.of = shape.tp * draw(1, 3);
      for (int s = 0; s < node.of; ++s) {
        if (draw(0, 5) > 0) node.slots.push_back(Slot(s));
      }
      if (node.slots.empty()) continue;
      usable += static_cast<int64_t>(node.slots.size()) / shape.tp * shape.tp;
      for (const Slot slot : node.slots) alive.insert({node.node, slot});
      nodes.push_back(node);
    }
    const int64_t replica = shape.tp * shape.cp * shape.pp;
    int64_t width = usable / replica;
    if (max_width > 0) width = std::min<int64_t>(width, max_width);
    while (width > 0 && width * shape.cp % shape.ep != 0) --width;
    SCOPED_TRACE("round " + std::to_string(round));
    if (nodes.empty()) continue;
    std::shuffle(nodes.begin(), nodes.end(), random);
    const auto placement = PlaceRanks(nodes, shape, max_width);
    if (width == 0) {
      ASSERT_EQ(placement.status().code(), absl::StatusCode::kResourceExhausted);
      continue;
    }
    ASSERT_TRUE(placement.ok()) << placement.status();
    ++placed;
    spared += !placement->spares.empty();
    ASSERT_EQ(placement->mesh.shape().dp, width);
    ASSERT_EQ(static_cast<int64_t>(placement->ranks.size()), width * replica);
    std::set<WorkerId> seen(placement->spares.begin(), placement->spares.end());
    for (size_t r = 0; r < placement->ranks.size(); ++r) {
      const RankPlace& place = placement->ranks[r];
      ASSERT_EQ(place.rank, Rank(static_cast<int>(r)));
      ASSERT_EQ(place.at, placement->mesh.CoordinatesOf(place.rank));
      ASSERT_TRUE(seen.insert(place.worker()).second) << "a place twice";
      if (r > 0) {
        ASSERT_LT(placement->ranks[r - 1].worker(), place.worker());
      }
      for (const Rank part : placement->mesh.GroupOf(place.rank, {Axis::kTp})) {
        ASSERT_EQ(placement->ranks[static_cast<size_t>(part.value())].node, place.node);
      }
    }
    ASSERT_EQ(seen, alive);
    // It goes through a plan and comes back as it was.
    proto::GenerationPlan plan;
    PutPlacement(*placement, plan);
    const auto places = PlacesOf(plan);
    ASSERT_TRUE(places.ok()) << places.status();
    ASSERT_EQ(*places, placement->ranks);
    ASSERT_EQ(MeshOf(plan)->shape(), placement->mesh.shape());
  }
  EXPECT_GT(placed, 0);
  EXPECT_GT(spared, 0);
}

TEST(PlaceRanks, ErrorsNameTheThing) {
  const auto message = [](std::vector<NodeSlots> nodes, const MeshShape& shape = {},
                          int64_t max_width = 0) {
    return std::string(PlaceRanks(std::move(nodes), shape, max_width).status().message());
  };
  EXPECT_EQ(message({}), "no slot to place a rank on; name a host");
  EXPECT_EQ(message({Node(1, {})}), "node 1 has no slot; leave it out or give it one");
  EXPECT_EQ(message({Node(1, {0}), Node(1, {1})}), "node 1 is given twice; give each node once");
  EXPECT_EQ(message({Node(1, {2, 2})}), "slot 2 of node 1 is given twice; give each slot once");
  EXPECT_EQ(message({Node(0, {0, 1}), Node(1, {0, 1, 2})}, {.tp = 2}),
            "node 1 has 3 slots, which tp 2 does not divide: the parts of a tensor stay inside one "
            "node; give it 2 or 4 slots, or make tp a divisor of 3");
  EXPECT_EQ(message({Node(0, {0, 1}), Node(1, {0, 1})}, {.tp = 4}),
            "node 0 has 2 slots, which tp 4 does not divide: the parts of a tensor stay inside one "
            "node; give it 4 slots, or make tp a divisor of 2");
  EXPECT_EQ(message({Node(0, {0, 1, 2, 3})}, {.tp = 2, .pp = 3}),
            "4 slots are not enough for 1 replica of 6 ranks (tp 2, cp 1, pp 3, ep 1): 6 slots are "
            "needed");
  EXPECT_EQ(message({Node(0, {0, 1, 2, 3})}, {.ep = 4}, 3),
            "4 slots and at most 3 replicas are not enough for 4 replicas of 1 rank (tp 1, cp 1, "
            "pp 1, ep 4): 4 slots are needed");
  EXPECT_EQ(
      message({Node(0, {0, 1}), Node(1, {0, 1})}, {.tp = 2, .order = "dp-tp"}),
      "mesh order \"dp-tp\" has dp before tp, whose size is 2: the parts of a tensor would not "
      "stay inside one node; put tp first in the order");
  EXPECT_EQ(message({Node(0, {0})}, {.cp = 0}), "mesh: cp is 0, expected at least 1");
}

TEST(PlacesOf, APlanThatIsNotPlacedByTheRules_IsRefused) {
  const auto placement = PlaceRanks({Node(0, {0, 1}), Node(1, {0, 1})}, {.tp = 2});
  ASSERT_TRUE(placement.ok());
  proto::GenerationPlan good;
  PutPlacement(*placement, good);
  ASSERT_TRUE(PlacesOf(good).ok());
  const auto refused = [&](const auto& spoil) {
    proto::GenerationPlan plan = good;
    spoil(plan);
    return PlacesOf(plan).status().code() == absl::StatusCode::kInvalidArgument;
  };
  using Plan = proto::GenerationPlan;
  EXPECT_TRUE(refused([](Plan& plan) { plan.clear_members(); }));
  EXPECT_TRUE(refused([](Plan& plan) { plan.mutable_members()->RemoveLast(); }));
  EXPECT_TRUE(refused([](Plan& plan) { plan.mutable_members()->SwapElements(0, 1); }));
  EXPECT_TRUE(refused([](Plan& plan) { plan.mutable_members()->SwapElements(1, 2); }));
  EXPECT_TRUE(refused([](Plan& plan) { *plan.mutable_members(1) = plan.members(0); }));
  EXPECT_TRUE(refused([](Plan& plan) { plan.mutable_members(1)->mutable_at()->set_tp(0); }));
  EXPECT_TRUE(refused([](Plan& plan) { plan.mutable_mesh()->set_dp(3); }));
  EXPECT_TRUE(refused([](Plan& plan) { plan.mutable_mesh()->set_order("pp"); }));
  EXPECT_TRUE(refused([](Plan& plan) { plan.mutable_mesh()->set_pp(-1); }));
}

// Of an older coordinator: members, and nothing about a mesh.
TEST(PlacesOf, APlanWithoutAMesh_IsDataParallel) {
  proto::GenerationPlan plan;
  for (const int node : {0, 0, 3}) {
    proto::Member* const member = plan.add_members();
    member->set_node(node);
    member->set_slot(plan.members_size());
  }
  const auto places = PlacesOf(plan);
  ASSERT_TRUE(places.ok()) << places.status();
  EXPECT_EQ((*places)[2].at.dp, 2);
  EXPECT_EQ((*places)[2].cross_rank, 1);
}

}  // namespace
}  // namespace dsrun
