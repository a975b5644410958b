#include "tests/worker/comm/mesh_program.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

constexpr int kRounds = 3;
constexpr int kMostElements = 3000;

const std::vector<AxisSet> kKinds = {
    {Axis::kTp}, {Axis::kCp}, {Axis::kDp}, {Axis::kPp}, {Axis::kCp, Axis::kDp}, {Axis::kEp}};

// The ranks that differ from `rank` in `axes` alone, by a loop over all.
std::vector<int> Members(const Mesh& mesh, AxisSet axes, Rank rank) {
  const Coordinates own = mesh.CoordinatesOf(rank);
  const bool experts = axes.Has(Axis::kEp);
  std::vector<int> members;
  for (int other = 0; other < mesh.size(); ++other) {
    const Coordinates at = mesh.CoordinatesOf(Rank(other));
    bool same = true;
    for (const Axis axis : {Axis::kTp, Axis::kPp, experts ? Axis::kEp : Axis::kCp,
                            experts ? Axis::kEdp : Axis::kDp}) {
      same = same && (axes.Has(axis) || at.At(axis) == own.At(axis));
    }
    if (same) members.push_back(other);
  }
  return members;
}

// Any 64 bits, so that sums run over.
int64_t Value(uint64_t seed, int rank, size_t kind, int round, int64_t i) {
  uint64_t x = seed ^ (static_cast<uint64_t>(rank) << 48) ^ (uint64_t{kind} << 40) ^
               (static_cast<uint64_t>(round) << 32) ^ static_cast<uint64_t>(i);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<int64_t>(x ^ (x >> 31));
}

// One operation with its buffers, which stay where they are.
struct Operation {
  size_t kind;
  bool sums;
  int round;
  int64_t elements = 0;
  std::vector<int> members = {};
  size_t own = 0;  // among the members
  std::vector<int64_t> mine = {}, all = {}, scratch = {};
  AsyncCommunicator* lane = nullptr;
  CommEvent event = {};
};

std::unique_ptr<Operation> Prepare(ProcessGroups& groups, const Mesh& mesh, Rank rank,
                                   uint64_t seed, size_t kind, bool sums, int round) {
  auto op = std::make_unique<Operation>(Operation{.kind = kind, .sums = sums, .round = round});
  op->members = Members(mesh, kKinds[kind], rank);
  // The same on all ranks of the group, and another in every round.
  op->elements = 1 + (Value(seed, 0, kind, round, -1) & 0x7fffffff) % kMostElements;
  op->own = static_cast<size_t>(std::find(op->members.begin(), op->members.end(), rank.value()) -
                                op->members.begin());
  op->lane = &groups.At(kKinds[kind], sums ? "sums" : "gather");
  const auto n = static_cast<size_t>(op->elements);
  if (sums) {
    for (size_t i = 0; i < n * op->members.size(); ++i) {
      op->all.push_back(Value(seed, rank.value(), kind, round, static_cast<int64_t>(i)));
    }
    op->scratch.resize(static_cast<size_t>(op->lane->ScratchElements(op->elements)));
    return op;
  }
  op->all.assign(n * op->members.size(), 0);
  for (size_t i = 0; i < n; ++i) {
    op->mine.push_back(Value(seed, rank.value(), kind, round, static_cast<int64_t>(i)));
  }
  return op;
}

void Enqueue(Operation& op) {
  const std::string what = absl::StrCat(op.sums ? "sums" : "gather", " of round ", op.round);
  if (op.sums) {
    op.event = op.lane->EnqueueReduceScatter(op.all.data(), op.elements, op.scratch, what);
  } else {
    op.event = op.lane->EnqueueAllGather(
        op.mine.data(), static_cast<size_t>(op.elements) * sizeof(int64_t), op.all.data(), what);
  }
}

absl::Status Wrong(const Operation& op, const std::string& what) {
  return absl::InternalError(absl::StrCat(op.sums ? "sums" : "gather", " along ",
                                          kKinds[op.kind].ToString(), ", round ", op.round, ": ",
                                          what));
}

absl::Status Verify(const Operation& op, uint64_t seed) {
  for (size_t block = 0; block < op.members.size(); ++block) {
    if (op.sums && block != op.own) continue;
    for (int64_t i = 0; i < op.elements; ++i) {
      const int64_t at = static_cast<int64_t>(block) * op.elements + i;
      uint64_t want = 0;
      if (op.sums) {
        for (const int member : op.members) {
          want += static_cast<uint64_t>(Value(seed, member, op.kind, op.round, at));
        }
      } else {
        want = static_cast<uint64_t>(Value(seed, op.members[block], op.kind, op.round, i));
      }
      const auto got = static_cast<uint64_t>(op.all[static_cast<size_t>(at)]);
      if (got != want) {
        return Wrong(
            op, absl::StrCat("element ", i, " of block ", block, " is ", got, ", expected ", want));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<GroupLane> MeshLanes(const Mesh& mesh) {
  std::vector<GroupLane> lanes;
  for (const AxisSet axes : kKinds) {
    if (mesh.GroupOf(Rank(0), axes).size() == 1) continue;
    lanes.push_back({axes, "gather"});
    lanes.push_back({axes, "sums"});
  }
  return lanes;
}

absl::Status RunMeshProgram(ProcessGroups& groups, const Mesh& mesh, Rank rank, uint64_t seed) {
  std::mt19937_64 random(seed + static_cast<uint64_t>(rank.value()));
  std::vector<std::unique_ptr<Operation>> all;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::unique_ptr<Operation>> now;
    for (size_t kind = 0; kind < kKinds.size(); ++kind) {
      if (mesh.GroupOf(rank, kKinds[kind]).size() == 1) continue;
      for (const bool sums : {false, true}) {
        now.push_back(Prepare(groups, mesh, rank, seed, kind, sums, round));
      }
    }
    std::shuffle(now.begin(), now.end(), random);
    for (auto& op : now) {
      const ProcessGroup& group = groups.GroupAt(kKinds[op->kind]);
      if (group.size() != static_cast<int>(op->members.size())) return Wrong(*op, group.name);
      Enqueue(*op);
      all.push_back(std::move(op));
    }
  }
  std::shuffle(all.begin(), all.end(), random);
  absl::Status first;
  for (const auto& op : all) first.Update(op->lane->Await(op->event));
  RETURN_IF_ERROR(first);
  for (const auto& op : all) RETURN_IF_ERROR(Verify(*op, seed));
  return groups.AsyncError();
}

MeshShape RandomShape(std::mt19937_64& random, int least, int most) {
  const auto draw = [&](int from, int to) {
    return std::uniform_int_distribution<int>(from, to)(random);
  };
  while (true) {
    MeshShape shape{.tp = draw(1, 3), .cp = draw(1, 3), .dp = draw(1, 4), .pp = draw(1, 3)};
    const int ranks = shape.tp * shape.cp * shape.dp * shape.pp;
    const int longer = (shape.tp > 1) + (shape.cp > 1) + (shape.dp > 1) + (shape.pp > 1);
    if (ranks < least || ranks > most || (most >= 8 && longer < 3)) continue;
    shape.ep = draw(1, 2) == 1 && shape.cp * shape.dp % 2 == 0 ? 2 : 1;
    if (shape.ep == 1 && draw(1, 2) == 1) shape.order = "pp-dp-tp-cp";
    return shape;
  }
}

std::string ShapeText(const MeshShape& shape) {
  return absl::StrCat("tp ", shape.tp, " cp ", shape.cp, " ep ", shape.ep, " dp ", shape.dp, " pp ",
                      shape.pp, " ", shape.order);
}

}  // namespace dsrun::worker
