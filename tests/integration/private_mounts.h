// Mounts that only this test process and its children see, gone with the last of them whatever
// happens. Needs root; where mounting is not permitted, Create says so, and the test is skipped
// with that reason.

#ifndef DSRUN_TESTS_INTEGRATION_PRIVATE_MOUNTS_H_
#define DSRUN_TESTS_INTEGRATION_PRIVATE_MOUNTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dsrun {

// Puts this thread, and what it starts from now on, into a mount namespace of its own. Call it
// from the main thread before any other is started; a second call does nothing.
// Errors: PERMISSION_DENIED: not here.
absl::Status UseOwnMounts();

// A real file system of a few bytes at a folder.
class SmallDisk {
 public:
  // Makes the folder. Errors: PERMISSION_DENIED, as above.
  static absl::StatusOr<std::unique_ptr<SmallDisk>> Create(const std::string& folder,
                                                           int64_t bytes);
  ~SmallDisk();
  absl::Status Resize(int64_t bytes);

 private:
  explicit SmallDisk(std::string folder) : folder_(std::move(folder)) {}
  const std::string folder_;
};

// From now on `path` shows the file `shown`.
absl::Status ShowInstead(const std::string& path, const std::string& shown);

}  // namespace dsrun

#endif  // DSRUN_TESTS_INTEGRATION_PRIVATE_MOUNTS_H_
