// Verifying a checkpoint by all ranks together: every rank reads its share of the files, every byte
// of it, and what each has found makes one verdict for all, so that a damaged file, whoever finds
// it, makes all of them fall back together.
//
// It takes 1/width of the time that one rank would need, on disks that let them. What follows, the
// loading, is another matter: with data parallel fp32 every rank needs the whole model and its own
// part of the optimizer's state, and reads that (no more than that, and with few files open).
//
// Pure but for reading; any thread.

#ifndef DSRUN_WORKER_CHECKPOINT_SHARED_VERIFICATION_H_
#define DSRUN_WORKER_CHECKPOINT_SHARED_VERIFICATION_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/file_system.h"
#include "common/format/manifest.h"

namespace dsrun::worker {

// The files that `rank` of `width` ranks verifies. Every file is in one share exactly; the same
// manifest is shared out in the same way by every rank; a share has at most one file more than the
// least one has bytes. In name order. REQUIRES: 0 <= rank < width.
std::vector<ManifestFile> ShareOf(const Manifest& manifest, int rank, int width);

// Reads the share of `rank`. `moved` is called after every megabyte: the rank is not stuck.
// Errors: DATA_LOSS: proven damage (missing, cut, other bytes; two looks agree), the first five
// such files are named; else the first error of reading, which says nothing about the checkpoint.
absl::Status VerifyShare(FileSystem& fs, const std::string& folder, const Manifest& manifest,
                         int rank, int width, const std::function<void()>& moved);

// One verdict from those of all ranks: OK; DATA_LOSS, if any has proven damage, with what was found
// by all of them (bounded); else the first other error, with its rank.
absl::Status JoinShares(const std::vector<absl::Status>& by_rank);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_SHARED_VERIFICATION_H_
