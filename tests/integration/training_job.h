// Small training jobs for tests: a model so small that the processes are what is tested, the
// content that an undisturbed run ends with, and looks at a run from outside.

#ifndef DSRUN_TESTS_INTEGRATION_TRAINING_JOB_H_
#define DSRUN_TESTS_INTEGRATION_TRAINING_JOB_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/integration/job_fixture.h"

namespace dsrun {

using Args = std::vector<std::string>;

// Steps of the runs that are disturbed: few enough for CI, and enough to be disturbed in the middle
// also by a test that gets no CPU for a while (a step takes some 2 ms).
inline constexpr int kSteps = 480;
inline constexpr int kSaveInterval = 80;

// A text that is the same on every machine, readable by every user.
std::string TextFile();

// `dsrun LAUNCHER train ... MORE` that saves to FOLDER/save and writes FOLDER/metrics.
Args Train(Args launcher, const std::string& folder, Args more = {});

// Arguments for a run of kSteps.
Args Long(Args more = {});

// A hostfile in `folder` with two loopback nodes of two slots each.
std::string TwoNodes(const std::string& folder);

// Finished steps so far, of any generation.
int64_t StepsDone(const std::string& folder);
bool AwaitStep(const Job& job, const std::string& folder, int64_t step);

// Shard files of a step that has no manifest yet: a checkpoint is being written.
bool CheckpointIsBeingWritten(const std::string& save);
// The newest manifest by its name, whole or not; "": none.
std::string NewestManifest(const std::string& save);

// The content of an undisturbed run of kSteps; the run is made once a process.
const std::string& UndisturbedHash();

// The worker of a rank in generation 1: workers start in the order of ranks, their slots say which.
pid_t WorkerOf(const Job& job, size_t index);
// False, and a failure: it is not there.
bool SignalWorker(const Job& job, size_t index, int signal);

// The end of a job that was disturbed and went on: exit code 0, the content of the undisturbed run,
// nothing left behind, and the incident in the report.
void ExpectWentOn(Job& job, const TemporaryFolder& folder);

}  // namespace dsrun

#endif  // DSRUN_TESTS_INTEGRATION_TRAINING_JOB_H_
