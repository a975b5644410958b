#include "tests/integration/private_mounts.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

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

absl::StatusOr<std::unique_ptr<LoopDisk>> LoopDisk::Create(const std::string& folder,
                                                           int64_t bytes) {
  if (absl::Status own = UseOwnMounts(); !own.ok()) return own;
  const std::string path = "PATH=$PATH:/usr/sbin:/sbin; ";  // of administrators
  if (std::system((path + "command -v mkfs.ext4 >/dev/null").c_str()) != 0) {
    return absl::NotFoundError("there is no mkfs.ext4 here");
  }
  std::filesystem::create_directories(folder);
  const std::string image = folder + ".image";
  std::ofstream(image).close();
  std::filesystem::resize_file(image, static_cast<uint64_t>(bytes));
  const std::string make = path + "mkfs.ext4 -q -m 0 '" + image + "' && mount -o loop '" + image +
                           "' '" + folder + "' 2>/dev/null";
  if (std::system(make.c_str()) != 0) {
    return absl::PermissionDeniedError("no loop device can be mounted here");
  }
  return std::unique_ptr<LoopDisk>(new LoopDisk(folder));
}

LoopDisk::~LoopDisk() { umount2(folder_.c_str(), MNT_DETACH); }

absl::Status LoopDisk::LeaveRoom(int64_t bytes) {
  const auto free = static_cast<int64_t>(std::filesystem::space(folder_).available);
  const int file = open(Ballast().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return Failed("make a ballast");
  const int error = posix_fallocate(file, 0, free - bytes);
  close(file);
  return error == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error, "fill a disk");
}

void LoopDisk::GiveRoomBack() { std::filesystem::remove(Ballast()); }

absl::Status ShowInstead(const std::string& path, const std::string& shown) {
  if (absl::Status own = UseOwnMounts(); !own.ok()) return own;
  if (mount(shown.c_str(), path.c_str(), nullptr, MS_BIND, nullptr) != 0) {
    return Failed("show another " + path);
  }
  return absl::OkStatus();
}

}  // namespace dsrun
