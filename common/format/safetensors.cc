#include "common/format/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

using Json = nlohmann::json;

constexpr int64_t kLengthBytes = 8;
// The published limit of a header.
constexpr int64_t kMaxHeaderBytes = 100'000'000;

int64_t DtypeBytes(const std::string& dtype) {
  static const std::map<std::string, int64_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

// Remembers the keys of the outermost object; the parser itself would keep the last of two equals.
class KeyWatcher {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key && depth == 1 &&
        !keys_.insert(value.get<std::string>()).second) {
      duplicate_ = value.get<std::string>();
    }
    return true;
  }
  const std::string& duplicate() const { return duplicate_; }

 private:
  std::set<std::string> keys_;
  std::string duplicate_;
};

absl::Status Bad(const std::string& name, const std::string& what) {
  return absl::DataLossError(absl::StrCat("entry \"", name, "\": ", what));
}

absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name, const Json& json) {
  SafetensorsEntry entry;
  entry.name = name;
  if (!json.is_object() || !json.contains("dtype") || !json["dtype"].is_string() ||
      !json.contains("shape") || !json["shape"].is_array() || !json.contains("data_offsets") ||
      !json["data_offsets"].is_array() || json["data_offsets"].size() != 2) {
    return Bad(name, "expected dtype, shape and two data_offsets");
  }
  entry.dtype = json["dtype"].get<std::string>();
  int64_t bytes = DtypeBytes(entry.dtype);
  if (bytes == 0) return Bad(name, absl::StrCat("unknown dtype \"", entry.dtype, "\""));
  for (const Json& extent : json["shape"]) {
    if (!extent.is_number_unsigned()) return Bad(name, "a shape is a list of sizes");
    entry.shape.push_back(extent.get<int64_t>());
    if (entry.shape.back() < 0 || __builtin_mul_overflow(bytes, entry.shape.back(), &bytes)) {
      return Bad(name, "its shape is too large");
    }
  }
  const Json& offsets = json["data_offsets"];
  if (!offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
    return Bad(name, "data_offsets are two byte positions");
  }
  entry.begin = offsets[0].get<int64_t>();
  entry.end = offsets[1].get<int64_t>();
  if (entry.begin < 0 || entry.end < entry.begin || entry.end - entry.begin != bytes) {
    return Bad(name, absl::StrCat("its shape needs ", Counted(bytes, "byte"), ", data_offsets say ",
                                  entry.begin, " to ", entry.end));
  }
  return entry;
}

absl::Status CheckAdjacent(const std::vector<SafetensorsEntry>& entries, int64_t data_bytes) {
  int64_t end = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != end) {
      return Bad(entry.name, absl::StrCat("begins at byte ", entry.begin,
                                          " of the data, the entry before ends at ", end));
    }
    end = entry.end;
  }
  if (end != data_bytes) {
    return absl::DataLossError(absl::StrCat("the header describes ", Counted(end, "byte"),
                                            " of data, the file has ", data_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeSafetensorsHeader(const SafetensorsHeader& header) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!header.metadata.empty()) json["__metadata__"] = header.metadata;
  for (const SafetensorsEntry& entry : header.entries) {
    json[entry.name] = {
        {"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');
  const uint64_t length = text.size();
  std::string bytes(kLengthBytes, '\0');
  std::memcpy(bytes.data(), &length, kLengthBytes);
  return bytes + text;
}

absl::StatusOr<int64_t> SafetensorsHeaderBytes(std::string_view first_eight, int64_t file_bytes) {
  if (file_bytes < kLengthBytes || first_eight.size() < kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat("a safetensors file begins with eight bytes of header "
                     "length; this file has ",
                     Counted(file_bytes, "byte")));
  }
  uint64_t length = 0;
  std::memcpy(&length, first_eight.data(), kLengthBytes);
  if (length > kMaxHeaderBytes || static_cast<int64_t>(length) > file_bytes - kLengthBytes) {
    return absl::DataLossError(absl::StrCat("the header length says ", length,
                                            " bytes, the file has ", file_bytes,
                                            ": truncated, or no safetensors file"));
  }
  return kLengthBytes + static_cast<int64_t>(length);
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view header,
                                                         int64_t file_bytes) {
  SafetensorsHeader parsed;
  ASSIGN_OR_RETURN(parsed.data_start, SafetensorsHeaderBytes(header, file_bytes));
  if (static_cast<int64_t>(header.size()) < parsed.data_start) {
    return absl::DataLossError("the file ends inside its header");
  }
  const std::string_view text =
      header.substr(kLengthBytes, static_cast<size_t>(parsed.data_start - kLengthBytes));
  KeyWatcher watcher;
  const Json json =
      Json::parse(text.begin(), text.end(), std::ref(watcher), /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::DataLossError("the header is no JSON object");
  if (!watcher.duplicate().empty()) return Bad(watcher.duplicate(), "is there twice");
  for (const auto& [name, value] : json.items()) {
    if (name != "__metadata__") {
      ASSIGN_OR_RETURN(SafetensorsEntry entry, ParseEntry(name, value));
      parsed.entries.push_back(std::move(entry));
      continue;
    }
    if (!value.is_object()) return Bad(name, "is no object");
    for (const auto& [key, text_value] : value.items()) {
      if (!text_value.is_string()) return Bad(name, absl::StrCat(key, " is no string"));
      parsed.metadata[key] = text_value.get<std::string>();
    }
  }
  std::sort(parsed.entries.begin(), parsed.entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  RETURN_IF_ERROR(CheckAdjacent(parsed.entries, file_bytes - parsed.data_start));
  return parsed;
}

std::map<std::string, std::string> SafetensorsMetadata(std::string_view header) {
  std::map<std::string, std::string> metadata;
  if (header.size() < kLengthBytes) return metadata;
  const Json json = Json::parse(header.begin() + kLengthBytes, header.end(), nullptr,
                                /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("__metadata__")) return metadata;
  for (const auto& [key, value] : json["__metadata__"].items()) {
    if (value.is_string()) metadata[key] = value.get<std::string>();
  }
  return metadata;
}

}  // namespace dsrun
