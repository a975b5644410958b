// Verifying the checkpoint that all ranks are about to load, by all of them
// (worker/checkpoint/shared_verification.h), over their communicator.
//
// Threads: the communicator's owner; every rank makes the same calls in the same order.

#ifndef DSRUN_WORKER_ENGINE_VERIFY_TOGETHER_H_
#define DSRUN_WORKER_ENGINE_VERIFY_TOGETHER_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "common/base/file_system.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

// Every rank reads its share of the files; the same outcome on all ranks. `moved`: see VerifyShare.
// Errors: the communicator's. DATA_LOSS: proven damage, found by any rank: nobody uses this
// checkpoint. Any other: a rank, which is named, could not read its share; that says nothing about
// the checkpoint.
absl::Status VerifyTogether(Communicator& comm, FileSystem& fs, const std::string& folder,
                            const std::string& manifest, const std::function<void()>& moved);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_VERIFY_TOGETHER_H_
