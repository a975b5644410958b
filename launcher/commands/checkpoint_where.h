// dsrun where --param NAME DIR: where a parameter and the optimizer's state for it lie. In a
// checkpoint: which rank wrote which elements, into which bytes of which file, in which type, and
// their norm. Of a run folder whose job has not ended also which rank has which of them in memory
// (where_in_job.h).

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_WHERE_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_WHERE_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/piece.h"
#include "launcher/commands/checkpoint_place.h"

namespace dsrun::launcher {

struct PlaceOfPiece {
  int64_t rank = -1;  // that wrote it; -1: its file's name does not say
  std::string file;
  int64_t first_byte = 0;  // bytes [first_byte, past_byte) of the file
  int64_t past_byte = 0;
  Box shard;          // what its rank held of the tensor; the whole, without tensor parallelism
  int64_t begin = 0;  // elements [begin, end) of it
  int64_t end = 0;
  double norm = 0;  // square root of the sum of squares of these elements
};

struct PlacesOfTensor {
  std::string name;  // "model/wte.weight", "state/exp_avg/wte.weight"
  std::vector<int64_t> shape;
  ElementType type = ElementType::kF32;
  double norm = 0;  // of the whole tensor
  std::vector<PlaceOfPiece> pieces;
};

// `parameter`: "wte.weight": model/wte.weight and state/*/wte.weight; or the whole name of one
// tensor. Every element of them is read. Errors: NOT_FOUND: no such tensor, the message names some
// that there are; those of Checkpoint::Read.
absl::StatusOr<std::vector<PlacesOfTensor>> WhereIs(Checkpoint& checkpoint,
                                                    const std::string& parameter);

struct WhereRequest {
  std::string path;  // as it was typed
  CheckpointPlace place;
  std::string job_id;  // empty: any
  std::string parameter;
  bool json = false;
};

// Prints it; returns the exit code (checkpoint_place.h). Of a job that has not saved yet it prints
// what is in memory, and says that there is no norm.
int WhereCommand(FileSystem& fs, const WhereRequest& request, std::ostream& out, std::ostream& err);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_WHERE_H_
