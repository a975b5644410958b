// The safetensors container (https://huggingface.co/docs/safetensors): eight bytes of little-endian
// header length, a JSON header, then the tensors' bytes, adjacent and in the order of the header.
// We write one-dimensional F32 entries; any safetensors reader can open the files. Pure text and
// arithmetic; reading and writing files is the caller's. Any thread.

#ifndef DSRUN_COMMON_FORMAT_SAFETENSORS_H_
#define DSRUN_COMMON_FORMAT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dsrun {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "F32", ...
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes, from the start of the data
  int64_t end = 0;
  friend bool operator==(const SafetensorsEntry&, const SafetensorsEntry&) = default;
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;  // in the order of their bytes
  int64_t data_start = 0;                 // bytes, from the start of the file; a multiple of 8
};

// Length and header, padded with spaces so that the data begins at a multiple of eight.
// header.data_start is not looked at. REQUIRES: entries adjacent from 0 on, names unique.
std::string EncodeSafetensorsHeader(const SafetensorsHeader& header);

// How many bytes from the start of the file ParseSafetensorsHeader needs, from the first eight.
// Errors: DATA_LOSS: not the start of a safetensors file of `file_bytes` bytes.
absl::StatusOr<int64_t> SafetensorsHeaderBytes(std::string_view first_eight, int64_t file_bytes);

// Errors: DATA_LOSS: bad JSON, a name twice, an unknown dtype, sizes that contradict shapes, holes
// or overlaps in the data, data that does not end where the file ends. The message does not name
// the file.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view header,
                                                         int64_t file_bytes);

// The metadata alone, of a file whose data may be cut short: what a writer that died says of
// itself. Empty if the header is not whole.
std::map<std::string, std::string> SafetensorsMetadata(std::string_view header);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_SAFETENSORS_H_
