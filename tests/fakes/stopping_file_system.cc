#include "tests/fakes/stopping_file_system.h"

#include <cstddef>
#include <span>

#include "common/base/status_macros.h"

namespace dsrun {

class StoppingWritableFile final : public WritableFile {
 public:
  StoppingWritableFile(StoppingFileSystem& fs, std::unique_ptr<WritableFile> file)
      : fs_(fs), file_(std::move(file)) {}
  absl::Status Append(std::span<const std::byte> bytes) override {
    if (!fs_.IsNext()) return file_->Append(bytes);
    const size_t half = bytes.size() / 2;
    RETURN_IF_ERROR(file_->Append(bytes.first(half)));
    fs_.pause_();
    return file_->Append(bytes.subspan(half));
  }
  absl::Status Sync() override {
    fs_.Begin();
    return file_->Sync();
  }
  absl::Status Close() override {
    fs_.Begin();
    return file_->Close();
  }

 private:
  StoppingFileSystem& fs_;
  const std::unique_ptr<WritableFile> file_;
};

absl::StatusOr<std::unique_ptr<WritableFile>> StoppingFileSystem::Watched(
    absl::StatusOr<std::unique_ptr<WritableFile>> file) {
  RETURN_IF_ERROR(file.status());
  return std::make_unique<StoppingWritableFile>(*this, *std::move(file));
}

absl::StatusOr<std::unique_ptr<WritableFile>> StoppingFileSystem::CreateExclusive(
    const std::string& path) {
  Begin();
  return Watched(real_.CreateExclusive(path));
}

absl::StatusOr<std::unique_ptr<WritableFile>> StoppingFileSystem::CreateOrTruncate(
    const std::string& path) {
  Begin();
  return Watched(real_.CreateOrTruncate(path));
}

absl::StatusOr<std::unique_ptr<WritableFile>> StoppingFileSystem::OpenToAppend(
    const std::string& path) {
  Begin();
  return Watched(real_.OpenToAppend(path));
}

absl::StatusOr<std::unique_ptr<ReadableFile>> StoppingFileSystem::OpenToRead(
    const std::string& path) {
  return real_.OpenToRead(path);
}

absl::StatusOr<std::unique_ptr<MappedFile>> StoppingFileSystem::Map(const std::string& path) {
  return real_.Map(path);
}

absl::Status StoppingFileSystem::Rename(const std::string& from, const std::string& to,
                                        IfExists if_exists) {
  Begin();
  return real_.Rename(from, to, if_exists);
}

absl::Status StoppingFileSystem::RemoveFile(const std::string& path) {
  Begin();
  return real_.RemoveFile(path);
}

absl::Status StoppingFileSystem::CreateFolder(const std::string& path) {
  Begin();
  return real_.CreateFolder(path);
}

absl::Status StoppingFileSystem::SyncFolder(const std::string& path) {
  Begin();
  return real_.SyncFolder(path);
}

absl::StatusOr<FileInfo> StoppingFileSystem::Stat(const std::string& path) {
  return real_.Stat(path);
}

absl::StatusOr<std::vector<std::string>> StoppingFileSystem::List(const std::string& path) {
  return real_.List(path);
}

}  // namespace dsrun
