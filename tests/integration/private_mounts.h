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

// A real disk of a few megabytes at a folder: ext4 on a loop device, which finds out that it is
// full where a tmpfs does not, at a sync or when it gives blocks to what was written before.
class LoopDisk {
 public:
  // Makes the folder, and the image beside it. Errors: PERMISSION_DENIED: not here; NOT_FOUND:
  // there is no mkfs.ext4.
  static absl::StatusOr<std::unique_ptr<LoopDisk>> Create(const std::string& folder, int64_t bytes);
  ~LoopDisk();
  // Takes all room but `bytes` away, by a file of its own in the folder; gives it back.
  absl::Status LeaveRoom(int64_t bytes);
  void GiveRoomBack();

 private:
  explicit LoopDisk(std::string folder) : folder_(std::move(folder)) {}
  std::string Ballast() const { return folder_ + "/ballast"; }
  const std::string folder_;
};

// From now on `path` shows the file `shown`.
absl::Status ShowInstead(const std::string& path, const std::string& shown);

}  // namespace dsrun

#endif  // DSRUN_TESTS_INTEGRATION_PRIVATE_MOUNTS_H_
