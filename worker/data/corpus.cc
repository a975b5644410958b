#include "worker/data/corpus.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/philox.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {

absl::StatusOr<std::unique_ptr<Corpus>> Corpus::Open(const std::vector<CorpusFile>& files,
                                                     FileSystem& fs) {
  std::unique_ptr<Corpus> corpus(new Corpus);
  for (const CorpusFile& file : files) {
    ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapped, fs.Map(file.path));
    const int64_t bytes = static_cast<int64_t>(mapped->bytes().size());
    if (bytes != file.bytes) {
      return absl::FailedPreconditionError(absl::StrCat("training text ", file.path, ": expected ",
                                                        file.bytes, " bytes, got ", bytes,
                                                        "; it must not change while a job runs"));
    }
    corpus->parts_.push_back({file.path, corpus->size_, std::move(mapped)});
    corpus->size_ += bytes;
  }
  return corpus;
}

void Corpus::Read(int64_t offset, std::span<uint8_t> into) const {
  CHECK(offset >= 0 && offset + static_cast<int64_t>(into.size()) <= size_);
  auto part = std::upper_bound(parts_.begin(), parts_.end(), offset,
                               [](int64_t at, const Part& p) { return at < p.begin; });
  for (--part; !into.empty(); ++part) {
    const std::span<const std::byte> bytes =
        part->file->bytes().subspan(static_cast<size_t>(offset - part->begin));
    const size_t n = std::min(bytes.size(), into.size());
    if (n > 0) std::memcpy(into.data(), bytes.data(), n);
    into = into.subspan(n);
    offset += static_cast<int64_t>(n);
  }
}

absl::Status Corpus::CheckVocabulary(int64_t vocab_size) const {
  if (vocab_size >= 256) return absl::OkStatus();
  for (const Part& part : parts_) {
    const std::span<const std::byte> bytes = part.file->bytes();
    const auto foreign = std::ranges::find_if(
        bytes, [&](std::byte byte) { return std::to_integer<int64_t>(byte) >= vocab_size; });
    if (foreign == bytes.end()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "training text ", part.path, ", byte ", foreign - bytes.begin(), ": expected less than ",
        vocab_size, ", the vocabulary of the model, got ", std::to_integer<int>(*foreign),
        "; a model of bytes needs a vocabulary of 256, or a text without such bytes"));
  }
  return absl::OkStatus();
}

int64_t SampleOffset(uint64_t seed, int64_t index, int64_t corpus_size, int64_t seq_length) {
  const PhiloxBlock bits =
      RandomAt(seed, RandomPurpose::kDataOrder, /*stream=*/0, static_cast<uint64_t>(index));
  // The remainder favours small offsets by less than size / 2^64: nobody will see it.
  return static_cast<int64_t>(RandomU64(bits) % static_cast<uint64_t>(corpus_size - seq_length));
}

absl::StatusOr<SampleLoader> SampleLoader::Create(const Corpus& corpus, uint64_t seed,
                                                  int64_t seq_length, int64_t vocab_size) {
  if (corpus.size() <= seq_length) {
    return absl::InvalidArgumentError(
        absl::StrCat("the training text has ", corpus.size(), " bytes; expected more than ",
                     seq_length, " (--seq-length); give more text or a shorter sequence"));
  }
  RETURN_IF_ERROR(corpus.CheckVocabulary(vocab_size));
  return SampleLoader(corpus, seed, seq_length);
}

void SampleLoader::Sample(int64_t index, std::span<int32_t> tokens,
                          std::span<int32_t> targets) const {
  const size_t length = static_cast<size_t>(seq_length_);
  CHECK(tokens.size() == length && targets.size() == length);
  std::vector<uint8_t> window(length + 1);
  corpus_->Read(SampleOffset(seed_, index, corpus_->size(), seq_length_), window);
  std::copy(window.begin(), window.end() - 1, tokens.begin());
  std::copy(window.begin() + 1, window.end(), targets.begin());
}

}  // namespace dsrun::worker
