// The job of this folder's tests of generations: eight steps of a model that fits in a cache, a
// save after every second one, and the content that it ends with.

#ifndef DSRUN_TESTS_WORKER_ENGINE_SMALL_JOB_H_
#define DSRUN_TESTS_WORKER_ENGINE_SMALL_JOB_H_

#include <string>

#include "proto/job.pb.h"
#include "tests/fakes/faulty_file_system.h"

namespace dsrun::worker {

inline constexpr char kFolder[] = "/checkpoints";

proto::JobSpec Job(const std::string& id = "job");

// The content hash of the newest checkpoint of the job; fails the test if there is none.
std::string NewestHash(FaultyFileSystem& fs, const std::string& job_id = "job");

// The same of a run that nothing disturbed; that of Job() is computed once.
const std::string& UndisturbedHash();
std::string UndisturbedHash(const proto::JobSpec& job);

// The same of one that is interrupted after step 5, between two saves, at a width of 3, and goes on
// at 2.
std::string InterruptedHash(FaultyFileSystem& fs, const proto::JobSpec& job);

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_ENGINE_SMALL_JOB_H_
