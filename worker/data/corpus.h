// The training text as one run of bytes (all files of the corpus, concatenated) and the samples of
// a byte-level model in it. Which window a sample is depends on the seed and the sample's index
// alone: the position of a run in its data is one integer, whatever the layout (docs/numerics.md,
// rule g).
//
// The files are mapped: nobody may shorten them while the run goes on. Threads: any, after Open.

#ifndef DSRUN_WORKER_DATA_CORPUS_H_
#define DSRUN_WORKER_DATA_CORPUS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/corpus/corpus_files.h"

namespace dsrun::worker {

class Corpus {
 public:
  // `files` as ListCorpus gives them. Errors: FAILED_PRECONDITION: a file's size is not what it
  // was; those of FileSystem.
  static absl::StatusOr<std::unique_ptr<Corpus>> Open(const std::vector<CorpusFile>& files,
                                                      FileSystem& fs = FileSystem::Real());

  int64_t size() const { return size_; }  // bytes
  // Bytes [offset, offset + into.size()). REQUIRES: they exist.
  void Read(int64_t offset, std::span<uint8_t> into) const;

  // OK if every byte is a token of a vocabulary of `vocab_size`; reads the whole text if that is
  // less than 256. Errors: INVALID_ARGUMENT: file and offset of the first byte that is none.
  absl::Status CheckVocabulary(int64_t vocab_size) const;

 private:
  struct Part {
    std::string path;
    int64_t begin;  // in the text
    std::unique_ptr<MappedFile> file;
  };
  Corpus() = default;

  std::vector<Part> parts_;
  int64_t size_ = 0;
};

// Where sample `index` begins in a text of `corpus_size` bytes: Philox4x32-10 at (seed, data order,
// index), modulo corpus_size - seq_length. REQUIRES: corpus_size > seq_length.
int64_t SampleOffset(uint64_t seed, int64_t index, int64_t corpus_size, int64_t seq_length);

// Hands out samples. Threads: any.
class SampleLoader {
 public:
  // `corpus` must outlive this. Errors: INVALID_ARGUMENT: the text is not longer than seq_length,
  // or has a byte that a vocabulary of `vocab_size` does not have.
  static absl::StatusOr<SampleLoader> Create(const Corpus& corpus, uint64_t seed,
                                             int64_t seq_length, int64_t vocab_size);

  int64_t seq_length() const { return seq_length_; }
  // tokens[t] is the byte at t of the window, targets[t] the byte after it. REQUIRES: both have
  // seq_length elements.
  void Sample(int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) const;

 private:
  SampleLoader(const Corpus& corpus, uint64_t seed, int64_t seq_length)
      : corpus_(&corpus), seed_(seed), seq_length_(seq_length) {}

  const Corpus* corpus_;
  uint64_t seed_;
  int64_t seq_length_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DATA_CORPUS_H_
