#include "common/topology/mesh.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/topology/process_group.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

using Lists = std::vector<std::vector<int>>;

Mesh MakeMesh(const MeshShape& shape) {
  const absl::StatusOr<Mesh> mesh = Mesh::Create(shape);
  EXPECT_TRUE(mesh.ok()) << mesh.status();
  return *mesh;
}

AxisSet Axes(const std::string& text) {
  const absl::StatusOr<AxisSet> axes = AxisSet::Parse(text);
  EXPECT_TRUE(axes.ok()) << axes.status();
  return *axes;
}

Lists GroupsOf(const Mesh& mesh, AxisSet axes) {
  Lists lists;
  for (const std::vector<Rank>& group : mesh.Groups(axes)) {
    lists.emplace_back();
    for (const Rank rank : group) lists.back().push_back(rank.value());
  }
  return lists;
}

// What Megatron-LM's RankGenerator gives (parallel_state.py), run once for each of
// these; of its two generators the one for experts where the axes are ep or edp. The first is the
// example of its documentation.
struct Golden {
  MeshShape shape;
  std::map<std::string, Lists> groups;
};
// clang-format off
const Golden kGolden[] = {
    {{.tp = 2, .cp = 1, .ep = 1, .dp = 2, .pp = 4, .order = "tp-cp-ep-dp-pp"},
     {{"tp", {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}, {12, 13}, {14, 15}}},
      {"dp", {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}}},
      {"pp", {{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}}},
      {"dp-cp", {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}}},
      {"tp-pp", {{0, 1, 4, 5, 8, 9, 12, 13}, {2, 3, 6, 7, 10, 11, 14, 15}}}}},
    {{.tp = 2, .cp = 2, .ep = 2, .dp = 2, .pp = 2, .order = "tp-cp-ep-dp-pp"},
     {{"tp", {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}, {12, 13}, {14, 15}}},
      {"cp", {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}}},
      {"dp", {{0, 4}, {1, 5}, {2, 6}, {3, 7}, {8, 12}, {9, 13}, {10, 14}, {11, 15}}},
      {"pp", {{0, 8}, {1, 9}, {2, 10}, {3, 11}, {4, 12}, {5, 13}, {6, 14}, {7, 15}}},
      {"dp-cp", {{0, 2, 4, 6}, {1, 3, 5, 7}, {8, 10, 12, 14}, {9, 11, 13, 15}}},
      {"tp-pp", {{0, 1, 8, 9}, {2, 3, 10, 11}, {4, 5, 12, 13}, {6, 7, 14, 15}}},
      {"ep", {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}}},
      {"edp", {{0, 4}, {1, 5}, {2, 6}, {3, 7}, {8, 12}, {9, 13}, {10, 14}, {11, 15}}},
      {"tp-ep", {{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}, {12, 13, 14, 15}}}}},
    {{.tp = 2, .cp = 1, .ep = 2, .dp = 4, .pp = 1, .order = "tp-cp-dp-ep-pp"},
     {{"tp", {{0, 1}, {2, 3}, {4, 5}, {6, 7}}},
      {"dp", {{0, 2, 4, 6}, {1, 3, 5, 7}}},
      {"dp-cp", {{0, 2, 4, 6}, {1, 3, 5, 7}}},
      {"tp-pp", {{0, 1}, {2, 3}, {4, 5}, {6, 7}}},
      {"ep", {{0, 4}, {1, 5}, {2, 6}, {3, 7}}},
      {"edp", {{0, 2}, {1, 3}, {4, 6}, {5, 7}}},
      {"tp-ep", {{0, 1, 4, 5}, {2, 3, 6, 7}}}}},
    {{.tp = 2, .cp = 1, .ep = 1, .dp = 2, .pp = 2, .order = "tp-pp-dp"},
     {{"tp", {{0, 1}, {2, 3}, {4, 5}, {6, 7}}},
      {"dp", {{0, 4}, {1, 5}, {2, 6}, {3, 7}}},
      {"pp", {{0, 2}, {1, 3}, {4, 6}, {5, 7}}},
      {"dp-cp", {{0, 4}, {1, 5}, {2, 6}, {3, 7}}},
      {"tp-pp", {{0, 1, 2, 3}, {4, 5, 6, 7}}}}},
    {{.tp = 1, .cp = 2, .ep = 4, .dp = 4, .pp = 1, .order = "tp-cp-ep-dp-pp"},
     {{"cp", {{0, 1}, {2, 3}, {4, 5}, {6, 7}}},
      {"dp", {{0, 2, 4, 6}, {1, 3, 5, 7}}},
      {"dp-cp", {{0, 1, 2, 3, 4, 5, 6, 7}}},
      {"ep", {{0, 1, 2, 3}, {4, 5, 6, 7}}},
      {"edp", {{0, 4}, {1, 5}, {2, 6}, {3, 7}}},
      {"tp-ep", {{0, 1, 2, 3}, {4, 5, 6, 7}}}}},
    {{.tp = 1, .cp = 2, .ep = 2, .dp = 3, .pp = 2, .order = "tp-cp-ep-pp-dp"},
     {{"cp", {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}}},
      {"dp", {{0, 4, 8}, {1, 5, 9}, {2, 6, 10}, {3, 7, 11}}},
      {"pp", {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}}},
      {"dp-cp", {{0, 1, 4, 5, 8, 9}, {2, 3, 6, 7, 10, 11}}},
      {"tp-pp", {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}}},
      {"ep", {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}}},
      {"edp", {{0, 4, 8}, {1, 5, 9}, {2, 6, 10}, {3, 7, 11}}},
      {"tp-ep", {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}}}}},
};
// clang-format on

TEST(Mesh, Groups_AreMegatrons) {
  for (const Golden& golden : kGolden) {
    const Mesh mesh = MakeMesh(golden.shape);
    for (const auto& [axes, groups] : golden.groups) {
      EXPECT_EQ(GroupsOf(mesh, Axes(axes)), groups) << golden.shape.order << ", " << axes;
    }
  }
}

// The same by counting: an odometer whose wheels stand in the order of the axes.
class Odometer {
 public:
  Odometer(std::vector<std::string> names, std::map<std::string, int> sizes)
      : names_(std::move(names)), sizes_(std::move(sizes)) {
    for (const std::string& name : names_) at_[name] = 0;
  }
  const std::map<std::string, int>& at() const { return at_; }
  void Step() {
    for (const std::string& name : names_) {
      if (++at_[name] < sizes_[name]) return;
      at_[name] = 0;
    }
  }

 private:
  std::vector<std::string> names_;
  std::map<std::string, int> sizes_, at_;
};

struct Drawn {
  MeshShape shape;
  std::vector<std::string> order;
};

Drawn Draw(std::mt19937& random) {
  const auto draw = [&](int from, int to) {
    return std::uniform_int_distribution<int>(from, to)(random);
  };
  Drawn drawn;
  MeshShape& shape = drawn.shape;
  shape.tp = draw(1, 3);
  shape.cp = draw(1, 3);
  shape.dp = draw(1, 4);
  shape.pp = draw(1, 3);
  do {
    shape.ep = draw(1, shape.cp * shape.dp);
  } while (shape.cp * shape.dp % shape.ep != 0);
  drawn.order = {"tp", "cp", "ep", "dp", "pp"};
  std::shuffle(drawn.order.begin(), drawn.order.end(), random);
  shape.order.clear();
  for (const std::string& name : drawn.order)
    shape.order += (shape.order.empty() ? "" : "-") + name;
  return drawn;
}

// Of every rank, what it stands at: tp, cp, dp, pp by one odometer; ep, edp by that of experts, and
// whether the two agree about tp and pp.
std::vector<std::map<std::string, int>> Count(const Drawn& drawn, bool* agree) {
  const MeshShape& s = drawn.shape;
  std::vector<std::string> dense, experts;
  for (const std::string& name : drawn.order) {
    if (name != "ep") dense.push_back(name);
    if (name != "cp") experts.push_back(name == "dp" ? "edp" : name);
  }
  Odometer rank(dense, {{"tp", s.tp}, {"cp", s.cp}, {"dp", s.dp}, {"pp", s.pp}});
  Odometer expert(experts, {{"tp", s.tp}, {"ep", s.ep}, {"edp", s.cp * s.dp / s.ep}, {"pp", s.pp}});
  std::vector<std::map<std::string, int>> all;
  *agree = true;
  for (int i = 0; i < s.tp * s.cp * s.dp * s.pp; ++i, rank.Step(), expert.Step()) {
    for (const std::string name : {"tp", "pp"}) {
      *agree = *agree && rank.at().at(name) == expert.at().at(name);
    }
    all.push_back(rank.at());
    all.back()["ep"] = expert.at().at("ep");
    all.back()["edp"] = expert.at().at("edp");
  }
  return all;
}

Lists GroupsByLoop(const std::vector<std::map<std::string, int>>& ranks,
                   const std::vector<std::string>& fixed) {
  std::map<std::vector<int>, std::vector<int>> by_key;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    std::vector<int> key;
    for (const std::string& name : fixed) key.push_back(ranks[rank].at(name));
    by_key[key].push_back(static_cast<int>(rank));
  }
  Lists lists;
  for (auto& [_, list] : by_key) lists.push_back(list);
  std::sort(lists.begin(), lists.end());
  return lists;
}

TEST(Mesh, RandomShapes_AreWhatAnOdometerCounts) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  int refused = 0, with_experts = 0;
  for (int round = 0; round < 400; ++round) {
    const Drawn drawn = Draw(random);
    const MeshShape& s = drawn.shape;
    SCOPED_TRACE(absl::StrCat(s.order, " tp ", s.tp, " cp ", s.cp, " ep ", s.ep, " dp ", s.dp,
                              " pp ", s.pp));
    bool agree = false;
    const auto counted = Count(drawn, &agree);
    const absl::StatusOr<Mesh> mesh = Mesh::Create(s);
    ASSERT_EQ(mesh.ok(), agree || s.ep == 1) << mesh.status();
    if (!mesh.ok()) {
      ++refused;
      continue;
    }
    ASSERT_EQ(static_cast<size_t>(mesh->size()), counted.size());
    ASSERT_EQ(mesh->replica_size(), s.tp * s.cp * s.pp);
    for (int rank = 0; rank < mesh->size(); ++rank) {
      const Coordinates at = mesh->CoordinatesOf(Rank(rank));
      const auto& want = counted[static_cast<size_t>(rank)];
      ASSERT_EQ(at.tp, want.at("tp"));
      ASSERT_EQ(at.cp, want.at("cp"));
      ASSERT_EQ(at.dp, want.at("dp"));
      ASSERT_EQ(at.pp, want.at("pp"));
      ASSERT_EQ(mesh->RankOf(at), Rank(rank));
      if (!agree) continue;
      ASSERT_EQ(at.ep, want.at("ep"));
      ASSERT_EQ(at.edp, want.at("edp"));
    }
    ASSERT_EQ(GroupsOf(*mesh, Axes("tp")), GroupsByLoop(counted, {"cp", "dp", "pp"}));
    ASSERT_EQ(GroupsOf(*mesh, Axes("cp")), GroupsByLoop(counted, {"tp", "dp", "pp"}));
    ASSERT_EQ(GroupsOf(*mesh, Axes("dp")), GroupsByLoop(counted, {"tp", "cp", "pp"}));
    ASSERT_EQ(GroupsOf(*mesh, Axes("pp")), GroupsByLoop(counted, {"tp", "cp", "dp"}));
    ASSERT_EQ(GroupsOf(*mesh, Axes("cp-dp")), GroupsByLoop(counted, {"tp", "pp"}));
    ASSERT_EQ(GroupsOf(*mesh, Axes("tp-cp-pp")), GroupsByLoop(counted, {"dp"}));
    if (!agree) continue;
    with_experts += s.ep > 1;
    ASSERT_EQ(GroupsOf(*mesh, Axes("ep")), GroupsByLoop(counted, {"tp", "edp", "pp"}));
    ASSERT_EQ(GroupsOf(*mesh, Axes("edp")), GroupsByLoop(counted, {"tp", "ep", "pp"}));
    ASSERT_EQ(GroupsOf(*mesh, Axes("tp-ep")), GroupsByLoop(counted, {"edp", "pp"}));
    ASSERT_EQ(GroupsOf(*mesh, Axes("ep-edp")), GroupsByLoop(counted, {"tp", "pp"}));
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(with_experts, 0);
}

TEST(Mesh, Errors_NameTheAxisAndWhatToDo) {
  const auto message = [](const MeshShape& shape) {
    return std::string(Mesh::Create(shape).status().message());
  };
  EXPECT_EQ(message({.tp = 0}), "mesh: tp is 0, expected at least 1");
  EXPECT_EQ(message({.tp = 70000, .dp = 70000}),
            "mesh: tp * cp * dp * pp is more than 2147483647 ranks; make one of them smaller");
  EXPECT_EQ(message({.ep = 3, .dp = 4}),
            "mesh: ep 3 does not divide cp * dp = 1 * 4 = 4, the ranks that experts are divided "
            "among");
  EXPECT_EQ(message({.order = "tp-xp"}),
            "mesh order \"tp-xp\" names \"xp\"; expected something like tp-cp-ep-dp-pp");
  EXPECT_EQ(message({.order = "tp-edp"}),
            "mesh order \"tp-edp\" names \"edp\"; expected something like tp-cp-ep-dp-pp");
  EXPECT_EQ(message({.order = ""}),
            "mesh order \"\" names \"\"; expected something like tp-cp-ep-dp-pp");
  EXPECT_EQ(message({.order = "tp-dp-tp"}),
            "mesh order \"tp-dp-tp\" names tp twice; expected something like tp-cp-ep-dp-pp");
  EXPECT_EQ(message({.pp = 2, .order = "tp-dp"}),
            "mesh order \"tp-dp\" lacks pp, whose size is 2; expected something like "
            "tp-cp-ep-dp-pp");
  EXPECT_EQ(message({.tp = 2, .cp = 2, .ep = 2, .order = "cp-tp-ep-dp-pp"}),
            "mesh order \"cp-tp-ep-dp-pp\" gives the experts of a rank another tp than the rest of "
            "it, with cp 2, ep 2 and dp 1; let cp, ep and dp stand side by side, as in "
            "tp-cp-ep-dp-pp");
}

TEST(AxisSet, Text_IsReadInAnyOrderAndWrittenInOne) {
  EXPECT_EQ(Axes("dp-cp").ToString(), "cp-dp");
  EXPECT_EQ(Axes("edp").ToString(), "edp");
  for (const std::string text : {"", "tp-", "tp-tp", "TP", "xp"}) {
    EXPECT_EQ(AxisSet::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(Mesh::HasGroups(AxisSet({})));
  EXPECT_FALSE(Mesh::HasGroups({Axis::kCp, Axis::kEp}));
  EXPECT_TRUE(Mesh::HasGroups({Axis::kTp, Axis::kEp, Axis::kPp}));
}

TEST(ProcessGroup, Name_SaysItsRanks) {
  const Mesh mesh = MakeMesh({.tp = 2, .cp = 2, .ep = 2, .dp = 2, .pp = 2});
  std::set<std::string> names;
  for (const std::string axes : {"tp", "cp", "dp", "pp", "cp-dp", "ep", "edp", "tp-pp"}) {
    for (int rank = 0; rank < mesh.size(); ++rank) {
      const ProcessGroup group = GroupAlong(mesh, Axes(axes), Rank(rank));
      ASSERT_TRUE(group.RankIn(Rank(rank)).has_value());
      ASSERT_EQ(group.ranks[static_cast<size_t>(*group.RankIn(Rank(rank)))], Rank(rank));
      const absl::StatusOr<ProcessGroup> found = GroupNamed(mesh, group.name);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(found->name, group.name);
      EXPECT_EQ(found->ranks, group.ranks);
      names.insert(group.name);
    }
  }
  // Of 16 ranks: six kinds of groups of two, two of groups of four.
  EXPECT_EQ(names.size(), 6u * 8 + 2 * 4) << "one name a group";
  EXPECT_EQ(GroupAlong(mesh, Axes("dp-cp"), Rank(13)).name, "cp-dp@9");
  EXPECT_EQ(GroupNamed(mesh, "world")->ranks.size(), 16u);
  EXPECT_FALSE(GroupAlong(mesh, Axes("tp"), Rank(3)).RankIn(Rank(4)).has_value());
}

// A worker may say anything.
TEST(ProcessGroup, OtherNames_AreNone) {
  const Mesh mesh = MakeMesh({.tp = 2, .dp = 4});
  for (const std::string name :
       {"", "tp", "@0", "tp@", "tp@1", "tp@-2", "tp@8", "tp@99999999999", "tp@0x2", "tp@ 2",
        "dp-tp@0", "cp-ep@0", "xp@0", "tp@02", "tp@+2", "world@0", "World"}) {
    EXPECT_EQ(GroupNamed(mesh, name).status().code(), absl::StatusCode::kNotFound) << name;
  }
}

}  // namespace
}  // namespace dsrun
