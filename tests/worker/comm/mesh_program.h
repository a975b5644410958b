// What every rank of a mesh does in the tests of process groups: along every kind of axes an
// all-gather and a reduce-scatter of int64 at once, each on its own lane, several rounds without
// waiting in between, enqueued and awaited in an order that is the rank's own. What comes out is
// checked against plain loops over the ranks of the mesh.

#ifndef DSRUN_TESTS_WORKER_COMM_MESH_PROGRAM_H_
#define DSRUN_TESTS_WORKER_COMM_MESH_PROGRAM_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/ids.h"
#include "common/topology/mesh.h"
#include "worker/comm/core/process_groups.h"

namespace dsrun::worker {

// "gather" and "sums" along tp, cp, dp, pp, cp-dp and ep; without groups of one rank.
std::vector<GroupLane> MeshLanes(const Mesh& mesh);

// Errors: those of the communicators; INTERNAL: a value is not what the loops say.
absl::Status RunMeshProgram(ProcessGroups& groups, const Mesh& mesh, Rank rank, uint64_t seed);

// One of `least` to `most` ranks that has at least three axes longer than 1 where `most` allows.
MeshShape RandomShape(std::mt19937_64& random, int least, int most);
std::string ShapeText(const MeshShape& shape);

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_COMM_MESH_PROGRAM_H_
