#include "tests/integration/private_mounts.h"

#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace dsrun {
namespace {

absl::Status Failed(const std::string& what) {
  return absl::PermissionDeniedError("cannot " + what + " here: " + strerror(errno));
}

std::string SizeOption(int64_t bytes) { return "size=" + std::to_string(bytes); }

}  // namespace

absl::Status UseOwnMounts() {
  static bool done = false;
  if (done) return absl::OkStatus();
  if (unshare(CLONE_NEWNS) != 0) return Failed("make a mount namespace");
  // Else what is mounted here would appear outside, too.
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return Failed("keep mounts private");
  }
  done = true;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SmallDisk>> SmallDisk::Create(const std::string& folder,
                                                             int64_t bytes) {
  if (absl::Status own = UseOwnMounts(); !own.ok()) return own;
  std::filesystem::create_directories(folder);
  if (mount("tmpfs", folder.c_str(), "tmpfs", 0, SizeOption(bytes).c_str()) != 0) {
    return Failed("mount a small file system");
  }
  return std::unique_ptr<SmallDisk>(new SmallDisk(folder));
}

SmallDisk::~SmallDisk() { umount2(folder_.c_str(), MNT_DETACH); }

absl::Status SmallDisk::Resize(int64_t bytes) {
  if (mount("tmpfs", folder_.c_str(), "tmpfs", MS_REMOUNT, SizeOption(bytes).c_str()) != 0) {
    return Failed("resize a small file system");
  }
  return absl::OkStatus();
}

absl::Status ShowInstead(const std::string& path, const std::string& shown) {
  if (absl::Status own = UseOwnMounts(); !own.ok()) return own;
  if (mount(shown.c_str(), path.c_str(), nullptr, MS_BIND, nullptr) != 0) {
    return Failed("show another " + path);
  }
  return absl::OkStatus();
}

}  // namespace dsrun
