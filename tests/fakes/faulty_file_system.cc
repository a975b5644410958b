#include "tests/fakes/faulty_file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/base/status_macros.h"

namespace dsrun {

class FaultyWritableFile final : public WritableFile {
 public:
  FaultyWritableFile(FaultyFileSystem& fs, FaultyFileSystem::InodePtr inode)
      : fs_(fs), inode_(std::move(inode)) {}
  absl::Status Append(std::span<const std::byte> bytes) override {
    return fs_.Append(*inode_, bytes);
  }
  absl::Status Sync() override { return fs_.Sync(*inode_); }
  absl::Status Close() override { return fs_.Close(); }

 private:
  FaultyFileSystem& fs_;
  const FaultyFileSystem::InodePtr inode_;
};

class FaultyReadableFile final : public ReadableFile, public MappedFile {
 public:
  FaultyReadableFile(FaultyFileSystem& fs, std::string data) : fs_(fs), data_(std::move(data)) {}
  absl::Status ReadAt(int64_t offset, std::span<std::byte> into) override {
    return fs_.ReadAt(data_, offset, into);
  }
  std::span<const std::byte> bytes() const override { return std::as_bytes(std::span(data_)); }

 private:
  FaultyFileSystem& fs_;
  const std::string data_;
};

std::optional<FaultyFileSystem::Fault> FaultyFileSystem::NextCallLocked() {
  const int64_t number = calls_++;
  for (const PlannedFault& planned : faults_) {
    if (planned.begin <= number && number < planned.end) return planned.fault;
  }
  return std::nullopt;
}

template <typename Work>
auto FaultyFileSystem::CallLocked(const Work& work) -> decltype(work(false)) {
  const std::optional<Fault> fault = NextCallLocked();
  if (!fault.has_value()) return work(false);
  if (fault->done == Fault::Done::kNothing) return fault->status;
  auto did = work(fault->done == Fault::Done::kHalf);
  if (fault->status.ok() || !did.ok()) return did;
  return fault->status;
}

void FaultyFileSystem::BecomeCopyOf(const FaultyFileSystem& other) {
  MutexLock lock(mu_);
  MutexLock other_lock(other.mu_);
  std::map<InodePtr, InodePtr> copies;  // names share inodes
  const auto copy = [&](const Names& names) {
    Names copied;
    for (const auto& [name, inode] : names) {
      InodePtr& own = copies[inode];
      if (own == nullptr) own = std::make_shared<Inode>(*inode);
      copied[name] = own;
    }
    return copied;
  };
  names_ = copy(other.names_);
  synced_names_ = copy(other.synced_names_);
  folders_ = other.folders_;
  next_inode_ = other.next_inode_;
  exclusive_rename_ = other.exclusive_rename_;
}

int64_t FaultyFileSystem::operations() const {
  MutexLock lock(mu_);
  return operations_;
}

void FaultyFileSystem::FailOperation(int64_t n, absl::Status status) {
  MutexLock lock(mu_);
  failures_[operations_ + n] = std::move(status);
}

int64_t FaultyFileSystem::calls() const {
  MutexLock lock(mu_);
  return calls_;
}

void FaultyFileSystem::FailCalls(int64_t n, int64_t count, Fault fault) {
  MutexLock lock(mu_);
  const int64_t begin = calls_ + n;
  const int64_t most = std::numeric_limits<int64_t>::max() - begin;
  faults_.push_back({begin, begin + std::min(count, most), std::move(fault)});
}

void FaultyFileSystem::Hide(const std::string& path) {
  MutexLock lock(mu_);
  hidden_.insert(path);
}

void FaultyFileSystem::ShowAll() {
  MutexLock lock(mu_);
  hidden_.clear();
}

bool FaultyFileSystem::IsHiddenLocked(const std::string& path) const {
  return std::any_of(hidden_.begin(), hidden_.end(), [&](const std::string& hidden) {
    return path == hidden || path.starts_with(hidden + "/");
  });
}

void FaultyFileSystem::SetExclusiveRename(bool has_it) {
  MutexLock lock(mu_);
  exclusive_rename_ = has_it;
}

void FaultyFileSystem::CrashAtOperation(int64_t n) {
  MutexLock lock(mu_);
  crash_at_ = operations_ + n;
}

bool FaultyFileSystem::crashed() const {
  MutexLock lock(mu_);
  return crashed_;
}

void FaultyFileSystem::Recover(Crash crash) {
  MutexLock lock(mu_);
  if (crash == Crash::kMachine) names_ = synced_names_;
  if (crash != Crash::kProcess) {
    for (auto& [path, inode] : names_) inode->data = inode->synced;
  }
  synced_names_ = names_;
  crashed_ = false;
  crash_at_.reset();
  failures_.clear();
  faults_.clear();
}

void FaultyFileSystem::SetCapacity(int64_t bytes) {
  MutexLock lock(mu_);
  capacity_ = bytes;
}

int64_t FaultyFileSystem::UsedLocked() const {
  int64_t used = 0;
  for (const auto& [path, inode] : names_) used += static_cast<int64_t>(inode->data.size());
  return used;
}

int64_t FaultyFileSystem::used_bytes() const {
  MutexLock lock(mu_);
  return UsedLocked();
}

void FaultyFileSystem::FailReads(const std::string& path, absl::Status status) {
  MutexLock lock(mu_);
  unreadable_[path] = std::move(status);
}

void FaultyFileSystem::FlipBit(const std::string& path, int64_t byte, int bit) {
  MutexLock lock(mu_);
  std::string& data = names_.at(path)->data;
  data.at(static_cast<size_t>(byte)) ^= static_cast<char>(1 << bit);
}

void FaultyFileSystem::Truncate(const std::string& path, int64_t bytes) {
  MutexLock lock(mu_);
  names_.at(path)->data.resize(static_cast<size_t>(bytes));
}

void FaultyFileSystem::Write(const std::string& path, std::string contents) {
  MutexLock lock(mu_);
  AddFolderLocked(FolderOf(path));
  names_[path] = std::make_shared<Inode>(Inode{next_inode_++, contents, contents});
  synced_names_[path] = names_[path];
}

bool FaultyFileSystem::Exists(const std::string& path) const {
  MutexLock lock(mu_);
  return names_.contains(path) || folders_.contains(path);
}

void FaultyFileSystem::AddFolderLocked(const std::string& path) {
  if (folders_.insert(path).second && FolderOf(path) != path) AddFolderLocked(FolderOf(path));
}

absl::Status FaultyFileSystem::AliveLocked() const {
  return crashed_ ? absl::UnavailableError("crashed on purpose") : absl::OkStatus();
}

absl::Status FaultyFileSystem::BeginLocked(bool* half) {
  RETURN_IF_ERROR(AliveLocked());
  const int64_t number = operations_++;
  *half = crash_at_ == number;
  if (*half) crashed_ = true;
  const auto failure = failures_.find(number);
  return failure == failures_.end() ? absl::OkStatus() : failure->second;
}

absl::Status FaultyFileSystem::BeginLocked() {
  bool half = false;
  RETURN_IF_ERROR(BeginLocked(&half));
  return AliveLocked();  // half of an operation without bytes is nothing
}

absl::StatusOr<FaultyFileSystem::InodePtr> FaultyFileSystem::FindLocked(const std::string& path) {
  RETURN_IF_ERROR(AliveLocked());
  const auto found = names_.find(path);
  if (found != names_.end()) return found->second;
  return ErrnoStatus(folders_.contains(path) ? EISDIR : ENOENT, "open", path);
}

absl::StatusOr<FaultyFileSystem::InodePtr> FaultyFileSystem::ReadLocked(const std::string& path) {
  const auto unreadable = unreadable_.find(path);
  if (unreadable != unreadable_.end()) return unreadable->second;
  if (IsHiddenLocked(path)) return ErrnoStatus(ENOENT, "open", path);
  return FindLocked(path);
}

absl::StatusOr<FaultyFileSystem::InodePtr> FaultyFileSystem::CreateLocked(const std::string& path) {
  RETURN_IF_ERROR(BeginLocked());
  if (folders_.contains(path)) return ErrnoStatus(EISDIR, "create", path);
  if (!folders_.contains(FolderOf(path))) return ErrnoStatus(ENOENT, "create", path);
  InodePtr& inode = names_[path];
  if (inode == nullptr) inode = std::make_shared<Inode>(Inode{next_inode_++, "", ""});
  return inode;
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::CreateExclusive(
    const std::string& path) {
  using Made = absl::StatusOr<std::unique_ptr<WritableFile>>;
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> Made {
    RETURN_IF_ERROR(AliveLocked());
    if (names_.contains(path) || folders_.contains(path)) {
      return ErrnoStatus(EEXIST, "create", path);
    }
    ASSIGN_OR_RETURN(InodePtr inode, CreateLocked(path));
    return std::make_unique<FaultyWritableFile>(*this, std::move(inode));
  });
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::CreateOrTruncate(
    const std::string& path) {
  using Made = absl::StatusOr<std::unique_ptr<WritableFile>>;
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> Made {
    ASSIGN_OR_RETURN(InodePtr inode, CreateLocked(path));
    inode->data.clear();
    return std::make_unique<FaultyWritableFile>(*this, std::move(inode));
  });
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::OpenToAppend(
    const std::string& path) {
  using Made = absl::StatusOr<std::unique_ptr<WritableFile>>;
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> Made {
    ASSIGN_OR_RETURN(InodePtr inode, CreateLocked(path));
    return std::make_unique<FaultyWritableFile>(*this, std::move(inode));
  });
}

absl::StatusOr<std::unique_ptr<ReadableFile>> FaultyFileSystem::OpenToRead(
    const std::string& path) {
  using Opened = absl::StatusOr<std::unique_ptr<ReadableFile>>;
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> Opened {
    ASSIGN_OR_RETURN(const InodePtr inode, ReadLocked(path));
    return std::make_unique<FaultyReadableFile>(*this, inode->data);
  });
}

absl::StatusOr<std::unique_ptr<MappedFile>> FaultyFileSystem::Map(const std::string& path) {
  using Opened = absl::StatusOr<std::unique_ptr<MappedFile>>;
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> Opened {
    ASSIGN_OR_RETURN(const InodePtr inode, ReadLocked(path));
    return std::make_unique<FaultyReadableFile>(*this, inode->data);
  });
}

absl::Status FaultyFileSystem::ReadAt(const std::string& data, int64_t offset,
                                      std::span<std::byte> into) {
  MutexLock lock(mu_);
  return CallLocked([&](bool half) -> absl::Status {
    const size_t size = half ? into.size() / 2 : into.size();
    if (offset + static_cast<int64_t>(into.size()) > static_cast<int64_t>(data.size())) {
      return absl::OutOfRangeError("the file ends before");
    }
    if (size > 0) std::memcpy(into.data(), data.data() + offset, size);
    if (size < into.size()) return absl::OutOfRangeError("the file ends before: a short read");
    return absl::OkStatus();
  });
}

absl::Status FaultyFileSystem::Rename(const std::string& from, const std::string& to,
                                      IfExists if_exists) {
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> absl::Status {
    RETURN_IF_ERROR(BeginLocked());
    if (if_exists == IfExists::kFail && !exclusive_rename_) {
      return absl::UnimplementedError("no exclusive rename and no hard links");
    }
    ASSIGN_OR_RETURN(const InodePtr inode, FindLocked(from));
    if (if_exists == IfExists::kFail && (names_.contains(to) || folders_.contains(to))) {
      return ErrnoStatus(EEXIST, "rename " + from + " to", to);
    }
    names_.erase(from);
    names_[to] = inode;
    return absl::OkStatus();
  });
}

absl::Status FaultyFileSystem::RemoveFile(const std::string& path) {
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> absl::Status {
    RETURN_IF_ERROR(BeginLocked());
    RETURN_IF_ERROR(FindLocked(path).status());
    names_.erase(path);
    return absl::OkStatus();
  });
}

absl::Status FaultyFileSystem::CreateFolder(const std::string& path) {
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> absl::Status {
    RETURN_IF_ERROR(BeginLocked());
    if (names_.contains(path)) return ErrnoStatus(EEXIST, "create folder", path);
    AddFolderLocked(path);
    return absl::OkStatus();
  });
}

absl::Status FaultyFileSystem::SyncFolder(const std::string& path) {
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> absl::Status {
    RETURN_IF_ERROR(BeginLocked());
    if (!folders_.contains(path)) return ErrnoStatus(ENOENT, "open folder", path);
    std::erase_if(synced_names_, [&](const auto& name) { return FolderOf(name.first) == path; });
    for (const auto& [name, inode] : names_) {
      if (FolderOf(name) == path) synced_names_[name] = inode;
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<FileInfo> FaultyFileSystem::Stat(const std::string& path) {
  MutexLock lock(mu_);
  return CallLocked([&](bool half) -> absl::StatusOr<FileInfo> {
    RETURN_IF_ERROR(AliveLocked());
    if (IsHiddenLocked(path)) return ErrnoStatus(ENOENT, "look at", path);
    if (folders_.contains(path)) {
      // Folders have no inode here; their place in the order is as good.
      const auto place = std::distance(folders_.begin(), folders_.find(path));
      return FileInfo{FileKind::kFolder, 0, 2, static_cast<uint64_t>(place)};
    }
    const auto found = names_.find(path);
    if (found == names_.end()) return ErrnoStatus(ENOENT, "look at", path);
    const Inode& inode = *found->second;
    const auto bytes = static_cast<int64_t>(inode.data.size());
    return FileInfo{FileKind::kRegular, half ? bytes / 2 : bytes, 1, inode.number};
  });
}

absl::StatusOr<std::vector<std::string>> FaultyFileSystem::List(const std::string& path) {
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> absl::StatusOr<std::vector<std::string>> {
    RETURN_IF_ERROR(AliveLocked());
    if (!folders_.contains(path) || IsHiddenLocked(path)) {
      return ErrnoStatus(ENOENT, "list folder", path);
    }
    std::vector<std::string> names;
    const auto add = [&](const std::string& name) {
      if (name != path && FolderOf(name) == path && !IsHiddenLocked(name)) {
        names.push_back(name.substr(name.rfind('/') + 1));
      }
    };
    for (const auto& [name, inode] : names_) add(name);
    for (const std::string& name : folders_) add(name);
    std::sort(names.begin(), names.end());
    return names;
  });
}

absl::Status FaultyFileSystem::Append(Inode& inode, std::span<const std::byte> bytes) {
  MutexLock lock(mu_);
  return CallLocked([&](bool cut) -> absl::Status {
    bool half = false;
    RETURN_IF_ERROR(BeginLocked(&half));
    if (half || cut) bytes = bytes.first(bytes.size() / 2);
    const int64_t room = std::max<int64_t>(0, capacity_ - UsedLocked());
    const size_t fits = std::min(bytes.size(), static_cast<size_t>(room));
    inode.data.append(reinterpret_cast<const char*>(bytes.data()), fits);
    RETURN_IF_ERROR(AliveLocked());
    if (fits < bytes.size()) return ErrnoStatus(ENOSPC, "write to", "a file");
    return absl::OkStatus();
  });
}

absl::Status FaultyFileSystem::Sync(Inode& inode) {
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> absl::Status {
    RETURN_IF_ERROR(BeginLocked());
    inode.synced = inode.data;
    return absl::OkStatus();
  });
}

absl::Status FaultyFileSystem::Close() {
  MutexLock lock(mu_);
  return CallLocked([&](bool) -> absl::Status { return BeginLocked(); });
}

}  // namespace dsrun
